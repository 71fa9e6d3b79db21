"""Flow-DPO: at initialisation, its gradient, and the closed form of a linear model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from linear_model import SHAPE, Linear, make_batch

from skyreels_jax.core.config import from_dict, to_dict
from skyreels_jax.core.errors import UserError
from skyreels_jax.core.rng import stream
from skyreels_jax.nn.linear import Linear as Dense
from skyreels_jax.nn.lora import add_adapters
from skyreels_jax.objectives.base import Objective
from skyreels_jax.objectives.diffusion_forcing import DiffusionForcing
from skyreels_jax.objectives.flow_dpo import METRICS, FlowDPO
from skyreels_jax.objectives.flow_matching import FlowMatching

GRAPHDEF, START = nnx.split(Linear(SHAPE[-1], 4))
START = nnx.to_pure_dict(START)
MATCHING = FlowMatching(times="uniform", caption_dropout=0.0)
FORCING = DiffusionForcing(caption_dropout=0.0, prefix=1.0)


def pairs(count=SHAPE[0], *, frames=SHAPE[1], seed=1):
    batch = make_batch(count, frames=frames)
    chosen = batch.pop("latents")
    rng = np.random.default_rng(seed)
    rejected = jnp.asarray(rng.normal(size=chosen.shape).astype(np.float32))
    return {**batch, "chosen": chosen, "rejected": rejected}


def moved(seed=5, size=0.05):
    """Parameters near the reference's."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: p + size * rng.normal(size=p.shape).astype(np.float32), START)


def run(objective, params, batch, key=None, *, frozen=START):
    key = jax.random.key(7) if key is None else key
    return objective(nnx.merge(GRAPHDEF, params), batch, key, frozen=frozen)


def by_hand(objective, params, batch, key):
    """Loss and metrics of every pair, and the gradient of their sum by the kernel, in float64."""
    chosen = np.asarray(batch["chosen"], np.float64)
    one = {**batch, "latents": batch["chosen"]}
    levels = objective.velocity.draw_levels(stream(key, "sigma"), one)
    sigma = np.broadcast_to(np.asarray(levels.sigma, np.float64), chosen.shape[:2])[..., None]
    sigma = sigma[..., None, None]
    counted = np.broadcast_to(np.asarray(levels.counted, np.float64), chosen.shape[:2])
    weight = counted / counted.sum(1, keepdims=True)
    noise = np.asarray(jax.random.normal(stream(key, "noise"), chosen.shape), np.float64)
    caption = np.asarray(batch["cond"]["caption"])
    errors, slopes, drift = {}, {}, 0.0
    for side in ("chosen", "rejected"):
        data = np.asarray(batch[side], np.float64)
        x = (1 - sigma) * data + sigma * noise
        made = []
        for tree in (params, START):
            kernel, bias = (np.asarray(tree[name], np.float64) for name in ("kernel", "bias"))
            made.append(x @ kernel + bias[caption].reshape(-1, 1, 1, 1, 1) + sigma)
            residual = made[-1] - (noise - data)
            mean = ((residual**2).mean((2, 3, 4)) * weight).sum(1)
            errors.setdefault(side, []).append(mean)
            share = residual * weight[:, :, None, None, None] / residual[0, 0].size
            slopes.setdefault(side, 2 * np.einsum("bthwc,bthwd->bcd", x, share))
        drift = drift + (((made[0] - made[1]) ** 2).mean((2, 3, 4)) * weight).sum(1) / 2
    half = objective.beta / 2
    reward = {side: half * (old - new) for side, (new, old) in errors.items()}
    margin = reward["chosen"] - reward["rejected"]
    pull = -half / (1 + np.exp(margin))  # d loss / d (e_rejected - e_chosen)
    gradient = np.einsum("b,bcd->cd", pull, slopes["rejected"] - slopes["chosen"])
    metrics = {
        "implicit_accuracy": margin > 0,
        "margin": margin,
        **{f"reward_{side}": value for side, value in reward.items()},
        **{f"mse_{side}": value for side, (value, _) in errors.items()},
        "drift": drift,
    }
    return np.log1p(np.exp(-margin)), metrics, gradient


def test_is_an_objective_and_a_config():
    for velocity in (MATCHING, FORCING):
        objective = FlowDPO(beta=3.0, velocity=velocity)
        assert isinstance(objective, Objective)
        assert from_dict(FlowDPO, to_dict(objective)) == objective


