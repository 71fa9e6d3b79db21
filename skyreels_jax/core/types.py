"""Array aliases shared by every room. One letter per axis, used the same way everywhere.

B batch, T latent frames, H/W space, C channels, L video tokens, S text tokens, N heads,
K head dim, D width, F mlp width.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from jaxtyping import Array, Float, Int, Key

Latents = Float[Array, "B T H W C"]  # video latents, channels last
Video = Float[Array, "B T H W 3"]  # pixels in [-1, 1]
Time = Float[Array, "B #T"]  # timestep in [0, 1000]; [B, 1]: one per clip, [B, T]: per frame
TokenIds = Int[Array, "B S"]
PRNGKey = Key[Array, ""]
Batch = Mapping[str, Any]
Params = Any  # nested dict of arrays, as `nnx.to_pure_dict` gives it


class Rows(NamedTuple):
    """Some of `count` equal blocks of every batch, cut in order: those that a process holds."""

    blocks: tuple[int, ...]
    count: int


ALL_ROWS = Rows((0,), 1)
