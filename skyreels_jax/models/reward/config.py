"""Widths and depths of the reward model."""

import dataclasses

from skyreels_jax.core.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardConfig:
    """A space-time transformer over where things went.

    num_frames: the most that it sees, a multiple of `tube` and one; size: height and width.
    tube: steps between the frames that are matched. cell: side, in pixels, of what is matched;
    reach: how far it is looked for, in cells. patch: side, in cells, of the squares in which motion
    is looked for first, by `motion_dim` learned patterns; merge: side, in these, of a token.
    Raises `UserError` for sizes that do not go together.
    """

    num_frames: int = 33
    size: int = 64
    tube: int = 4
    cell: int = 2
    reach: int = 4
    patch: int = 4
    merge: int = 2
    motion_dim: int = 64
    width: int = 96
    num_heads: int = 4
    ffn_dim: int = 384
    num_layers: int = 2
    eps: float = 1e-6

    def __post_init__(self):
        small = [f.name for f in dataclasses.fields(self) if not getattr(self, f.name) > 0]
        if small:
            raise UserError(f"a reward model's {', '.join(small)} must be more than 0")
        if self.size % (token := self.cell * self.patch * self.merge):
            raise UserError(
                f"a reward model's size {self.size} must be a multiple of cell x patch x merge = "
                f"{token}"
            )
        if self.num_frames < self.tube + 1 or self.num_frames % self.tube != 1 % self.tube:
            raise UserError(
                f"a reward model's num_frames must be a multiple of tube = {self.tube} and one, "
                f"got {self.num_frames}"
            )
        if self.width % self.num_heads:
            raise UserError(
                f"a reward model's width {self.width} must be a multiple of num_heads = "
                f"{self.num_heads}"
            )

    def check(self, num_frames: int, height: int, width: int) -> None:
        """Raises `UserError` for films that the model cannot see."""
        legal = range(self.tube + 1, self.num_frames + 1, self.tube)
        if num_frames not in legal or (height, width) != (self.size, self.size):
            counts = ", ".join(map(str, legal))
            raise UserError(
                f"the reward model sees {counts} frames of {self.size}x{self.size}; "
                f"got {num_frames} of {height}x{width}"
            )
