"""What benchmarks share, on sides of a few lines: processors, ratios, loud failures."""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

import numpy as np
import pytest

BENCHMARKS = pathlib.Path(__file__).parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))
import film as film_script  # noqa: E402
import topology  # noqa: E402
from film import psnr  # noqa: E402

SCRIPT = """
'''About.'''
import os, sys, time
import numpy as np
from machine import PEAK
from side_by_side import OURS, compare, parse, parser, show
from worker import Case, work

def side(seconds, value, ends=None, size=3, fetch=0):
    def cases(args):
        if ends == "start":
            sys.exit("no such library")
        calls = []
        def run():
            calls.append(0)
            if ends == "turn" and len(calls) == 2:  # one to warm up
                os._exit(7)
            time.sleep(seconds)
            return np.full(size, value, np.float32)
        def array(found):
            time.sleep(fetch)
            return found
        def product():
            time.sleep(0.01)
        print("a library prints what it likes")
        cases = {{"a": Case(run, 2.0, array=array), PEAK: Case(product, 1.0)}}
        return cases | {{"processors": Case(count, 1.0, array=np.asarray)}}
    return cases

def count():
    return np.float32([len(os.sched_getaffinity(0)), int(os.environ["OMP_NUM_THREADS"])])

def refuses(args):
    return {{"a": Case(None, refused="too large"), "b": Case(lambda: None)}}

made = parser(__doc__, runs=3)
args = parse(made)
SIDES = {{OURS: {ours}, "other": {other}}}
if args.worker:
    work(args.worker, SIDES, args)
else:
    show(compare(__file__, SIDES, args), args)
"""


@pytest.fixture
def run(tmp_path):
    def started(*flags, ours="side(0.02, 1)", other="side(0.04, 1)"):
        path = tmp_path / "script.py"
        path.write_text(SCRIPT.format(ours=ours, other=other))
        env = {**os.environ, "PYTHONPATH": str(BENCHMARKS)}
        command = [sys.executable, str(path), *flags]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)

    return started


