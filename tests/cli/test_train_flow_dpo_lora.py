"""Motion learning with adapters: the base is held once, the reference is the adapters as they were.

Films and their ranking are those of test_train_flow_dpo; here it is about the parameters.
"""

import handmade_rewards
import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file
from test_train_flow_dpo import root, rows, train  # noqa: F401

from skyreels_jax.checkpoint import Checkpoints
from skyreels_jax.cli.recipes import run
from skyreels_jax.core.tree import count_parameters, named_leaves
from skyreels_jax.models import layout
from skyreels_jax.pipelines import load
from skyreels_jax.pipelines.convert import FILE
from skyreels_jax.testing.raw_state import raw_state
from skyreels_jax.weights.lora import read_lora
from skyreels_jax.weights.merge import merge
from skyreels_jax.weights.reader import open_source

LORA = ["--set", "lora={'rank': 2, 'alpha': 4.0}"]
PART = "transformer"


def weights(place):
    module = load.find(str(place)).read("float32")[PART]
    return nnx.to_pure_dict(nnx.state(module))


def adapters(out, stage):
    """The averaged adapters of a stage, and which run it says it started from."""
    with Checkpoints(out / f"stage_{stage}" / "checkpoints") as checkpoints:
        start = checkpoints.config(checkpoints.latest())["start"]
    return raw_state(out / f"stage_{stage}")["ema"], start


@pytest.fixture(scope="module")
def whole(root):  # noqa: F811
    """A run of two stages, and what `fit` was given in each."""
    given, fit = [], run.fit

    def look(step, like, begin, *, rest, frozen, **options):
        given.append(jax.device_get((begin(), rest, frozen)))
        return fit(step, like, begin, rest=rest, frozen=frozen, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "fit", look)
        assert train(root, root / "lora", *LORA, "--export_dtype", "float32") == 0
    return root / "lora", given


def test_the_reference_is_small_and_the_base_is_held_once(whole):
    for state, rest, frozen in whole[1]:
        small = count_parameters(state.params)
        assert count_parameters(frozen) == small < count_parameters(rest) / 10
        assert all("/adapter/" in path for path, _ in named_leaves(frozen))
        jax.tree.map(np.testing.assert_array_equal, frozen, state.params)
    (first, base, _), (second, other, _) = whole[1]
    jax.tree.map(np.testing.assert_array_equal, base, other)
    assert not any(leaf.any() for path, leaf in named_leaves(first.params) if "/up/k" in path[-9:])
    averaged = adapters(whole[0], 1)[0]
    jax.tree.map(np.testing.assert_array_equal, second.params, averaged)


def test_every_stage_begins_with_nothing_but_ties(root, whole):  # noqa: F811
    out = whole[0]
    for stage, row in enumerate(rows(out)[1:], 1):
        log = (out / f"stage_{stage}" / "metrics.csv").read_text().splitlines()
        found = dict(zip(log[0].split(","), log[1].split(","), strict=True))
        assert float(found["loss"]) == pytest.approx(np.log(2), abs=1e-3)
        assert float(found["implicit_accuracy"]) == 0.5
        assert row["steps"] == 4 and row["drift"] > 0
        made, start = adapters(out, stage)
        assert start == str(root / "start")
        assert all(leaf.any() for leaf in jax.tree.leaves(made))


def test_the_adapter_of_the_last_stage_is_the_whole_change(root, whole):  # noqa: F811
    out = whole[0]
    config = load.find(str(root / "start")).configs[PART]
    table, abstract = (
        layout.KINDS[PART].diffusers_table(config),
        layout.abstract_model(PART, config),
    )
    source = open_source(out / "export" / FILE)
    assert len(load_file(out / "export" / FILE)) == 2 * 2 * 10
    merged = merge(weights(root / "start"), [(read_lora(source, [table], abstract[1]), 1.0)])
    for place in (out / "export", out / "stage_2"):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), merged, weights(place)
        )
    before = weights(out / "stage_1")
    assert not np.array_equal(
        before["blocks"]["ffn"]["up"]["kernel"], merged["blocks"]["ffn"]["up"]["kernel"]
    )


def test_refusals_come_before_any_film(root, tmp_path, capfd):  # noqa: F811
    handmade_rewards.CALLS.clear()
    for said, message in (
        ("{'rank': 99, 'alpha': 4.0}", "lora.rank: 99 is more than the smallest of the layers"),
        ("{'rank': 2, 'alpha': 4.0, 'targets': ('x',)}", "'x' matches no linear layer; legal"),
    ):
        assert train(root, tmp_path / "bad", "--set", f"lora={said}") == 2
        assert message in capfd.readouterr().err
    assert handmade_rewards.CALLS == []


def test_what_adapters_are_stays_in_a_run_in_stages(root, whole, capfd):  # noqa: F811
    assert train(root, whole[0], "--set", "lora={'rank': 2, 'alpha': 2.0}") == 2
    assert "lora.alpha: 4.0 -> 2.0: not in a run that has finished" in capfd.readouterr().err
