"""Which clips of a data set are trained on, and how often each kind of them is drawn.

Balance by concept, as SkyReels-V2 (arXiv 2504.13074) balances its data for fine-tuning by the
subject types of its captions: a value of an attribute has a target share s of all draws, so each of
its n clips is drawn with weight s / n. The paper drops clips for it (people from 84.8 % of them to
63.2 %, half of the data gone); here all stay, and how often they are drawn changes.
"""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from skyreels_jax.core.config import suggest
from skyreels_jax.core.errors import UserError

ROUNDING = 1e-6


@dataclasses.dataclass(frozen=True, kw_only=True)
class Balance:
    """Target shares of the values of one attribute.

    attribute: of the clips; "" draws all clips alike.
    shares: share of the draws by value. Empty: all values alike. Otherwise each value of the
    attribute is named and the shares add up to 1; a share of 0 leaves a value out.
    Raises `UserError` for anything else.
    """

    attribute: str = ""
    shares: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if self.shares and not self.attribute:
            raise UserError("balance.shares need a balance.attribute whose values they are of")
        for value, share in self.shares.items():
            number = isinstance(share, (int, float)) and not isinstance(share, bool)
            if not (number and 0 <= share <= 1):
                raise UserError(f"balance.shares: {value} has {share!r}; a share is in [0, 1]")
        total = sum(self.shares.values())
        if self.shares and abs(total - 1) > ROUNDING:
            raise UserError(f"balance.shares must add up to 1, not {total:g}")

    def targets(self, attributes: Mapping[str, Sequence[str]]) -> dict[str, float]:
        """Returns the share of every value that has one above 0.

        attributes: the legal values of each attribute. Raises `UserError` for other names than
        these, and for values without a share.
        """
        if self.attribute not in attributes:
            near = suggest(self.attribute, attributes)
            raise UserError(f"balance.attribute {self.attribute!r} does not exist{near}")
        values = attributes[self.attribute]
        for value in self.shares:
            if value not in values:
                near = suggest(value, values)
                raise UserError(f"balance.shares: no {self.attribute} is {value!r}{near}")
        if not self.shares:
            return {value: 1 / len(values) for value in values}
        if missing := [value for value in values if value not in self.shares]:
            raise UserError(
                f"balance.shares must name every {self.attribute}; missing: {', '.join(missing)}"
            )
        return {value: self.shares[value] for value in values if self.shares[value] > 0}


class Group(NamedTuple):
    """Clips drawn alike: `share` of all draws are spread evenly over `indices`."""

    name: str
    share: float
    indices: Int[np.ndarray, " n"]


def keep_rate(rates: Int[np.ndarray, " N"], wanted: int) -> Int[np.ndarray, " n"]:
    """Returns the indices of the clips of `wanted` frames a second (0: of all).

    Raises `UserError` if there are none.
    """
    kept = np.flatnonzero(rates == wanted) if wanted else np.arange(len(rates))
    if not len(kept):
        found = collections.Counter(int(rate) for rate in rates)
        there = ", ".join(f"{count} of {rate}" for rate, count in sorted(found.items()))
        raise UserError(f"no clip has {wanted} frames a second; there are {there or 'no clips'}")
    return kept


def grouped(
    values: Sequence[str], targets: Mapping[str, float], among: Int[np.ndarray, " n"]
) -> list[Group]:
    """Returns a group for each target, of the clips `among` which have that value.

    values: of all clips. Raises `UserError` for a target that no clip is left for.
    """
    groups = []
    for value, share in targets.items():
        indices = np.array([i for i in among if values[i] == value], int)
        if not len(indices):
            raise UserError(f"balance: {value} has the share {share:.3g}, but no clip shows it")
        groups.append(Group(value, share, indices))
    return groups


def describe(groups: Sequence[Group]) -> str:
    """Returns a line: clips, share and weight of each group (a weight of 2: its clips are drawn
    twice as often as if all were drawn alike)."""
    total = sum(len(group.indices) for group in groups)
    weights = [group.share * total / len(group.indices) for group in groups]
    return "; ".join(
        f"{name} {len(indices):,} clips, {share:.1%} of draws, weight {weight:.2f}"
        for (name, share, indices), weight in zip(groups, weights, strict=True)
    )
