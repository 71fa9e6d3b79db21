"""Keys and values of finished blocks, kept: a block-causal model runs on the newest block alone.

A block is denoised while it attends to the cache and to itself; when it is done it is run once
more, clean, and what that run gives is written to the cache (Self-Forcing, arXiv 2506.08009; the
causal fine-tune of SkyReels-V2, arXiv 2504.13074, names the cache and publishes none). The cache
has a fixed number of slots, so a film of any length is one compiled program of constant cost.

Positions. Keys are stored turned to the absolute positions of their frames. Scores hang on
distances, and angles are computed in float64 on the host (`Place`), so there is no last position
(the tables of the peers end at 1024 frames, under three minutes). The distance to the rolling
frames is bounded by the window. Sinks would move away for ever, to distances that no training has
seen; so they are read as if they stood right before the rolling frames. They are turned when read
and not in the cache, where roundings would add up.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from skyreels_jax.core.errors import UserError
from skyreels_jax.core.types import Latents, Time
from skyreels_jax.kernels.attention import Mask
from skyreels_jax.kernels.attention import attention as default_attention
from skyreels_jax.models.dit.blocks import KV, Attention, Block
from skyreels_jax.models.dit.config import DiTConfig
from skyreels_jax.models.dit.modeling import SkyReelsV2Transformer3D
from skyreels_jax.models.dit.text import TextKV
from skyreels_jax.nn.rope import Turns, apply_rope, axis_widths, spread, turns
from skyreels_jax.nn.stack import fold

Count = int | np.integer | Int[Array | np.ndarray, ""]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CacheWindow:
    """Which finished frames a block sees: the first `sinks` of the film and the last `rolling`.

    block: latent frames in a block, which divides both. Raises `UserError` where it does not.
    """

    block: int
    rolling: int
    sinks: int = 0

    def __post_init__(self):
        for name, value, least in (("rolling", self.rolling, self.block), ("sinks", self.sinks, 0)):
            if value < least or value % self.block:
                below = max(value // self.block * self.block, least)
                raise UserError(
                    f"a cache of {value} {name} latent frames does not hold whole blocks of "
                    f"{self.block}; nearest legal: {below} or {below + self.block}"
                )

    @property
    def slots(self) -> int:
        """How many latent frames the cache holds."""
        return self.sinks + self.rolling


class Place(NamedTuple):
    """Where a block stands in the film and in the cache: host data, an argument of the program."""

    time: tuple[Turns, Turns]  # cosines and sines of its frames
    moved: tuple[Turns, Turns]  # [1, R], how far the sinks are turned when they are read
    filled: Count  # frames in the cache
    slot: Count  # which of them the block replaces when it is done


def cache_window(config: DiTConfig, *, rolling: int, sinks: int = 0) -> CacheWindow:
    """Returns the window for a model; `UserError` if finished frames of it cannot be kept."""
    if config.num_frame_per_block < 2:
        raise UserError(
            "this model's frames see later ones (num_frame_per_block 1), so they cannot be kept "
            "as keys and values; legal: a model fine-tuned with num_frame_per_block 2 and more"
        )
    if config.image_dim is not None or config.patch_size[0] != 1:
        raise UserError(
            "a KV cache needs a text-to-video model with patches of one frame, got image_dim "
            f"{config.image_dim} and patch_size {config.patch_size}"
        )
    return CacheWindow(block=config.num_frame_per_block, rolling=rolling, sinks=sinks)


def place_block(window: CacheWindow, start_frame: int, *, head_dim: int) -> Place:
    """Returns the place of the block whose first latent frame is number `start_frame` of the film.

    Raises `ValueError` where no block starts.
    """
    if start_frame < 0 or start_frame % window.block:
        raise ValueError(f"no block of {window.block} frames starts at frame {start_frame}")
    width = axis_widths(head_dim)[0]
    moved = turns(np.array([max(start_frame - window.slots, 0)]), width)
    still = ((0, 0), (0, head_dim // 2 - width // 2))  # space does not move
    after = start_frame - window.sinks
    return Place(
        time=turns(start_frame + np.arange(window.block), width),
        moved=(np.pad(moved[0], still, constant_values=1.0), np.pad(moved[1], still)),
        filled=np.int32(min(start_frame, window.slots)),
        slot=np.int32(start_frame if after < 0 else window.sinks + after % window.rolling),
    )


def empty_cache(
    config: DiTConfig, window: CacheWindow, batch: int, size: tuple[int, int], dtype: Any
) -> KV:
    """Returns zeros [depth, B, slots, tokens, N, K]; size: latent height and width."""
    tokens = (size[0] // config.patch_size[1]) * (size[1] // config.patch_size[2])
    heads = (config.num_attention_heads, config.attention_head_dim)
    shape = (config.num_layers, batch, window.slots, tokens, *heads)
    return KV(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))


def block_velocity(
    model: SkyReelsV2Transformer3D,
    latents: Latents,
    timestep: Time,
    *,
    text: TextKV,
    cache: KV,
    window: CacheWindow,
    place: Place,
    fps: Int[Array, "B"] | None = None,
    attention: Attention = default_attention,
) -> tuple[Float[Array, "B T H W O"], KV]:
    """Returns the velocity of one block, and its keys and values for `write`.

    Equals the block's part of what the model says of the whole film, where the frames before it
    are at the times at which they were written. The other arguments are the model's.
    Raises `UserError` for what the model refuses, and for other than `window.block` frames.
    """
    grid = model.check(latents, timestep, fps=fps, image=False)
    if grid[0] != window.block:
        raise UserError(f"this cache grows by blocks of {window.block} frames, got {grid[0]}")
    time, modulation = model.embed_time(timestep, fps)
    widths = axis_widths(model.config.attention_head_dim)
    space = (turns(np.arange(n), w) for n, w in zip(grid[1:], widths[1:], strict=True))
    rope, tokens = spread(place.time, *space), grid[1] * grid[2]
    seen = (window.block + jnp.asarray(place.filled)) * tokens
    history = Mask(kv_length=jnp.broadcast_to(seen, latents.shape[:1]))

    def step(block: Block, x: Array, own: tuple[KV, KV]) -> tuple[Array, KV]:
        past, words = own
        new = []

        def attend(q: Array, k: Array, v: Array, *, mask: Mask) -> Array:
            # The block first, so that what is in the cache and not yet written comes last.
            new.append(KV(k, v))
            past_key = move_sinks(past.key, place, sinks=window.sinks)
            keys, values = jnp.concatenate([k, past_key], 1), jnp.concatenate([v, past.value], 1)
            return attention(q, keys, values, mask=mask)

        x = block(
            x,
            modulation,
            context=words,
            rope=rope,
            mask=history,
            context_mask=None if text.weight is None else Mask(kv_weight=text.weight),
            image=None,
            attention=attention,
            self_attention=attend,
        )
        return x, new[0]

    x, new = fold(model.blocks, step, model.patch_embedding(latents), (cache, text.kv))
    return model.project(x, time, grid), new


def move_sinks(key: Float[Array, "B F S N K"], place: Place, *, sinks: int) -> Array:
    """Returns a cache's keys with those of the first `sinks` frames turned by `place.moved`."""
    if not sinks:
        return key
    each = (sinks, key.shape[2], place.moved[0].shape[1])
    cos, sin = (jnp.broadcast_to(table, each) for table in place.moved)
    return jnp.concatenate([apply_rope(key[:, :sinks], cos, sin), key[:, sinks:]], axis=1)


def write(cache: KV, new: KV, *, place: Place) -> KV:
    """Returns the cache with a finished block in its slot; in place when `cache` is donated."""

    def into(old: Array, block: Array) -> Array:
        return jax.lax.dynamic_update_slice_in_dim(old, block, place.slot, axis=2)

    return jax.tree.map(into, cache, new)
