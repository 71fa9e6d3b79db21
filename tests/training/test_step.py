"""The train step on a toy network: weighting, accumulation, skipping, freezing, averaging,
recompilation.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from skyreels_jax.core.rng import stream
from skyreels_jax.core.tree import named_leaves
from skyreels_jax.objectives.base import COUNT, LossOutput, report
from skyreels_jax.training import ema
from skyreels_jax.training.config import OptimizerConfig, PolicyConfig
from skyreels_jax.training.optimizer import is_trained, make_optimizer
from skyreels_jax.training.state import init_state
from skyreels_jax.training.step import make_train_step


class Net(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(3, 4, rngs=rngs), nnx.Linear(4, 2, rngs=rngs)])

    def __call__(self, x):
        return self.layers[1](jnp.tanh(self.layers[0](x.astype(self.layers[0].kernel.dtype))))


def weighted(model, batch, key, *, frozen=None):
    """A loss with a weight per sample and, with "noise" in the batch, randomness."""
    x = batch["x"]
    if "shift" in batch:
        x = x + batch["shift"]
    if "noise" in batch:
        x = x + jax.random.normal(key, x.shape)
    error = jnp.mean(jnp.square(model(x).astype(jnp.float32)), axis=-1) * batch["weight"]
    return LossOutput(error.sum(), batch["weight"].sum(), {"error": error.sum()})


def batch(seed=0, size=8):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((size, 3)).astype(np.float32)
    return {"x": x, "weight": rng.uniform(0, 2, size).astype(np.float32)}


def build(tx=None, **options):
    graphdef, params, rest = nnx.split(Net(nnx.Rngs(0)), nnx.Param, ...)
    params = nnx.to_pure_dict(params)
    tx = optax.sgd(0.1) if tx is None else tx(params)
    step = make_train_step(weighted, tx, graphdef, seed=7, **options)
    state = init_state(params, tx, ema=options.get("ema_decay") is not None)
    jitted = jax.jit(step, donate_argnums=0)
    return lambda state, batch: jitted(state, batch, rest), state


def test_what_is_kept_is_not_rounded_for_the_forward_pass():
    seen = {}

    def look(model, batch, key, *, frozen=None):
        for name, leaf in named_leaves(nnx.to_pure_dict(nnx.state(model, nnx.Param))):
            seen[name] = leaf.dtype.name
        seen["frozen"] = [leaf.dtype.name for _, leaf in named_leaves(frozen)]
        return weighted(model, batch, key)

    graphdef, params, rest = nnx.split(Net(nnx.Rngs(0)), nnx.Param, ...)
    params = nnx.to_pure_dict(params)
    tx = optax.sgd(0.1)
    options = {"compute_dtype": jnp.bfloat16, "kept": lambda path: path.endswith("1/bias")}
    step = make_train_step(look, tx, graphdef, seed=7, **options)
    state, metrics = jax.jit(step)(init_state(params, tx, ema=False), batch(), rest, params)
    kinds = {name: "bfloat16" for name, _ in named_leaves(params)} | {"layers/1/bias": "float32"}
    assert seen == kinds | {"frozen": list(kinds.values())}
    assert {leaf.dtype.name for leaf in jax.tree.leaves(state.params)} == {"float32"}
    assert np.isfinite(metrics["loss"])


def test_accumulation_is_the_exact_weighted_mean():
    plain, state = build()
    want, metrics = plain(state, batch())
    for count in (2, 4, 8):
        step, state = build(accumulate=count)
        got, others = step(state, batch())
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), got, want)
        assert metrics.keys() == others.keys()
        for name in metrics:
            np.testing.assert_allclose(others[name], metrics[name], rtol=1e-5)


def test_a_single_row_is_for_all_clips_of_all_micro_batches():
    shift = np.array([[1.0, -2.0, 3.0]], np.float32)
    found = []
    for count, rows in ((1, 8), (4, 8), (1, 1), (4, 1)):
        step, state = build(accumulate=count)
        found.append(step(state, batch() | {"shift": np.repeat(shift, rows, axis=0)})[0])
    for other in found[1:]:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found[0], other)


def test_a_bins_mean_is_exact_over_micro_batches_that_may_have_none_of_it():
    def binned(model, batch, key, *, frozen=None):
        error = jnp.mean(jnp.square(model(batch["x"])), axis=-1)
        sums = {}
        for index in range(3):
            inside = (batch["bin"] == index).astype(jnp.float32)
            sums |= {f"q{index}": (error * inside).sum(), f"q{index}{COUNT}": inside.sum()}
        return LossOutput(error.sum(), jnp.float32(len(error)), sums)

    graphdef, params, rest = nnx.split(Net(nnx.Rngs(0)), nnx.Param, ...)
    data = {"x": batch()["x"], "bin": np.array([0, 0, 0, 0, 0, 1, 0, 1])}  # of the last one: none
    step = jax.jit(make_train_step(binned, optax.sgd(0.1), graphdef, seed=0, accumulate=4))
    state = init_state(nnx.to_pure_dict(params), optax.sgd(0.1), ema=False)
    _, metrics = step(state, data, rest)
    error = np.mean(np.square(np.asarray(Net(nnx.Rngs(0))(data["x"]))), axis=-1)
    told = report(jax.device_get(metrics))
    assert "q2" not in told
    for index in (0, 1):
        np.testing.assert_allclose(told[f"q{index}"], error[data["bin"] == index].mean(), rtol=1e-5)


def test_micro_batches_draw_different_noise():
    step, state = build(accumulate=2)
    half = {"x": np.ones((1, 3), np.float32), "weight": np.ones(1, np.float32)}
    both = {k: np.concatenate([v, v]) for k, v in half.items()} | {"noise": np.zeros(2)}
    _, metrics = step(state, both)
    key = stream(7, "step", 0)
    model = Net(nnx.Rngs(0))
    losses = [
        float(weighted(model, half | {"noise": 0}, jax.random.fold_in(key, i)).total)
        for i in (0, 1)
    ]
    assert abs(losses[0] - losses[1]) > 1e-3
    np.testing.assert_allclose(metrics["loss"], np.mean(losses), rtol=1e-5)


def test_non_finite_gradients_skip_the_step_and_are_counted():
    step, state = build(tx=lambda p: optax.adam(0.1), ema_decay=0.9)
    before = jax.device_get(state)
    bad = batch() | {"x": np.full((8, 3), np.nan, np.float32)}
    state, metrics = step(state, bad)
    after = jax.device_get(state)
    assert (int(after.step), int(after.skipped), float(metrics["skipped"])) == (1, 1, 1.0)
    for name in ("params", "opt_state", "ema"):
        jax.tree.map(np.testing.assert_array_equal, getattr(after, name), getattr(before, name))
    state, metrics = step(state, batch())
    assert (int(state.step), int(state.skipped), float(metrics["skipped"])) == (2, 1, 0.0)
    assert np.isfinite(metrics["loss"])


def test_frozen_parameters_stay_and_the_others_move():
    frozen = PolicyConfig(paths="layers/0/.*", frozen=True)
    config = OptimizerConfig(policies=(frozen,), weight_decay=0.1, warmup_steps=0)
    step, state = build(lambda p: make_optimizer(config, p, 10), trained=is_trained(config))
    before = jax.device_get(state.params)
    for _ in range(2):
        state, _ = step(state, batch())
    after = jax.device_get(state.params)
    jax.tree.map(np.testing.assert_array_equal, after["layers"][0], before["layers"][0])
    for name in ("kernel", "bias"):
        assert np.abs(after["layers"][1][name] - before["layers"][1][name]).max() > 0


def test_average_follows_its_definition():
    step, state = build(ema_decay=0.5)
    average = jax.device_get(state.params)
    for index in range(3):
        state, _ = step(state, batch(index))
        decay = min(0.5, (1 + index) / (10 + index))
        average = jax.tree.map(lambda a, p, d=decay: d * a + (1 - d) * p, average, state.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), state.ema, average)


def test_average_forgets_the_start():
    zero, one = {"a": jnp.zeros(2)}, {"a": jnp.ones(2)}
    for step in range(100):
        zero = ema.update(zero, one, 0.999, jnp.int32(step))
    assert float(zero["a"][0]) > 0.999


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("committed", [False, True], ids=["fresh", "from a checkpoint"])
def test_the_step_is_traced_and_compiled_once(committed, accumulate):
    traces = []

    def counting(model, batch, key, *, frozen=None):
        traces.append(1)
        return weighted(model, batch, key)

    graphdef, params, rest = nnx.split(Net(nnx.Rngs(0)), nnx.Param, ...)
    params = nnx.to_pure_dict(params)
    if committed:
        params = jax.device_put(params, jax.devices()[0])
    tx = make_optimizer(OptimizerConfig(), params, 10)
    how = {"seed": 0, "ema_decay": 0.9, "accumulate": accumulate}
    step = jax.jit(make_train_step(counting, tx, graphdef, **how), donate_argnums=0)
    state = init_state(params, tx, ema=True)
    for index in range(4):
        state, _ = step(state, batch(index), rest)
    assert step._cache_size() == 1 and len(traces) == 1


def test_compute_dtype_is_that_of_the_forward_pass_only():
    seen = []

    def look(model, batch, key, *, frozen):
        seen.append(model.layers[0].kernel.dtype)
        seen.append(frozen["weights"].dtype)
        assert frozen["count"].dtype == jnp.int32
        return weighted(model, batch, key)

    graphdef, params, rest = nnx.split(Net(nnx.Rngs(0)), nnx.Param, ...)
    params = nnx.to_pure_dict(params)
    tx = optax.sgd(0.1)
    step = make_train_step(look, tx, graphdef, seed=0, compute_dtype=jnp.bfloat16)
    frozen = {"weights": jnp.ones(2), "count": jnp.int32(1)}
    state, metrics = jax.jit(step)(init_state(params, tx, ema=False), batch(), rest, frozen)
    assert seen == [jnp.bfloat16, jnp.bfloat16]
    assert {x.dtype for x in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
    assert metrics["loss"].dtype == jnp.float32


def test_frozen_argument_reaches_the_objective():
    def distance(model, batch, key, *, frozen):
        error = jnp.square(model(batch["x"]) - frozen(batch["x"])).sum()
        return LossOutput(error, jnp.float32(1), {})

    teacher = Net(nnx.Rngs(1))
    graphdef, params, rest = nnx.split(Net(nnx.Rngs(0)), nnx.Param, ...)
    tx = optax.sgd(0.05)
    step = jax.jit(make_train_step(distance, tx, graphdef, seed=0), donate_argnums=0)
    state = init_state(nnx.to_pure_dict(params), tx, ema=False)
    losses = []
    for _ in range(3):
        state, metrics = step(state, batch(), rest, teacher)
        losses.append(float(metrics["loss"]))
    assert losses[2] < losses[0]
    jax.tree.map(lambda leaf: leaf.block_until_ready(), teacher)  # it was not donated


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_metrics_are_float32_scalars(dtype):
    step, state = build(compute_dtype=dtype)
    _, metrics = step(state, batch())
    assert {(m.dtype.name, m.shape) for m in metrics.values()} == {("float32", ())}


def test_what_is_no_parameter_is_an_argument_and_no_constant_of_the_program():
    class Fixed(nnx.Variable):
        pass

    class Big(nnx.Module):
        def __init__(self):
            self.small, self.big = nnx.Param(jnp.ones(3)), Fixed(jnp.ones((3, 100_000)))

    def loss(model, batch, key, *, frozen=None):
        seen.append(model.big.dtype)
        total = jnp.sum((batch["x"] * model.small[...][None]) @ model.big[...])
        return LossOutput(total.astype(jnp.float32), jnp.float32(len(batch["x"])), {})

    seen = []
    graphdef, params, rest = nnx.split(Big(), nnx.Param, ...)
    tx = optax.adam(0.1)
    state = init_state(nnx.to_pure_dict(params), tx, ema=True)
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) == 3 * 4 + 3  # and three counters
    step = jax.jit(make_train_step(loss, tx, graphdef, seed=0, compute_dtype=jnp.bfloat16))
    lowered = step.lower(state, batch(), rest)
    assert len(lowered.as_text()) < 100_000 and seen == [jnp.bfloat16]
    assert {leaf.dtype for leaf in jax.tree.leaves(rest)} == {jnp.dtype("float32")}
