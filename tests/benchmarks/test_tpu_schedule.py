"""What is read in the TPU compiler's dump, and how cases are compared; nothing is compiled."""

import argparse
import json
import pathlib
import sys

import pytest

sys.path.append(str(pathlib.Path(__file__).parents[2] / "benchmarks"))
import tpu_schedule  # noqa: E402

# As libtpu 0.0.42 writes it (its spelling too), of six bundles.
DUMP = """\
== CAPACTIY:
MXU, XLU, VALU, VPOP, EUP, VLOAD, VLOAD:FILL, VSTORE, VSTORE:SPILL, SALU
    2     2     4     2     1     3     3     2     2     2
== UTILIZATION:
0 0 0 0 0 1 0 0 0 2
0 2 0 0 0 1 0 0 0 0
0 2 4 0 0 2 0 1 0 0
2 0 0 1 0 0 0 1 1 0
2 0 1 2 0 1 3 1 1 0
2 0 1 2 1 0 0 0 0 0
"""


def test_shares_are_of_all_slots_of_all_bundles():
    found = tpu_schedule.schedule(DUMP, 2**18)
    assert found == {
        "bundles": 6,
        "bundles_per_2_20_scores": 24,
        "mxu": 0.5,  # 6 of 12
        "valu": 0.25,  # 6 of 24
        "spill": 0.167,  # 2 of 12
        "fill": 0.167,  # 3 of 18
    }


def test_a_dump_of_another_form_is_an_error():
    with pytest.raises(ValueError):  # an eleventh kind of slot
        tpu_schedule.schedule(DUMP.replace("     2\n", "     2     1\n"), 2**18)
    with pytest.raises(ValueError):
        tpu_schedule.schedule(DUMP.replace("== UTILIZATION:", "== USE:"), 2**18)


@pytest.mark.parametrize(
    ("given", "tiles"),
    [(None, None), ("256/512/128/256/1", (256, 512, 128, 256, 1))],
)
def test_cases_are_the_tables_unless_tiles_are_given(given, tiles):
    args = argparse.Namespace(
        chips=["v5p"], kernels=["dq"], sides=["ours", "splash"], tiles=given,
        splash_tiles="1024/2048/512", length=8192,
    )  # fmt: skip
    ours, splash = tpu_schedule.cases(args)
    from skyreels_jax.kernels.attention.tpu.tiles import TABLE

    expected = tiles or tuple(vars(TABLE["v5p"].dq).values())
    assert tuple(ours["tiles"].values()) == expected
    assert tuple(splash["tiles"].values()) == (1024, 2048, 1024, 512, 0)
    assert {case["kernel"] for case in (ours, splash)} == {"dq"}


def test_sides_are_compared_by_scores_and_failures_are_said(monkeypatch, capsys):
    """Ours with a tile of twice the scores, and a third more bundles."""

    def measure(case, *, limit):
        if case["kernel"] == "forward":
            return case | {"failed": "RESOURCE_EXHAUSTED: vmem"}
        rows = DUMP.splitlines()[4:]
        text = DUMP + "\n".join(rows[:2] if case["side"] == "ours" else [])
        return case | tpu_schedule.schedule(text, case["tiles"]["q"] * case["tiles"]["kv"])

    monkeypatch.setattr(tpu_schedule, "measure", measure)
    flags = "--chips v6e --kernels forward dq --tiles 64/64/64/64/1 --splash_tiles 64/32/32 --json"
    monkeypatch.setattr(sys, "argv", ["tpu_schedule.py", *flags.split()])
    with pytest.raises(SystemExit, match="2 of 4 were not compiled"):
        tpu_schedule.main()
    *failed, ours, splash = json.loads(capsys.readouterr().out)["rows"]
    assert all("vmem" in row["failed"] and "ratio" not in row for row in failed)
    assert (ours["bundles"], splash["bundles"]) == (8, 6)
    assert splash["ratio"] == pytest.approx(8 / 12, abs=1e-3) and "ratio" not in ours
