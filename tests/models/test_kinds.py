"""Which parameters stay float32 where others are bfloat16."""

import pytest

from skyreels_jax.core.tree import named_leaves
from skyreels_jax.models.kinds import abstract_model, in_float32
from skyreels_jax.testing.micro import micro_configs


@pytest.mark.parametrize("name", ["transformer", "text_encoder"])
def test_what_is_computed_in_float32_stays_so(name):
    shapes = dict(named_leaves(abstract_model(name, micro_configs()[name])[1]))
    kept = {path for path in shapes if in_float32(path)}
    assert kept == {path for path in shapes if in_float32(f"{name}/{path}")}
    if name == "transformer":
        assert {"blocks/modulation", "head_modulation", "blocks/norm2/bias"} <= kept
        assert {"blocks/attn1/norm_q/scale", "time_proj/kernel", "time_embedder/up/bias"} <= kept
    else:
        assert kept == {"blocks/norm1/scale", "blocks/norm2/scale", "norm/scale"}
    # No product of a block is among them.
    assert not {path for path in kept if path.startswith("blocks/") and path.endswith("kernel")}
