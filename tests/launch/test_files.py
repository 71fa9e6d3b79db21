"""What is handed to clusters: scripts are bash, JobSets ask for the devices that they use."""

import json
import math
import os
import pathlib
import re
import subprocess

import pytest
import yaml

from skyreels_jax.cli.main import parse
from skyreels_jax.cli.train import read_config, resolved

LAUNCH = pathlib.Path(__file__).parents[2] / "launch"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")])
JOBSETS = sorted(LAUNCH.glob("*.yaml"))


def names(paths):
    return [path.name for path in paths]


def train_args(container):
    """Returns what host number 3 is told, as the command line reads it."""
    command = [part.replace("$(JOB_COMPLETION_INDEX)", "3") for part in container["command"]]
    return parse(command[1:])


def assert_within(place, args):
    """What a run reads and writes lies under `place`, which all hosts share."""
    _, config = resolved(read_config(str(LAUNCH.parent / args.config)), args.set)
    folders = [args.out, config.data.features, *([config.start] if config.start else [])]
    assert all(folder.startswith(f"{place}/") for folder in folders), folders


def test_nothing_is_forgotten():
    assert len(SCRIPTS) >= 3 and len(JOBSETS) >= 2
    others = {path.name for path in LAUNCH.iterdir()} - {*names(SCRIPTS), *names(JOBSETS)}
    assert others == {"README.md", "Dockerfile"}
    told = (LAUNCH / "README.md").read_text()
    assert all(f"`{name}`" in told for name in (*names(SCRIPTS), *names(JOBSETS)))


@pytest.mark.parametrize("script", SCRIPTS, ids=names(SCRIPTS))
def test_scripts_are_bash(script):
    done = subprocess.run(["bash", "-n", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "set -euo pipefail" in script.read_text()


@pytest.mark.parametrize("script", SCRIPTS, ids=names(SCRIPTS))
def test_empty_arrays_are_no_error_to_an_old_bash(script):
    """Before 4.4 they are unset variables to it."""
    text = script.read_text()
    for name in re.findall(r"(\w+)=\(\)", text):
        safe = f'${{{name}[@]+"${{{name}[@]}}"}}'
        assert f'"${{{name}[@]}}"' not in text.replace(safe, "") and safe in text


def test_the_examples_for_tpu_vms_are_on_the_share():
    cells = json.loads((LAUNCH.parent / "notebooks" / "train_on_tpu.ipynb").read_text())["cells"]
    for text in ((LAUNCH / "tpu_vm.sh").read_text(), "".join(cells[-1]["source"])):
        told = re.sub(r"\\\n#?", "", text)
        args = re.search(r"launch/tpu_vm.sh +(--config .*)", told)[1].split()
        assert_within("/runs", parse(["train", *args]))


@pytest.mark.parametrize("code", [0, 1, 75])
def test_slurm_has_all_devices_and_goes_on(tmp_path, code):
    """In an empty folder: SLURM itself opens the log, before the script runs."""
    text = (LAUNCH / "slurm.sbatch").read_text()
    asked = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", text, re.MULTILINE))
    assert asked["ntasks-per-node"] == "1" and asked["open-mode"] == "append"
    assert "/" not in asked["output"] and {"requeue", "signal"} <= set(asked)
    srun = f'echo "$@" "$JAX_LOCAL_DEVICE_IDS" "$SRUN_CPUS_PER_TASK"; exit {code}'
    for name, does in (("srun", srun), ("scontrol", 'echo "$@"')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "12"}
    env |= {"SLURM_GPUS_ON_NODE": asked["gpus-per-node"]}
    env |= {"SLURM_CPUS_PER_TASK": asked["cpus-per-task"]}
    command = ["bash", LAUNCH / "slurm.sbatch", "--config", "x.py"]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == (0 if code == 75 else code), done.stderr
    step, *then = done.stdout.splitlines()
    assert "--hosts auto" in step and step.endswith("--config x.py 0,1,2,3,4,5,6,7 32")
    assert then == (["requeue 12"] if code == 75 else [])


@pytest.mark.parametrize("path", JOBSETS, ids=names(JOBSETS))
def test_jobsets_use_the_devices_they_ask_for(path):
    jobset = yaml.safe_load(path.read_text())
    assert jobset["kind"] == "JobSet" and jobset["spec"]["failurePolicy"]["maxRestarts"] > 0
    (job,) = jobset["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    hosts = spec["completions"]
    assert job["replicas"] == 1 and spec["parallelism"] == hosts and spec["backoffLimit"] == 0
    # A lost host ends all, and a new pod beside the old ones would be nobody's.
    assert pod["restartPolicy"] == "Never" and pod["terminationGracePeriodSeconds"] >= 60

    asked = container["resources"]["limits"]
    assert container["resources"].get("requests", asked) == asked
    ((resource, each),) = asked.items()
    devices = hosts * each
    if resource == "google.com/tpu":
        topology = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
        assert math.prod(map(int, topology.split("x"))) == devices
    else:
        assert resource == "nvidia.com/gpu"
        assert "cloud.google.com/gke-accelerator" in pod["nodeSelector"]

    args = train_args(container)
    assert container["command"][:2] == ["skyreels-jax", "train"]
    assert args.stopped_code not in (0, 1, 2, 130)  # 0 would be a completed job
    sizes = [int(item.partition("=")[2]) for item in args.set if item.startswith("mesh.")]
    assert sizes == [-1] or math.prod(sizes) == devices
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert {volume["name"] for volume in pod["volumes"]} == set(mounts)
    (place,) = mounts.values()
    assert_within(place, args)


@pytest.mark.parametrize("path", JOBSETS, ids=names(JOBSETS))
def test_jobsets_find_each_other(path):
    jobset = yaml.safe_load(path.read_text())
    (job,) = jobset["spec"]["replicatedJobs"]
    (container,) = job["template"]["spec"]["template"]["spec"]["containers"]
    args = train_args(container)
    if args.hosts == "auto":  # of TPUs the cluster says
        assert args.host_count is None and "google.com/tpu" in container["resources"]["limits"]
        return
    host, _, port = args.hosts.partition(":")
    name = jobset["metadata"]["name"]
    assert host == f"{name}-{job['name']}-0-0.{name}" and 1024 < int(port) < 65536
    assert args.host_index == 3
    assert args.host_count == job["template"]["spec"]["completions"]
    assert job["template"]["spec"]["completionMode"] == "Indexed"
    assert "JOB_COMPLETION_INDEX" in {entry["name"] for entry in container["env"]}