def test_ratios_are_ours_by_the_peers_and_shares_are_of_the_peak(run):
    done = run("--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    case = result["cases"]["a"]
    assert [len(case[side]["seconds"]) for side in ("ours", "other")] == [3, 3]
    assert 0.3 < case["ratio"] < 0.9 and case["difference"] == 0
    assert 0 < result["peak"]["flops_per_second"] <= 100  # an operation in 0.01 s
    for side in ("ours", "other"):  # the operations that ours says are also the other one's
        speed = 2 / statistics.median(case[side]["seconds"])
        share = speed / result["peak"]["flops_per_second"]
        assert case[side]["peak_fraction"] == pytest.approx(share)
    assert "matmul" not in result["cases"] and result["peer"] == "other"


def test_fetching_what_is_compared_takes_no_time_that_counts(run):
    done = run("--json", "--runs", "1", ours="side(0, 1, fetch=0.5)")
    assert done.returncode == 0, done.stderr
    case = json.loads(done.stdout)["cases"]["a"]
    assert case["ours"]["seconds"][0] < 0.4 and case["difference"] == 0
    done = run("--runs", "1", ours="side(0, 2, fetch=0.5)")
    assert done.returncode == 1 and "FAILED a: the sides differ" in done.stderr


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_both_sides_have_the_processors_that_are_asked_for(run):
    one = "lambda args: {'processors': Case(lambda: np.float32([1, 1]), array=np.asarray)}"
    for sides in ({}, {"other": one}, {"ours": one}):
        done = run("--json", "--threads", "1", "--runs", "1", **sides)
        assert done.returncode == 0, done.stderr
        result = json.loads(done.stdout)
        assert result["threads"] == 1 and result["cases"]["processors"]["difference"] == 0
    many = len(os.sched_getaffinity(0)) + 1
    done = run("--threads", str(many))
    assert done.returncode == 1 and f"may use 1 to {many - 1} processors" in done.stderr
    assert run("--runs", "0").returncode == 2


def test_the_table(run):
    done = run("--runs", "1")
    assert done.returncode == 0, done.stderr
    head, ours, other, *_, peak = done.stdout.splitlines()
    assert head.split()[:5] == ["case", "side", "min", "median", "max"]
    assert ours.split()[:2] == ["a", "ours"] and "%" in ours and "%" in other
    assert len(other.split()) == len(ours.split()) + 2 and peak.startswith("peak: ")
    assert "library" not in done.stdout


def test_what_is_refused_is_said_and_not_compared(run):
    done = run("--json", "--runs", "1", ours="refuses")
    assert done.returncode == 0, done.stderr
    cases = json.loads(done.stdout)["cases"]
    assert cases["a"] == {"ours": {"refused": "too large"}}
    assert "ours" in cases["b"] and "ratio" not in cases["b"]
    assert "not run: too large" in run("--runs", "1", ours="refuses").stdout


@pytest.mark.parametrize(
    ("sides", "said"),
    [
        ({"ours": "side(0, 1, 'start')"}, "ours ended (1) at: it began"),
        ({"other": "side(0, 1, 'start')"}, "other ended (1) at: it began"),
        ({"other": "side(0, 1, 'turn')"}, "other ended (7) at: a"),
    ],
)
def test_a_side_that_ends_is_a_failure_without_a_table(run, sides, said):
    done = run(**sides)
    assert done.returncode == 1 and said in done.stderr and not done.stdout
    assert "Traceback" not in done.stderr
    if "start" in str(sides):
        assert "no such library" in done.stderr


@pytest.mark.parametrize(
    ("ours", "said"),
    [
        ("side(0, 1.1)", "a: the sides differ by 0.1"),
        ("side(0, float('nan'))", "a: the sides differ by nan"),
        ("side(0, 1, size=4)", "a: the sides gave arrays of (4,) and (3,)"),
    ],
)
@pytest.mark.parametrize("flags", [(), ("--json",)], ids=["table", "json"])
def test_sides_that_differ_are_a_failure(run, ours, said, flags):
    done = run("--runs", "1", *flags, ours=ours)
    assert done.returncode == 1 and f"FAILED {said}" in done.stderr
    if flags:
        assert json.loads(done.stdout)["failures"][0].startswith(said)


def test_two_films_are_no_comparison():
    film = np.full((1, 5, 4, 4, 3), 100, np.uint8)
    assert psnr(film, film)[1] == ""
    values, wrong = psnr(film, film + 1)
    assert values["psnr_db"] == pytest.approx(48.13, abs=0.01) and not wrong
    assert "agree to 28.1 dB alone" in psnr(film, film + 10)[1]
    assert "shapes" in psnr(film, film[:, :1])[1]


def test_films_of_two_shapes_are_said(monkeypatch, capsys):
    def compare(*_, agreement):
        values, wrong = agreement(np.zeros((5, 4, 4, 3)), np.zeros((1, 4, 4, 3)))
        case = {"ratio": 0.5, "processor_ratio": 0.5, **values}
        return {"cases": {"film": case}, "failures": [f"film: {wrong}"]}

    monkeypatch.setattr(film_script, "compare", compare)
    monkeypatch.setattr(film_script, "parse", lambda made: made.parse_args())
    monkeypatch.setattr(sys, "argv", ["film.py", "--json"])
    with pytest.raises(SystemExit, match="FAILED film: the films have the shapes"):
        film_script.main()
    assert json.loads(capsys.readouterr().out)["ratio"] == 0.5


def test_a_refusal_is_no_other_error():
    refusal = topology.refusal
    assert refusal(NotImplementedError("heads of 64 only\nand more")) == "heads of 64 only"
    assert refusal(RuntimeError("RESOURCE_EXHAUSTED: vmem")) == "RESOURCE_EXHAUSTED: vmem"
    with pytest.raises(TypeError, match="a mistake"):
        refusal(TypeError("a mistake"))


@pytest.mark.parametrize("json_", [True, False], ids=["json", "table"])
def test_programs_that_are_all_refused_are_a_failure(monkeypatch, capsys, json_):
    cases = {"a": {"refused": "too large"}, "b": {"refused": "heads of 64 only"}}
    monkeypatch.setattr(topology, "compiled_for", lambda *_: cases)
    args = argparse.Namespace(topology="v5p:2x2x1", json=json_)
    with pytest.raises(SystemExit, match="every program was refused"):
        topology.show_compiled(args, {})
    assert "too large" in capsys.readouterr().out
    cases["b"] = {"held_gib": 1.0, "temporary_gib": 2.0}
    topology.show_compiled(args, {})  # one of them is enough
