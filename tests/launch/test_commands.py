"""What scripts tell the programs that they call, which are played by recorders here."""

import pathlib
import shlex
import subprocess

import pytest

from skyreels_jax.cli.main import parse
from skyreels_jax.cli.train import read_config

LAUNCH = pathlib.Path(__file__).parents[2] / "launch"
RUNS = ("vae", "pretrain", "diffusion_forcing", "stories")
# Does what follows needs: a run its export, which is judged and makes results.
SKYREELS = """
if [[ "$*" == *"${FAILS:-never}"* ]]; then exit "$CODE"; fi
if [[ $1 == train ]]; then run=${3##*/}; mkdir -p "runs/toy/${run%.py}/export"; fi
if [[ $1 == evaluate ]]; then [[ -d $3 ]]; mkdir -p "${!#}"; touch "${!#}/results.json"; fi
"""
GCLOUD = """
if [[ $4 == describe ]]; then [[ -n $STATE ]]; echo "$STATE"; fi
if [[ $4 == ssh ]]; then exit "${CODE:-0}"; fi
"""


def recorder(path, does=""):
    """Makes a program that appends its name and arguments to $RECORD."""
    head = f'#!/bin/bash\nset -e\nprintf "%s\\0" {path.name} "$@" END >>"$RECORD"\n'
    path.write_text(head + does)
    path.chmod(0o755)


def called(folder, command, **variables):
    """Returns (exit code, [name, arguments...] of every recorded call, what was said)."""
    record = folder / "record"
    record.unlink(missing_ok=True)
    path = f"{folder / 'bin'}:/usr/bin:/bin"
    env = {"PATH": path, "HOME": str(folder), "RECORD": str(record), **variables}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    calls = record.read_text().split("\0END\0")[:-1] if record.exists() else []
    return done.returncode, [call.split("\0") for call in calls], done.stdout + done.stderr


@pytest.fixture
def speedrun(tmp_path):
    (tmp_path / "bin").mkdir()
    recorder(tmp_path / "bin" / "skyreels-jax", SKYREELS)

    def run(**variables):
        code, calls, _ = called(tmp_path, ["bash", LAUNCH / "speedrun.sh"], **variables)
        return code, [parse(call[1:]) for call in calls]

    return run


def told(args):
    """Returns a command and the run that it is about."""
    about = {"train": lambda: pathlib.Path(args.config).stem, "report": lambda: ""}
    return args.command, about.get(args.command, lambda: pathlib.Path(args.model).parent.name)()


def test_the_speedrun_trains_judges_and_reports_in_order(speedrun):
    code, calls = speedrun(NUM="7")
    wanted = [(command, run) for run in RUNS for command in ("train", "evaluate")]
    wanted.remove(("evaluate", "vae"))
    assert code == 0 and [told(args) for args in calls] == [*wanted, ("report", "")]
    outs = []
    for args in calls[:-1]:
        if args.command == "train":
            outs.append(read_config(str(LAUNCH.parent / args.config))["out"])
        else:
            assert args.model == f"{outs[-1]}/export" and args.num == 7
    report = calls[-1]
    assert [str(run) for run in report.runs] == outs
    judged = {args.outdir for args in calls if args.command == "evaluate"}
    assert judged == {report.evals / run for run in RUNS[1:]}


@pytest.mark.parametrize("code", [2, 75])
@pytest.mark.parametrize(
    "failing", [("train", "diffusion_forcing"), ("evaluate", "diffusion_forcing"), ("report", "")]
)
def test_a_stopped_speedrun_goes_on_and_judges_nothing_twice(speedrun, failing, code):
    command, run = failing
    fails = f"{run}.py" if command == "train" else f"{run}/export" if run else "report"
    ended, first = speedrun(FAILS=fails, CODE=str(code))
    assert ended == code and told(first[-1]) == failing
    again, second = speedrun()
    assert again == 0
    trained = [told(args)[1] for args in second if args.command == "train"]
    assert trained == list(RUNS)  # each of them sees by itself how far it is
    judged = [told(args)[1] for args in (*first[:-1], *second) if args.command == "evaluate"]
    assert judged == list(RUNS[1:])


