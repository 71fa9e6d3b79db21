"""Name tables: which stored tensor is which parameter."""

import dataclasses
import re

from skyreels_jax.weights.transforms import SAME, Transform


@dataclasses.dataclass(frozen=True)
class Rule:
    """The stored tensor `source` is the parameter at tree path `target`, laid out by `transform`.

    `{i}` stands for a number. In both names it is a list index:
    `Rule("down.{i}.conv.weight", "down/{i}/conv/kernel", CONV3D)`. In `source` alone it runs along
    a leading axis of the target: `Rule("blocks.{i}.to_q.weight", "blocks/to_q/kernel", LINEAR)`.
    `words` gives a placeholder a word for each number: with `(("n", ("q", "k", "v")),)` the tensors
    "to_q", "to_k" and "to_v" of `Rule("to_{n}.weight", "qkv/kernel", LINEAR)` lie on one axis.
    `tied` names a second key that may hold the same tensor; export writes `source` only.
    `target=None` marks keys that are known and not read (see `ignored`).
    """

    source: str
    target: str | None
    transform: Transform = SAME
    tied: str | None = None
    words: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @property
    def stacked(self) -> tuple[str, ...]:
        """The placeholders that run along leading axes of the target, in order."""
        in_target = placeholders(self.target or "")
        return tuple(name for name in placeholders(self.source) if name not in in_target)


Table = tuple[Rule, ...]


def ignored(*patterns: str) -> Table:
    """Returns rules for keys that files may hold and no parameter needs; `{i}` as in `Rule`."""
    return tuple(Rule(pattern, None) for pattern in patterns)


def placeholders(pattern: str) -> tuple[str, ...]:
    """Returns the names in braces, in order."""
    return tuple(re.findall(r"{(\w+)}", pattern))


def matcher(pattern: str) -> re.Pattern[str]:
    """Returns the regular expression of `pattern`, each placeholder a named group of digits."""
    parts = re.split(r"{(\w+)}", pattern)
    return re.compile(
        "".join(f"(?P<{p}>\\d+)" if i % 2 else re.escape(p) for i, p in enumerate(parts))
    )
