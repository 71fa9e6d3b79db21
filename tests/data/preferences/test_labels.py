"""Labels of people: reading, agreement, discard rules."""

import json
import math

import numpy as np
import pytest

from skyreels_jax.core.errors import UserError
from skyreels_jax.data.preferences.agreement import krippendorff_alpha
from skyreels_jax.data.preferences.labels import (
    Judgement,
    LabelRules,
    check_known,
    consensus,
    read_judgements,
)

# Krippendorff 2011, section D: four observers, twelve units, five values; ordinal alpha 0.815.
PUBLISHED = (
    "1 2 3 3 2 1 4 1 2 . . .",
    "1 2 3 3 2 2 4 1 2 5 . 3",
    ". 3 3 3 2 3 4 2 2 5 1 .",
    "1 2 3 3 2 4 4 1 2 5 1 .",
)


def said(pair, *labels):
    """One judgement of each of several annotators; what is no label is a reason to discard."""
    legal = ("better", "worse", "tie")
    return [
        Judgement(annotator=f"a{i}", pair=pair, label=label)
        if label in legal
        else Judgement(annotator=f"a{i}", pair=pair, label="discard", reason=label)
        for i, label in enumerate(labels)
    ]


def test_alpha_is_the_published_one():
    rows = [row.split() for row in PUBLISHED]
    units = [[int(v) - 1 for v in unit if v != "."] for unit in zip(*rows, strict=True)]
    assert krippendorff_alpha(units, 5) == pytest.approx(0.815, abs=5e-4)


def test_alpha_at_its_ends():
    assert krippendorff_alpha([[0, 0], [1, 1], [2, 2, 2]], 3) == 1
    assert krippendorff_alpha([[0, 2]] * 20, 3) < 0
    assert math.isnan(krippendorff_alpha([[1, 1], [1, 1]], 3))
    assert math.isnan(krippendorff_alpha([[0], [2], []], 3))
    rng = np.random.default_rng(0)
    assert abs(krippendorff_alpha(rng.integers(0, 3, (3000, 3)).tolist(), 3)) < 0.03
    far, near = ([[0, 0], [2, 2], [1, 1], [0, other]] * 5 for other in (2, 1))
    assert krippendorff_alpha(far, 3) < krippendorff_alpha(near, 3)


def test_majority_ties_and_discards():
    found = consensus(
        [
            *said("clear", "better", "better", "worse"),
            *said("split", "better", "worse"),
            *said("three", "better", "worse", "tie"),
            *said("equal", "tie", "tie"),
            *said("small", "small_subject", "better", "small_subject"),
            *said("half", "content_mismatch", "better"),
            *said("one", "worse", "worse", "unclear_subject"),
            *said("alone", "better"),
        ],
        LabelRules(min_annotators=2),
    )
    assert found.labels == {"clear": "better", "equal": "tie", "one": "worse"}
    assert found.dropped == {
        "split": "undecided",
        "three": "undecided",
        "small": "small_subject",
        "half": "content_mismatch",
        "alone": "too_few_annotators",
    }
    assert found.annotators == 3
    table = " ".join(found.table().split())
    assert "pairs 8" in table and "dropped undecided 2 25.0 %" in table
    lenient = consensus(said("half", "content_mismatch", "better"), LabelRules(discard_share=0.6))
    assert lenient.labels == {"half": "better"}


def test_csv_and_jsonl_say_the_same(tmp_path):
    rows = [
        {"annotator": "ann", "pair": "p1", "label": "better", "reason": ""},
        {"annotator": "ann", "pair": "p2", "label": "discard", "reason": "small_subject"},
    ]
    table, lines = tmp_path / "a.csv", tmp_path / "b.jsonl"
    table.write_text(
        "\ufeffannotator,pair,label,reason\n" + "\n".join(",".join(r.values()) for r in rows)
    )
    lines.write_text("\n".join(json.dumps(r | {"sheet": "x", "seed": 1}) for r in rows) + "\n\n")
    assert read_judgements([table]) == read_judgements([lines])
    with pytest.raises(UserError, match="b.jsonl:1: a second label of 'ann' for pair 'p1'"):
        read_judgements([table, lines])


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("a.csv", "annotator,pair,label\nx,p,good", "a.csv:2: label 'good' is not one of better"),
        ("a.csv", "annotator,pair,lable\nx,p,tie", "no field 'lable'; did you mean 'label'"),
        ("a.csv", "annotator,pair\nx,p", "needs label"),
        ("a.csv", "annotator,pair,label\nx,p,tie,oh", "no field 'too many columns'"),
        ("a.csv", "annotator,pair,label\nx,p,discard", "needs|no field|reason '' is not one of"),
        ("a.csv", "annotator,pair,label,reason\nx,p,tie,small_subject", "with discard alone"),
        ("a.csv", "annotator,pair,label\n,p,tie", "needs an annotator"),
        ("a.csv", "annotator,pair,label\n", "no labels in"),
        ("a.jsonl", "{", "a.jsonl:1: not json"),
        ("a.jsonl", "[]", "not an object"),
        ("a.jsonl", '{"annotator": 3, "pair": "p", "label": "tie"}', "expected str, got 3"),
        ("a.txt", "", "legal endings: .csv, .jsonl"),
    ],
)
def test_bad_files(tmp_path, name, text, complaint):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(UserError, match=complaint):
        read_judgements([path])


def test_missing_files_unknown_pairs_and_bad_rules(tmp_path):
    for name in ("none.csv", "none.jsonl"):
        with pytest.raises(UserError, match="cannot read"):
            read_judgements([tmp_path / name])
    with pytest.raises(UserError, match="labels name pair 'q'"):
        check_known(["p", "q"], ["p"])
    for bad in ({"min_annotators": 0}, {"discard_share": 0.0}, {"discard_share": 1.5}):
        with pytest.raises(UserError, match="legal: min_annotators"):
            LabelRules(**bad)
