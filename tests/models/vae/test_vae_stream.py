"""Chunked encoding and decoding equal the whole clip (1e-5) with caches of constant size."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from vae_oracle import RESIDUAL, abstract, config, pair, random_video, relative_error

from skyreels_jax.core.errors import UserError
from skyreels_jax.models.vae import AutoencoderKLWan
from skyreels_jax.models.vae.stream import Stream


@pytest.fixture(scope="module", params=["wan21", "wan22"])
def model(request):
    fields = {"dim_mult": (1, 2, 2), "temperal_downsample": (True, True)}
    if request.param == "wan22":
        fields = RESIDUAL | fields
    _, graphdef, params = pair(config(**fields))
    return nnx.merge(graphdef, params)


@pytest.fixture(scope="module")
def tiny():
    return AutoencoderKLWan(config(dim_mult=(1, 1), temperal_downsample=(True,)), rngs=nnx.Rngs(0))


# Operation by operation every small product would be compiled by itself, and kept by no cache.
encode = nnx.jit(lambda model, video, key=None: model.encode(video, key=key))
decode = nnx.jit(lambda model, latents, key=None: model.decode(latents, key=key))


def traced(model, method):
    """Returns a method of a model that computes nothing."""
    return functools.partial(jax.eval_shape, lambda *args: getattr(model, method)(*args))


class Counted:
    """A jitted method of a model that counts how often it is traced."""

    def __init__(self, model, method):
        graphdef, self.state = nnx.split(model)
        self.traces = 0

        def run(state, chunk, cache):
            self.traces += 1
            return getattr(nnx.merge(graphdef, state), method)(chunk, cache)

        self.run = jax.jit(run)

    def chunks(self, x, counts):
        """Runs `x` in chunks of `counts` frames; returns the results and all caches."""
        cache, outputs, caches, start = None, [], [], 0
        for count in counts:
            y, cache = self.run(self.state, x[:, start : start + count], cache)
            outputs.append(y)
            caches.append(cache)
            start += count
        assert start == x.shape[1]
        return jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1), *outputs), caches


def shapes(tree):
    return jax.tree.map(lambda a: (a.shape, a.dtype), tree)


def test_encode_chunks(model):
    side = model.config.spatial_factor
    video = random_video(2, 9, side, 2 * side, 3)
    counted = Counted(model, "encode_chunk")
    (mean, logvar), caches = counted.chunks(video, (1, 4, 4))
    assert counted.traces == 2  # the first chunk, and all others
    assert shapes(caches[0]) == shapes(caches[-1])
    whole = encode(model, video)
    assert relative_error(mean, whole[0]) < 1e-5
    assert relative_error(logvar, whole[1]) < 1e-5


def test_decode_chunks(model):
    latents = 2 * random_video(2, 4, 2, 1, 4)
    counted = Counted(model, "decode_chunk")
    video, caches = counted.chunks(latents, (1, 1, 1, 1))
    assert counted.traces == 2
    assert shapes(caches[0]) == shapes(caches[-1])
    whole = decode(model, latents)
    assert relative_error(video, whole) < 1e-5


def test_any_split_that_keeps_whole_latents(tiny):
    video = random_video(1, 11, 2, 4, 3)
    whole = encode(tiny, video)[0]
    for counts in ((11,), (3, 8), (1, 2, 6, 2)):
        (mean, _), _ = Counted(tiny, "encode_chunk").chunks(video, counts)
        assert relative_error(mean, whole) < 1e-5


def test_any_number_of_latents_at_a_time(tiny):
    latents = random_video(1, 6, 2, 2, 4)
    whole = decode(tiny, latents)
    for counts in ((2, 1, 3), (1, 5)):
        video, _ = Counted(tiny, "decode_chunk").chunks(latents, counts)
        assert relative_error(video, whole) < 1e-5


def test_caches_of_other_chunks_are_refused(tiny):
    encoding, decoding = traced(tiny, "encode_chunk"), traced(tiny, "decode_chunk")
    _, encoder = encoding(random_video(1, 3, 4, 4, 3))
    _, decoder = decoding(random_video(1, 2, 2, 2, 4))
    with pytest.raises(UserError, match="cache does not fit"):
        encoding(random_video(1, 2, 8, 4, 3), encoder)
    with pytest.raises(UserError, match="cache does not fit"):
        encoding(random_video(1, 2, 4, 4, 3), encoder[:3])
    with pytest.raises(UserError, match="cache does not fit"):
        decoding(random_video(2, 2, 2, 2, 4), decoder)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 6, 16, 16, 3), r"frames must be 1 \+ 4k, got 6"),
        ((1, 0, 16, 16, 3), r"frames must be 1 \+ 4k, got 0"),
        ((1, 5, 12, 16, 3), "multiples of 8, got 12 x 16"),
        ((1, 5, 16, 16, 4), "video must have 3 channels"),
    ],
)
def test_bad_video(shape, message):
    graphdef, params = abstract(config())
    with pytest.raises(UserError, match=message):
        jax.eval_shape(lambda p: nnx.merge(graphdef, p).encode(jnp.zeros(shape)), params)


def test_bad_chunks(tiny):
    encoding = traced(tiny, "encode_chunk")
    _, cache = encoding(random_video(1, 1, 4, 4, 3))
    for frames in (0, 1, 3):
        with pytest.raises(UserError, match="must be a multiple of 2"):
            encoding(random_video(1, frames, 4, 4, 3), cache)
    for shape in ((1, 0, 2, 2, 4), (1, 2, 2, 2, 3)):
        with pytest.raises(UserError, match="latents must be"):
            traced(tiny, "decode")(random_video(*shape))


def test_dropout_needs_a_key_and_is_reproducible():
    model = AutoencoderKLWan(
        config(dim_mult=(1, 1), temperal_downsample=(True,), dropout=0.5), rngs=nnx.Rngs(0)
    )
    latents = random_video(1, 2, 2, 2, 4)
    keys = jax.random.split(jax.random.key(0))
    plain, first, again, other = (
        decode(model, latents, key) for key in (None, keys[0], keys[0], keys[1])
    )
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(plain, first) and not np.allclose(first, other)
    assert not np.allclose(*(encode(model, random_video(1, 3, 4, 4, 3), k)[0] for k in keys))


def test_dropout_keeps_the_mean():
    x = jnp.ones((1, 4, 32, 32, 4))
    y = Stream(key=jax.random.key(0)).dropout(x, 0.25)
    assert set(np.unique(y)) == {0.0, np.float32(1 / 0.75)}
    assert abs(float(y.mean()) - 1) < 0.03