@pytest.mark.parametrize("velocity", [MATCHING, FORCING], ids=["one time", "a time a frame"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_at_initialisation_the_loss_is_log_two_and_every_pair_a_tie(velocity, dtype):
    start = jax.tree.map(lambda p: p.astype(dtype), START)
    objective = FlowDPO(velocity=velocity)
    batch = pairs(frames=4)
    out = jax.jit(lambda p: run(objective, p, batch, frozen=p))(start)
    assert float(out.weight) == SHAPE[0]
    np.testing.assert_allclose(out.total / out.weight, np.log(2), atol=1e-4)
    assert float(out.metrics["implicit_accuracy"] / out.weight) == 0.5
    np.testing.assert_allclose(out.metrics["drift"], 0, atol=1e-9)


@pytest.mark.parametrize("velocity", [MATCHING, FORCING], ids=["one time", "a time a frame"])
def test_loss_gradient_and_metrics_in_closed_form(velocity):
    objective, batch, key = FlowDPO(beta=4.0, velocity=velocity), pairs(frames=4), jax.random.key(7)
    params = moved()

    def total(params):
        out = run(objective, params, batch, key)
        return out.total, out

    (value, out), grads = jax.jit(jax.value_and_grad(total, has_aux=True))(params)
    losses, metrics, gradient = by_hand(objective, params, batch, key)
    np.testing.assert_allclose(value, losses.sum(), rtol=1e-5)
    assert set(out.metrics) == set(metrics) == set(METRICS)
    for name, values in metrics.items():
        np.testing.assert_allclose(out.metrics[name], values.sum(), rtol=2e-4, atol=1e-5)
    np.testing.assert_allclose(grads["kernel"], gradient, rtol=1e-3, atol=1e-4)


def test_gradient_against_finite_differences():
    objective, batch, params = FlowDPO(beta=4.0, velocity=MATCHING), pairs(), moved()
    total = jax.jit(lambda params: run(objective, params, batch).total)
    grads, step = jax.jit(jax.grad(lambda p: run(objective, p, batch).total))(params), 1e-2
    for seed in (0, 1, 2):
        rng = np.random.default_rng(seed)
        way = jax.tree.map(lambda p, r=rng: r.normal(size=p.shape).astype(np.float32), params)
        ahead, behind = (
            float(total(jax.tree.map(lambda p, w, s=s: p + s * w, params, way)))
            for s in (step, -step)
        )
        slope = sum(jax.tree.leaves(jax.tree.map(jnp.vdot, grads, way)))
        assert (ahead - behind) / (2 * step) == pytest.approx(float(slope), rel=1e-2, abs=1e-2)


def test_the_reference_gets_no_gradient_and_what_is_no_parameter_is_shared():
    """A model of adapters: fixed weights are held once, and the reference is those of the start."""

    class Mixed(nnx.Module):
        def __init__(self):
            self.mix = Dense(SHAPE[-1], SHAPE[-1], bias=False, rngs=nnx.Rngs(0))

        def __call__(self, x, t, *, caption):
            return self.mix(x)

    model = Mixed()
    add_adapters(model, ["mix/kernel"], rank=2, alpha=2.0, rngs=nnx.Rngs(1))
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    begun = nnx.to_pure_dict(params)
    zeros = jax.tree.map(jnp.zeros_like, begun)
    objective, batch = FlowDPO(beta=2.0, velocity=MATCHING), pairs()

    def total(params, frozen):
        model = nnx.merge(graphdef, params, rest)
        out = objective(model, batch, jax.random.key(7), frozen=frozen)
        return out.total, out.metrics["implicit_accuracy"]

    step = jax.jit(jax.value_and_grad(total, has_aux=True))
    for frozen in (zeros, begun):  # as `up` begins with zeros, both are the fixed weights
        (start, accuracy), grads = step(begun, frozen)
        assert float(start) == pytest.approx(SHAPE[0] * np.log(2), rel=1e-5)
        assert float(accuracy) == SHAPE[0] / 2
        assert float(jnp.abs(grads["mix"]["adapter"]["up"]["kernel"]).max()) > 1e-3
    learned = jax.tree.map(lambda p: p + 0.3, begun)
    (value, _), grads = step(learned, begun)
    assert abs(float(value - start)) > 1e-3
    assert all(float(jnp.abs(leaf).max()) > 1e-4 for leaf in jax.tree.leaves(grads))


def test_a_step_up_the_margin_makes_the_chosen_side_likelier():
    objective, batch = FlowDPO(beta=20.0, velocity=MATCHING), pairs()
    step = jax.jit(jax.value_and_grad(lambda p: run(objective, p, batch).total))
    params = START
    for _ in range(20):
        _, grads = step(params)
        params = jax.tree.map(lambda p, g: p - 2e-3 * g, params, grads)
    out = run(objective, params, batch)
    assert float(out.total / out.weight) < np.log(2) - 0.01
    assert float(out.metrics["margin"]) > 0 and float(out.metrics["drift"]) > 0


def test_both_sides_share_noise_time_and_caption():
    objective = FlowDPO(velocity=DiffusionForcing(caption_dropout=0.5))
    batch = pairs(40, frames=4)
    sides = objective.sides({**batch, "rejected": batch["chosen"]}, jax.random.key(1))
    for leaf in jax.tree.leaves(tuple(sides)):
        first, second = np.split(np.asarray(leaf), 2)
        np.testing.assert_array_equal(first, second)
    assert 0 < int((sides.cond["caption"] == 0).sum()) < 80


def test_keys_are_used_once():
    with jax.debug_key_reuse(True):
        run(FlowDPO(velocity=FlowMatching(caption_dropout=0.5)), START, pairs())


@pytest.mark.parametrize(
    "bad",
    [{"beta": b} for b in (0.0, -1.0, float("nan"), float("inf"))] + [{"velocity": {"name": "x"}}],
)
def test_bad_values(bad):
    with pytest.raises(UserError):
        from_dict(FlowDPO, bad)


def test_a_missing_reference_is_an_error():
    with pytest.raises(ValueError, match="frozen"):
        run(FlowDPO(), START, pairs(), frozen=None)
