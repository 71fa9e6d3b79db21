"""Labels of people: read from csv or jsonl, checked, and brought to one label a pair.

SkyReels-V2 (arXiv 2504.13074, section on reinforcement learning) has annotators say better, worse
or tie by a motion rubric, and drops pairs whose content or quality do not match, whose subject is
unclear or too small, or whose background is complex - about 80 % of them.
"""

import collections
import csv
import dataclasses
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

from skyreels_jax.core.config import from_dict
from skyreels_jax.core.errors import UserError
from skyreels_jax.core.labels import LABELS
from skyreels_jax.data.preferences.agreement import krippendorff_alpha
from skyreels_jax.data.preferences.pair_files import json_lines
from skyreels_jax.data.preferences.records import Preference, check_label

DISCARD = "discard"
REASONS = (
    *("content_mismatch", "quality_mismatch", "unclear_subject", "small_subject"),
    "complex_background",
)
# Why a pair has no label though people saw it.
TOO_FEW, UNDECIDED = "too_few_annotators", "undecided"
SHEET_FIELDS = ("sheet", "seed", "swapped")  # what a labelling sheet also writes
_ORDER = {"worse": 0, "tie": 1, "better": 2}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judgement:
    """What `annotator` says of `pair`: the chosen clip is better, worse or equal (tie), or the pair
    is to be discarded, for one of `REASONS`. Raises `UserError` for anything else."""

    annotator: str
    pair: str
    label: str
    reason: str = ""

    def __post_init__(self):
        check_label(self.label, (*LABELS, DISCARD))
        if not self.annotator or not self.pair:
            raise UserError("a label needs an annotator and a pair")
        if self.label == DISCARD and self.reason not in REASONS:
            raise UserError(f"reason {self.reason!r} is not one of {', '.join(REASONS)}")
        if self.label != DISCARD and self.reason:
            raise UserError(f"reason {self.reason!r} for {self.label}; legal: with {DISCARD} alone")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelRules:
    """When a pair is kept.

    min_annotators: who have seen it. discard_share: of them who would discard it, at which it is.
    Its label is that of more than half of the others; without such a label it is dropped.
    Raises `UserError` for numbers that mean nothing.
    """

    min_annotators: int = 1
    discard_share: float = 0.5

    def __post_init__(self):
        if self.min_annotators < 1 or not 0 < self.discard_share <= 1:
            raise UserError("legal: min_annotators 1 and more, discard_share in (0, 1]")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Consensus:
    """What came out: `labels` of the pairs that are kept, why the others are `dropped`, and how far
    the annotators agree (`alpha`, NaN where it says nothing)."""

    annotators: int
    labels: Mapping[str, str]
    dropped: Mapping[str, str]
    alpha: float

    def table(self) -> str:
        """Returns all of it as text."""
        seen = len(self.labels) + len(self.dropped)
        lines = [f"{'pairs':<22}{seen:>7}", f"{'annotators':<22}{self.annotators:>7}"]
        alpha = "none" if self.alpha != self.alpha else f"{self.alpha:.3f}"
        lines.append(f"{'Krippendorff alpha':<22}{alpha:>7}")
        for title, counts in (("label", self.labels), ("dropped", self.dropped)):
            for name, count in collections.Counter(counts.values()).most_common():
                lines.append(f"{title + ' ' + name:<30}{count:>7} {100 * count / seen:>6.1f} %")
        return "\n".join(lines)


def read_judgements(paths: Sequence[pathlib.Path]) -> list[Judgement]:
    """Returns what all files say: .csv with a header, or .jsonl, with the fields of `Judgement`.

    Raises `UserError` with file and line for the first bad one, for a pair that one annotator
    labels twice, and for files without labels.
    """
    made = {}
    for path in paths:
        for number, row in _rows(path):
            try:
                one = from_dict(Judgement, row, ignore=SHEET_FIELDS)
                if (one.annotator, one.pair) in made:
                    raise UserError(f"a second label of {one.annotator!r} for pair {one.pair!r}")
            except UserError as error:
                raise UserError(f"{path}:{number}: {error}") from None
            made[one.annotator, one.pair] = one
    if not made:
        raise UserError(f"no labels in {', '.join(map(str, paths))}")
    return list(made.values())


def consensus(judgements: Iterable[Judgement], rules: LabelRules) -> Consensus:
    """Returns one label for each pair, or why it has none."""
    by_pair = collections.defaultdict(list)
    for one in judgements:
        by_pair[one.pair].append(one)
    labels, dropped, units = {}, {}, []
    for pair, said in by_pair.items():
        given = [one.label for one in said if one.label != DISCARD]
        reasons = [one.reason for one in said if one.label == DISCARD]
        units.append([_ORDER[label] for label in given])
        if len(said) < rules.min_annotators:
            dropped[pair] = TOO_FEW
        elif reasons and len(reasons) >= rules.discard_share * len(said):
            dropped[pair] = collections.Counter(reasons).most_common(1)[0][0]
        else:
            (label, count) = collections.Counter(given).most_common(1)[0]
            if 2 * count > len(given):
                labels[pair] = label
            else:
                dropped[pair] = UNDECIDED
    return Consensus(
        annotators=len({one.annotator for said in by_pair.values() for one in said}),
        labels=labels,
        dropped=dropped,
        alpha=krippendorff_alpha(units, len(_ORDER)),
    )


def relabelled(pairs: Iterable[Preference], labels: Mapping[str, str]) -> Iterator[Preference]:
    """Yields those of `pairs` that have a label, with it."""
    for pair in pairs:
        if pair.id in labels:
            yield dataclasses.replace(pair, label=labels[pair.id])


def check_known(said: Iterable[str], known: Iterable[str]) -> None:
    """Raises `UserError` for the first pair that people label and that is not among the known."""
    known = set(known)
    for pair in said:
        if pair not in known:
            raise UserError(f"labels name pair {pair!r}, which the preferences do not have")


def _rows(path: pathlib.Path) -> Iterator[tuple[int, Mapping]]:
    if path.suffix.lower() == ".jsonl":
        yield from json_lines(path)
        return
    if path.suffix.lower() != ".csv":
        raise UserError(f"cannot read labels from {path.name!r}; legal endings: .csv, .jsonl")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True, restkey="too many columns", restval="")
            for row in reader:
                yield reader.line_num, row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read {str(path)!r}: {error}") from None