TRAIN = ("--config", "configs/film/sft_720p.py:14b", "--set", "lora={'rank': 2, \"alpha\": 2}")
SLICE = {"NAME": "film", "ZONE": "z-1", "TYPE": "v5p-256", "SHARE": "10.0.0.2:/runs"}
SLICE |= {"REPOSITORY": "https://example.org/skyreels_jax"}


@pytest.fixture
def tpu_vm(tmp_path):
    (tmp_path / "bin").mkdir()
    recorder(tmp_path / "bin" / "gcloud", GCLOUD)

    def run(**variables):
        return called(tmp_path, ["bash", LAUNCH / "tpu_vm.sh", *TRAIN], **SLICE, **variables)

    return run


@pytest.mark.parametrize(
    ("state", "verbs"),
    [
        ("", ["describe", "create", "ssh"]),
        ("READY", ["describe", "ssh"]),
        ("PREEMPTED", ["describe", "delete", "create", "ssh"]),
        ("TERMINATED", ["describe", "delete", "create", "ssh"]),
    ],
)
def test_a_slice_is_made_where_there_is_none(tpu_vm, state, verbs):
    code, calls, said = tpu_vm(STATE=state, SPOT="1", CODE="3")
    assert code == 3, said  # of the training
    assert [call[4] for call in calls] == verbs
    for call in calls:
        assert call[:4] == ["gcloud", "compute", "tpus", "tpu-vm"] and call[5] == "film"
        assert call[-2:] == ["--zone", "z-1"]
        assert ("--spot" in call) == ("v5p-256" in call) == (call[4] == "create")


def test_no_slice_without_its_name(tmp_path, tpu_vm):
    code, calls, said = called(tmp_path, ["bash", LAUNCH / "tpu_vm.sh", *TRAIN])
    assert code != 0 and not calls and "a name for the slice" in said


@pytest.mark.parametrize("mounted", [True, False])
def test_what_every_host_of_a_slice_does(tmp_path, tpu_vm, mounted):
    *_, ssh = tpu_vm(STATE="READY")[1]
    assert "--worker=all" in ssh
    command = ssh[ssh.index("--command") + 1]
    subprocess.run(["bash", "-n"], input=command, text=True, check=True)
    assert shlex.split(command.splitlines()[-1])[1:] == ["train", "--hosts", "auto", *TRAIN]

    recorder(tmp_path / "bin" / "mountpoint", f"exit {int(not mounted)}\n")
    recorder(tmp_path / "bin" / "sudo")
    recorder(tmp_path / "bin" / "git", "if [[ $1 == clone ]]; then mkdir skyreels_jax; fi\n")
    venv = 'if [[ "$*" == *venv* ]]; then mkdir -p .venv/bin; cp "$0" .venv/bin/pip; '
    recorder(tmp_path / "bin" / "python3.11", f'{venv}cp "$0" .venv/bin/skyreels-jax; fi\n')
    recorder(tmp_path / "bin" / "python3")
    for again in (False, True):
        code, calls, said = called(tmp_path, ["bash", "-c", command])
        assert code == 0, said
        names = [" ".join(call[:2]) for call in calls]
        assert ("git clone" in names) is not again and "git pull" in names
        assert ("python3.11 -m" in names) is not again
        shared = ["sudo", "mount", "-t", "nfs", SLICE["SHARE"], "/runs"]
        assert (shared in calls) is not mounted
        # Recorders keep the name that they were made with.
        assert calls[-2][1:] == ["install", "--quiet", "--editable", ".[tpu]"]
        assert calls[-1][1:] == ["train", "--hosts", "auto", *TRAIN]
