"""The runner of benchmarks/h200.sh: what fails is said, and costs the other parts nothing."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

REPOSITORY = pathlib.Path(__file__).parents[2]
BENCHMARKS = REPOSITORY / "benchmarks"
RUNNER = BENCHMARKS / "h200" / "main.py"
PARTS = ("correctness", "attention", "dit", "train", "vae")
SIDE = """
import json, sys, time
part = sys.argv[1]
print("noise before it", flush=True)
if part == "{part}":
    {fault}
print("ROW " + json.dumps({{"what": "a", "ms": {ms}}}), flush=True)
"""


@pytest.fixture
def runner(monkeypatch):
    spec = importlib.util.spec_from_file_location("h200_main", RUNNER)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "h200_main", module)
    spec.loader.exec_module(module)
    return module


def run(runner, monkeypatch, tmp_path, *, part="none", fault="pass", flags=()):
    """Runs parts whose processes are small scripts; returns the exit status."""
    for name, ms in {"ours": 2.0, "torch": 4.0}.items():
        text = SIDE.format(part=part if name == "ours" else "none", fault=fault, ms=ms)
        (tmp_path / runner.FILES[name]).write_text(text)
    monkeypatch.setattr(runner, "HERE", tmp_path)
    given = ["--only", "dit", "vae", "--out", str(tmp_path / "out"), *flags]
    monkeypatch.setattr(sys, "argv", ["main.py", *given])
    try:
        runner.main()
    except SystemExit as error:
        assert "FAILED" in error.code  # said on stderr, with the status 1
        return 1
    return 0


def rows_of(tmp_path, part):
    return json.loads((tmp_path / "out" / f"{part}.json").read_text())["rows"]


def test_parts_are_reported_with_their_ratio(runner, monkeypatch, tmp_path, capsys):
    assert run(runner, monkeypatch, tmp_path) == 0
    report = json.loads((tmp_path / "out" / "dit.json").read_text())
    assert report["ratio"] == 0.5 and not report["failures"]
    assert [row["side"] for row in report["rows"]] == ["ours", "torch"]
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith('{"part"') for line in lines) == 2


def test_json_is_one_object(runner, monkeypatch, tmp_path, capsys):
    assert run(runner, monkeypatch, tmp_path, flags=["--json"]) == 0
    said = capsys.readouterr()
    reports = json.loads(said.out)
    assert {name: report["ratio"] for name, report in reports.items()} == {"dit": 0.5, "vae": 0.5}
    assert "ours / torch 0.5" in said.err


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("sys.exit('no such thing')", "no such thing"),
        ("time.sleep(60)", "not done in"),
        ("print('ROW ' + json.dumps({'what': 'b', 'failed': 'wrong numbers'}))", "wrong numbers"),
    ],
)
def test_a_failure_is_loud_and_the_next_part_runs(
    runner, monkeypatch, tmp_path, capsys, fault, said
):
    if "sleep" in fault:
        short = runner.dataclasses.replace(runner.PARTS["dit"], seconds={"ours": 3, "torch": 30})
        monkeypatch.setattr(runner, "PARTS", runner.PARTS | {"dit": short})
    assert run(runner, monkeypatch, tmp_path, part="dit", fault=fault) == 1
    out = capsys.readouterr().out
    assert said in out and "FAILED dit, ours" in out
    # The other side has its own time, whatever this one did with its own.
    assert "torch" in {row["side"] for row in rows_of(tmp_path, "dit")}
    assert json.loads((tmp_path / "out" / "vae.json").read_text())["ratio"] == 0.5


def test_parts_fit_into_eight_minutes(runner):
    assert sum(sum(part.seconds.values()) for part in runner.PARTS.values()) <= 470


def test_every_part_is_tried(runner):
    assert tuple(runner.PARTS) == PARTS


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_small_shapes_run_to_the_end_without_a_gpu(part):
    quick = "--xla_backend_optimization_level=0"  # to compile
    env = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": quick, "PYTHON": sys.executable}
    command = ["sh", str(BENCHMARKS / "h200.sh"), "--only", part, "--tiny", "--json"]
    done = subprocess.run(command, cwd=REPOSITORY, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout)[part]
    rows = [row for row in report["rows"] if row["what"] != "device"]
    assert not report["failures"]
    if part == "correctness":
        assert len(rows) >= 5
    else:
        assert {row["side"] for row in rows} == {"ours", "torch"} and report["ratio"] > 0
        assert all(value > 0 for row in rows for name, value in row.items() if name.endswith("ms"))


def test_the_peer_holds_the_types_that_diffusers_loads(monkeypatch, tmp_path):
    torch = pytest.importorskip("torch")
    for folder in (BENCHMARKS, BENCHMARKS / "h200"):
        monkeypatch.syspath_prepend(str(folder))
    peer = importlib.import_module("peer")
    model, forward, _ = peer.transformer(peer.TINY, torch.bfloat16)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    types, expected = ({n: p.dtype for n, p in m.named_parameters()} for m in (model, loaded))
    assert types == expected and set(types.values()) == {torch.bfloat16, torch.float32}
    with torch.no_grad():
        assert forward(model).dtype == torch.bfloat16
