"""Flow matching: the loss and its gradient in closed form, streams, dropout, bins."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from skyreels_jax.core.config import from_dict, to_dict
from skyreels_jax.core.errors import UserError
from skyreels_jax.core.rng import stream
from skyreels_jax.objectives.base import LossOutput, Objective, report
from skyreels_jax.objectives.flow_matching import FlowMatching, time_metrics

SHAPE = (5, 2, 3, 4, 2)


class Linear(nnx.Module):
    """v = x @ kernel + bias[caption] + time * slope, small enough for a gradient by hand."""

    def __init__(self, channels: int, captions: int):
        self.kernel = nnx.Param(jnp.eye(channels) * 0.3 + 0.1)
        self.bias = nnx.Param(jnp.arange(captions, dtype=jnp.float32))

    def __call__(self, x, t, *, caption=None):
        y = jnp.einsum("bthwc,cd->bthwd", x, self.kernel[...])
        if caption is not None:
            y = y + self.bias[...][caption][:, None, None, None, None]
        return y + 0.001 * t[:, :, None, None, None]


def make_batch(batch_size=SHAPE[0]):
    data = np.random.default_rng(0).normal(size=(batch_size, *SHAPE[1:])).astype(np.float32)
    return {
        "latents": jnp.asarray(data),
        "cond": {"caption": jnp.arange(batch_size) % 3 + 1},
        "null_cond": {"caption": jnp.zeros(batch_size, jnp.int32)},
    }


def draws(objective, key, batch):
    """The random numbers of one call, by the documented stream names, in float64."""
    data = np.asarray(batch["latents"], np.float64)
    sigma = np.asarray(objective.draw_sigma(stream(key, "sigma"), (data.shape[0], 1)), np.float64)
    noise = np.asarray(jax.random.normal(stream(key, "noise"), data.shape), np.float64)
    return data, sigma.reshape(-1, 1, 1, 1, 1), noise


def test_is_an_objective_and_a_config():
    objective = FlowMatching(times="uniform", shift=2.5)
    assert isinstance(objective, Objective)
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
    key, shape = jax.random.key(0), (20000, 1)
    logit = FlowMatching(mean=-0.5, std=0.8).draw_sigma(key, shape)
    logit = np.log(logit / (1 - logit))
    assert abs(logit.mean() + 0.5) < 0.02 and abs(logit.std() - 0.8) < 0.02
    uniform = FlowMatching(times="uniform").draw_sigma(key, shape)
    assert abs(uniform.mean() - 0.5) < 0.01 and uniform.min() >= 0 and uniform.max() <= 1
    shifted = FlowMatching(times="uniform", shift=5.0).draw_sigma(key, shape)
    np.testing.assert_allclose(shifted, 5 * uniform / (1 + 4 * uniform), rtol=1e-6)


def test_bins_report_means_and_leave_out_empty_ones():
    error, sigma = jnp.array([1.0, 2.0, 4.0, 8.0]), jnp.array([0.1, 0.2, 0.9, 1.0])
    metrics = time_metrics(error, sigma)
    half = time_metrics(error[:2], sigma[:2]), time_metrics(error[2:], sigma[2:])
    summed = jax.tree.map(lambda a, b: (a + b) / 4, *half)
    want = {"mse_q0": 1.5, "mse_q3": 6.0}
    assert report(metrics) == {"mse": 15.0, **want}
    assert report(summed) == {"mse": 3.75, **want}


def test_sums_add_up_over_micro_batches():
    a = FlowMatching()(Linear(SHAPE[-1], 4), make_batch(2), jax.random.key(0))
    b = FlowMatching()(Linear(SHAPE[-1], 4), make_batch(3), jax.random.key(1))
    both = LossOutput(*jax.tree.map(jnp.add, tuple(a), tuple(b)))
    assert both.weight == 5
    np.testing.assert_allclose(both.total, both.metrics["mse"], rtol=1e-6)


@pytest.mark.parametrize(
    "bad", [{"times": "beta"}, {"shift": 0.0}, {"std": -1.0}, {"caption_dropout": 1.5}]
)
def test_bad_values(bad):
    with pytest.raises(UserError):
        from_dict(FlowMatching, bad)


def test_dropout_without_null_condition():
    batch = make_batch()
    del batch["null_cond"]
    with pytest.raises(UserError, match="null_cond"):
        FlowMatching()(Linear(SHAPE[-1], 4), batch, jax.random.key(0))
