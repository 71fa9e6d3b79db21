"""The reward model: where things went between frames, a transformer, one number."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from skyreels_jax.kernels.attention import attention
from skyreels_jax.models.reward.config import RewardConfig
from skyreels_jax.models.reward.matching import CHANNELS, matches, mean_cells
from skyreels_jax.nn.linear import MLP, Linear, gelu_tanh, normal
from skyreels_jax.nn.norm import LayerNorm
from skyreels_jax.nn.stack import scan, stack

Tokens = Float[Array, "B L D"]
Seen = Float[Array, "B k h w lags 5"]  # what `matches` says of every cell, after each of LAGS
LAGS = (1, 2)  # in tubes


def look(video: Float[Array, "B T H W 3"], config: RewardConfig) -> Seen:
    """Returns where every part of a film went, and how surely; no parameters.

    Of the frames where tubes begin, each is matched with the next and with the one after that: a
    subject that creeps and one that stands still differ little from frame to frame, and much after
    eight. The last tubes, which have none so far on, show 0.
    """
    frames = mean_cells(video[:, :: config.tube], config.cell)

    def lagging(lag: int) -> Float[Array, "B k h w 5"]:
        missing = min(lag, frames.shape[1]) - 1
        found = matches(frames[:, :-lag], frames[:, lag:], reach=config.reach)
        return jnp.pad(found, ((0, 0), (0, missing), (0, 0), (0, 0), (0, 0)))

    return jnp.stack([lagging(lag) for lag in LAGS], axis=-2)


class MotionTokens(nnx.Module):
    """What is seen of motion to tokens [B, tubes, places, width], which do not know where and when
    they are: each is told of all cells in four patches, by learned patterns, where they went.
    """

    def __init__(self, config: RewardConfig, *, rngs: nnx.Rngs):
        seen = len(LAGS) * CHANNELS * config.patch**2
        self.config = config
        self.motion = Linear(seen, config.motion_dim, rngs=rngs)
        self.merge = Linear(config.merge**2 * config.motion_dim, config.width, rngs=rngs)

    def __call__(self, seen: Seen) -> Float[Array, "B k L D"]:
        config, (films, tubes) = self.config, seen.shape[:2]
        places = seen.shape[2] // (config.patch * config.merge)
        cut = (places, config.merge, config.patch)
        seen = seen.reshape(films, tubes, *cut, *cut, -1)
        # To [B, k, row, column, row in token, column in token, what a patch shows].
        seen = seen.transpose(0, 1, 2, 5, 3, 6, 4, 7, 8)
        patches = seen.reshape(films, tubes, places**2, config.merge**2, -1)
        found = gelu_tanh(self.motion(patches))
        return self.merge(found.reshape(films, tubes, places**2, -1))


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


class MatchingReward(nnx.Module):
    """Video in [-1, 1] to scores before normalisation, float32.

    Every place and every time has an embedding of its own: a film that runs backwards is another
    one. Depth is the first axis of `blocks`.
    """

    def __init__(self, config: RewardConfig, *, rngs: nnx.Rngs):
        tubes = (config.num_frames - 1) // config.tube
        places = (config.size // (config.cell * config.patch * config.merge)) ** 2
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
        return self.score(look(video, self.config))

    def score(self, seen: Seen) -> Float[Array, " B"]:
        """Returns the score of films of which this is seen."""
        x = self.tokens(seen)
        time = self.time_embedding[...][None, : x.shape[1], None].astype(x.dtype)
        x = x + time + self.place_embedding[...][None, None].astype(x.dtype)
        x = scan(self.blocks, x.reshape(x.shape[0], -1, x.shape[3]))
        return self.head(self.norm(x).mean(axis=1))[:, 0].astype(jnp.float32)
