import jax
import jax.numpy as jnp
import numpy as np

from skyreels_jax.core.rng import stream


def _data(key):
    return tuple(jax.random.key_data(key).tolist())


def test_streams_differ_by_seed_name_and_step_and_repeat_exactly():
    keys = [stream(s, n, k) for s in (0, 1) for n in ("noise", "time") for k in (0, 1)]
    assert len({_data(k) for k in keys}) == len(keys)
    assert _data(stream(np.int64(1), "noise", 1)) in {_data(k) for k in keys}
    assert _data(stream(0, "noise", 7)) == _data(stream(jax.random.key(0), "noise", 7))


def test_step_may_be_traced():
    traced = jax.jit(lambda step: jax.random.key_data(stream(3, "noise", step)))(jnp.int32(5))
    assert tuple(traced.tolist()) == _data(stream(3, "noise", 5))
