"""The optimiser: which parameter gets which update, how large, and when."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skyreels_jax.core.errors import UserError
from skyreels_jax.training.config import OptimizerConfig, StageConfig, TrainConfig
from skyreels_jax.training.optimizer import make_optimizer, muon_axes, schedule


def params():
    key = jax.random.key(0)
    shapes = {
        "blocks": {"q": {"kernel": (3, 8, 16), "bias": (3, 16)}},
        "conv": {"kernel": (3, 3, 3, 4, 16)},
        "embedding": (20, 8),
        "head": {"kernel": (16, 8)},
        "norm": {"scale": (16,)},
    }
    return jax.tree.map(
        lambda shape: jax.random.normal(key, shape), shapes, is_leaf=lambda s: isinstance(s, tuple)
    )


def test_muon_takes_kernels_and_keeps_stacked_layers_apart():
    axes = muon_axes(OptimizerConfig(adam_paths=("head/kernel",)), params())
    assert axes["blocks"]["q"]["kernel"] == ((1,), (2,))
    assert axes["conv"]["kernel"] == ((0, 1, 2, 3), (4,))
    assert axes["embedding"] is axes["norm"]["scale"] is axes["blocks"]["q"]["bias"] is None
    assert axes["head"]["kernel"] is None


def test_muon_updates_have_the_stated_size_and_are_nearly_orthogonal():
    config = OptimizerConfig(warmup_steps=0, learning_rate=0.5, muon_rms=0.2, clip_norm=0.0)
    tree = params()
    tx = make_optimizer(config, tree, 100)
    updates, _ = tx.update(tree, tx.init(tree), tree)
    for update in (updates["blocks"]["q"]["kernel"][1], updates["conv"]["kernel"].reshape(-1, 16)):
        rms = float(jnp.sqrt(jnp.mean(jnp.square(update))))
        assert 0.07 < rms < 0.12  # 0.5 * 0.2, to the accuracy of five Newton-Schulz steps
        singular = np.linalg.svd(np.asarray(update), compute_uv=False)
        assert singular.min() > 0.5 * singular.max()


def test_a_stack_is_updated_as_its_layers_are():
    config = OptimizerConfig(warmup_steps=0)
    tree = {"q": {"kernel": jax.random.normal(jax.random.key(1), (2, 6, 5))}}
    tx = make_optimizer(config, tree, 10)
    stacked = tx.update(tree, tx.init(tree), tree)[0]["q"]["kernel"]
    for layer in range(2):
        one = jax.tree.map(lambda x, i=layer: x[i] / 1.0, tree)
        tx = make_optimizer(OptimizerConfig(warmup_steps=0, clip_norm=0.0), one, 10)
        alone = tx.update(one, tx.init(one), one)[0]["q"]["kernel"]
        np.testing.assert_allclose(stacked[layer], alone, atol=1e-5)


def test_schedule_warms_up_holds_and_falls_to_its_end():
    config = OptimizerConfig(warmup_steps=10, decay_start=0.5, final_scale=0.1)
    values = np.array([schedule(config, 100)(step) for step in range(101)])
    np.testing.assert_allclose(values[[0, 9, 10, 49]], [0.1, 0.91, 1, 1], atol=1e-6)
    np.testing.assert_allclose(values[[75, 100]], [0.55, 0.1], atol=1e-6)
    cosine = schedule(OptimizerConfig(warmup_steps=0, decay_start=0.0, decay="cosine"), 100)
    np.testing.assert_allclose([cosine(0), cosine(50), cosine(100)], [1, 0.5, 0], atol=1e-6)


@pytest.mark.parametrize("field", ["adam_paths", "frozen"])
def test_a_pattern_that_matches_nothing_is_an_error(field):
    with pytest.raises(UserError, match=r"'heads/.*' matches no parameter path"):
        make_optimizer(OptimizerConfig(**{field: ("heads/.*",)}), params(), 10)


def test_patterns_may_name_weights_that_are_no_parameters():
    config = OptimizerConfig(adam_paths=("heads/.*",), frozen=("heads/kernel",), warmup_steps=0)
    tx = make_optimizer(config, params(), 10, fixed={"heads": {"kernel": np.zeros((2, 2))}})
    updates, _ = tx.update(params(), tx.init(params()), params())
    assert all(leaf.any() for leaf in jax.tree.leaves(updates))


def test_bad_values_are_refused():
    with pytest.raises(UserError, match="fraction"):
        OptimizerConfig(decay_start=2.0)
    with pytest.raises(UserError, match=r"4k \+ 1"):
        StageConfig(steps=1, batch=1, frames=8)
    with pytest.raises(UserError, match="batch >= 1"):
        StageConfig(steps=1, batch=0)


def test_stage_of_a_step():
    from skyreels_jax.training.config import DataConfig

    stages = (
        StageConfig(steps=2, batch=1),
        StageConfig(steps=0, batch=1),
        StageConfig(steps=3, batch=1),
    )
    config = TrainConfig(
        kind="vae",
        out="x",
        model=None,
        objective=None,
        data=DataConfig(),
        stages=stages,
        optimizer=OptimizerConfig(),
    )
    assert config.total_steps == 5
    assert [config.stage_at(step) for step in range(5)] == [(0, 0), (0, 1), (2, 0), (2, 1), (2, 2)]
    with pytest.raises(UserError):
        config.stage_at(5)
