"""Flow matching, and what it shares with all velocity objectives: the loss and its gradient in
closed form, streams, dropout, densities, bins.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from linear_model import SHAPE, Linear, make_batch

from skyreels_jax.core.config import from_dict, to_dict
from skyreels_jax.core.errors import UserError
from skyreels_jax.core.rng import stream
from skyreels_jax.objectives.base import LossOutput, Objective, report
from skyreels_jax.objectives.flow_matching import FlowMatching
from skyreels_jax.objectives.velocity import mean_over, time_metrics


def draws(objective, key, batch):
    """The random numbers of one call, by the documented stream names, in float64."""
    data = np.asarray(batch["latents"], np.float64)
    sigma = objective.draw_levels(stream(key, "sigma"), batch).sigma
    noise = np.asarray(jax.random.normal(stream(key, "noise"), data.shape), np.float64)
    return data, np.asarray(sigma, np.float64).reshape(-1, 1, 1, 1, 1), noise


def draw_sigma(clips, **options):
    """Many noise levels at once."""
    batch = {"latents": jnp.zeros((clips, 1, 1, 1, 1))}
    return FlowMatching(**options).draw_levels(jax.random.key(0), batch).sigma


def test_is_an_objective_and_a_config():
    objective = FlowMatching(times="uniform", shift=2.5)
    assert isinstance(objective, Objective)
    assert to_dict(objective)["name"] == "flow_matching"
    assert from_dict(FlowMatching, to_dict(objective)) == objective


@pytest.mark.parametrize("times", ["logit_normal", "uniform"])
def test_loss_and_gradient_in_closed_form(times):
    objective = FlowMatching(times=times, shift=3.0, caption_dropout=0.0)
    batch, key = make_batch(), jax.random.key(7)
    model = Linear(SHAPE[-1], 4)
    graphdef, params = nnx.split(model)

    def total(params):
        out = objective(nnx.merge(graphdef, params), batch, key)
        return out.total, out

    (value, out), grads = jax.jit(jax.value_and_grad(total, has_aux=True))(params)

    data, sigma, noise = draws(objective, key, batch)
    x = (1 - sigma) * data + sigma * noise
    kernel, bias = (np.asarray(p[...], np.float64) for p in (model.kernel, model.bias))
    caption = np.asarray(batch["cond"]["caption"])
    residual = x @ kernel + bias[caption].reshape(-1, 1, 1, 1, 1) + sigma - (noise - data)
    per_clip = residual[0].size
    np.testing.assert_allclose(value, (residual**2).sum() / per_clip, rtol=1e-5)
    assert out.weight == SHAPE[0]
    np.testing.assert_allclose(out.metrics["mse"], value, rtol=1e-6)
    want = 2 * np.einsum("bthwc,bthwd->cd", x, residual) / per_clip
    np.testing.assert_allclose(grads.kernel[...], want, rtol=1e-4, atol=1e-5)
    want = np.zeros(4)
    np.add.at(want, caption, 2 * residual.sum(axis=(1, 2, 3, 4)) / per_clip)
    np.testing.assert_allclose(grads.bias[...], want, rtol=1e-4, atol=1e-5)


def test_keys_are_used_once():
    with jax.debug_key_reuse(True):
        FlowMatching(caption_dropout=0.5)(Linear(SHAPE[-1], 4), make_batch(), jax.random.key(0))


def test_same_key_same_loss_other_key_other_loss():
    objective, batch, model = FlowMatching(), make_batch(), Linear(SHAPE[-1], 4)
    a, b, c = (objective(model, batch, jax.random.key(s)).total for s in (0, 0, 1))
    assert a == b != c


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_caption_dropout_replaces_whole_conditions(probability):
    objective = FlowMatching(caption_dropout=probability)
    batch = make_batch(400)
    batch["cond"] = {"a": jnp.ones((400, 3)), "b": jnp.ones((400,), jnp.int32)}
    batch["null_cond"] = {"a": jnp.zeros((400, 3)), "b": jnp.zeros((400,), jnp.int32)}
    cond = objective.drop_captions(batch, jax.random.key(3))
    np.testing.assert_array_equal(cond["a"], jnp.broadcast_to(cond["b"][:, None], (400, 3)))
    assert abs((1 - cond["b"].mean()) - probability) < 0.08


def test_unconditional_models_need_no_conditions():
    out = FlowMatching()(Linear(SHAPE[-1], 4), {**make_batch(), "cond": {}}, jax.random.key(0))
    assert np.isfinite(out.total)


def test_time_distributions():
    logit = draw_sigma(20000, mean=-0.5, std=0.8)
    logit = np.log(logit / (1 - logit))
    assert abs(logit.mean() + 0.5) < 0.02 and abs(logit.std() - 0.8) < 0.02
    uniform = draw_sigma(20000, times="uniform")
    assert abs(uniform.mean() - 0.5) < 0.01 and uniform.min() >= 0 and uniform.max() <= 1
    shifted = draw_sigma(20000, times="uniform", shift=5.0)
    np.testing.assert_allclose(shifted, 5 * uniform / (1 + 4 * uniform), rtol=1e-6)


def test_the_quantile_keeps_order_and_ends():
    u = jnp.asarray([0.0, 1e-6, 0.2, 0.5, 0.9, 1.0])
    for objective in (FlowMatching(shift=3.0), FlowMatching(times="uniform", shift=0.5)):
        sigma = np.asarray(objective.quantile(u))
        assert sigma[0] == 0 and sigma[-1] == 1 and (np.diff(sigma) > 0).all()
    assert FlowMatching(mean=0.3).quantile(jnp.float32(0.5)) == pytest.approx(jax.nn.sigmoid(0.3))


def test_bins_report_means_over_counted_frames_and_leave_out_empty_ones():
    error = jnp.array([[1.0, 2.0], [4.0, 8.0]])
    sigma = jnp.array([[0.1, 0.2], [0.9, 1.0]])
    counted = jnp.array([[1.0, 1.0], [0.0, 1.0]])

    def metrics(rows):
        args = error[rows], sigma[rows], counted[rows]
        return mean_over("mse_all", args[0], args[2]) | time_metrics(*args)

    want = {"mse_all": 11 / 3, "mse_q0": 1.5, "mse_q3": 8.0}
    assert report(metrics(slice(None))) == pytest.approx(want)
    summed = jax.tree.map(lambda a, b: (a + b) / 4, metrics(slice(1)), metrics(slice(1, 2)))
    assert report(summed) == pytest.approx(want)


def test_sums_add_up_over_micro_batches():
    a = FlowMatching()(Linear(SHAPE[-1], 4), make_batch(2), jax.random.key(0))
    b = FlowMatching()(Linear(SHAPE[-1], 4), make_batch(3), jax.random.key(1))
    both = LossOutput(*jax.tree.map(jnp.add, tuple(a), tuple(b)))
    assert both.weight == 5
    np.testing.assert_allclose(both.total, both.metrics["mse"], rtol=1e-6)


@pytest.mark.parametrize(
    "bad",
    [
        {"name": "diffusion_forcing"},
        {"times": "beta"},
        {"shift": 0.0},
        {"std": -1.0},
        {"caption_dropout": 1.5},
    ],
)
def test_bad_values(bad):
    with pytest.raises(UserError):
        from_dict(FlowMatching, bad)


def test_dropout_without_null_condition():
    batch = make_batch()
    del batch["null_cond"]
    with pytest.raises(UserError, match="null_cond"):
        FlowMatching()(Linear(SHAPE[-1], 4), batch, jax.random.key(0))
