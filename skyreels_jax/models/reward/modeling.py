"""The reward model: patches of frames and of frame differences, a transformer, one number."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from skyreels_jax.kernels.attention import attention
from skyreels_jax.models.reward.config import RewardConfig
from skyreels_jax.nn.linear import MLP, Linear, gelu_tanh, normal
from skyreels_jax.nn.norm import LayerNorm
from skyreels_jax.nn.stack import scan, stack

Tokens = Float[Array, "B L D"]
# ToyFilm's pixels have a deviation of 0.38, the differences of neighbouring frames one of 0.06.
GAIN = 8.0


class MotionTokens(nnx.Module):
    """Video to tokens [B, tubes, places, width], without knowing where and when they are.

    Of each tube of `tube` steps, a token is told its first frame and, apart and enlarged, the
    `tube` differences that follow, down to the last pixel. A linear pattern of these is selective
    for direction and speed, fractions of a pixel a frame included, and a unit behind it for motion
    energy (Adelson and Bergen 1985); with frames alone the still part of the picture, six times as
    large, would have to be learned away first.
    """

    def __init__(self, config: RewardConfig, *, rngs: nnx.Rngs):
        seen = 3 * config.patch**2 * (1 + config.tube)
        self.config = config
        self.motion = Linear(seen, config.motion_dim, rngs=rngs)
        self.merge = Linear(config.merge**2 * config.motion_dim, config.width, rngs=rngs)

    def __call__(self, video: Float[Array, "B T H W 3"]) -> Float[Array, "B k L D"]:
        config = self.config
        batch, frames, side = video.shape[:3]
        tubes, cells = (frames - 1) // config.tube, side // (config.patch * config.merge)
        steps = GAIN * (video[:, 1:] - video[:, :-1])
        steps = steps.reshape(batch, tubes, config.tube, *video.shape[2:])
        first = video[:, : -1 : config.tube][:, :, None]
        seen = jnp.concatenate([first, steps], axis=2)
        cut = (cells, config.merge, config.patch)
        seen = seen.reshape(batch, tubes, 1 + config.tube, *cut, *cut, 3)
        # To [B, k, cell row, cell column, row in cell, column in cell, what a patch shows].
        seen = seen.transpose(0, 1, 3, 6, 4, 7, 2, 5, 8, 9)
        patches = seen.reshape(batch, tubes, cells**2, config.merge**2, -1)
        found = gelu_tanh(self.motion(patches))
        return self.merge(found.reshape(batch, tubes, cells**2, -1))


class Block(nnx.Module):
    """Pre-norm residual attention among all tokens of a film, and feed-forward."""

    def __init__(self, config: RewardConfig, *, rngs: nnx.Rngs):
        width = config.width
        self.norm1 = LayerNorm(width, eps=config.eps)
        self.q, self.k, self.v, self.o = (Linear(width, width, rngs=rngs) for _ in range(4))
        self.norm2 = LayerNorm(width, eps=config.eps)
        self.mlp = MLP(width, config.ffn_dim, width, activation=gelu_tanh, rngs=rngs)
        self.heads = config.num_heads

    def __call__(self, x: Tokens) -> Tokens:
        y = self.norm1(x)
        q, k, v = (f(y).reshape(*y.shape[:2], self.heads, -1) for f in (self.q, self.k, self.v))
        x = x + self.o(attention(q, k, v).reshape(x.shape))
        return x + self.mlp(self.norm2(x))


class SpaceTimeReward(nnx.Module):
    """Video in [-1, 1] to scores before normalisation, float32.

    Every place and every time has an embedding of its own: a film that runs backwards is another
    one. Depth is the first axis of `blocks`.
    """

    def __init__(self, config: RewardConfig, *, rngs: nnx.Rngs):
        tubes = (config.num_frames - 1) // config.tube
        places = (config.size // (config.patch * config.merge)) ** 2
        embedding = normal(0.1)
        self.config = config
        self.tokens = MotionTokens(config, rngs=rngs)
        self.time_embedding = nnx.Param(embedding(rngs.params(), (tubes, config.width)))
        self.place_embedding = nnx.Param(embedding(rngs.params(), (places, config.width)))
        self.blocks = stack(lambda rngs: Block(config, rngs=rngs), config.num_layers, rngs=rngs)
        self.norm = LayerNorm(config.width, eps=config.eps)
        self.head = Linear(config.width, 1, kernel_init=normal(0.02), rngs=rngs)

    def __call__(self, video: Float[Array, "B T H W 3"]) -> Float[Array, " B"]:
        """Returns a score a film; `UserError` for films of another length or size."""
        self.config.check(*video.shape[1:4])
        x = self.tokens(video)
        time = self.time_embedding[...][None, : x.shape[1], None].astype(x.dtype)
        x = x + time + self.place_embedding[...][None, None].astype(x.dtype)
        x = scan(self.blocks, x.reshape(x.shape[0], -1, x.shape[3]))
        return self.head(self.norm(x).mean(axis=1))[:, 0].astype(jnp.float32)
