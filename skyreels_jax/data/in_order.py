"""Streams that say what their order hangs on, so that a stopped run goes on in the same one."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from skyreels_jax.core.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class InOrder:
    """The stream `batches`; its iterators save `order` and `needs` beside their position, and take
    no position that was saved in another order.

    order: what the order hangs on beside the run's config, in words, by name.
    needs: what has to be again as it is, for people whose run is refused.
    """

    batches: Iterable[Any]
    order: Mapping[str, str]
    needs: str

    def __iter__(self) -> "Position":
        return Position(iter(self.batches), self)


class Position:
    """An iterator of an `InOrder`."""

    def __init__(self, inner: Any, stream: InOrder):
        self._inner, self._stream = inner, stream

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return next(self._inner)

    def get_state(self) -> dict[str, Any]:
        """Returns position and order, json-ready."""
        order = dict(self._stream.order)
        return {"position": self._inner.get_state(), "order": order, "needs": self._stream.needs}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes on from `state`; raises `UserError` where that is a position in another order."""
        if "order" not in state:  # of a run from before orders were saved
            return self._inner.set_state(state)
        old, new = state["order"], self._stream.order
        names = [n for n in sorted(old.keys() | new.keys()) if old.get(n) != new.get(n)]
        if names:
            listed = "; ".join(
                f"{n}: {old.get(n, 'nothing')} -> {new.get(n, 'nothing')}" for n in names
            )
            raise UserError(
                f"the batches are others than this run's ({listed}): it goes on with "
                f"{state['needs']}; or give another --out"
            )
        return self._inner.set_state(state["position"])
