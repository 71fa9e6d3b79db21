"""Meshes over TPU slices, as the TPU compiler describes them; nothing is compiled."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
COMPILER = pathlib.Path(sys.prefix) / "tpu" / "libtpu" / "libtpu.so"
compiles = pytest.mark.skipif(not COMPILER.exists(), reason="`make test` installs the TPU compiler")
SCRIPT = """
import json
import sys
from skyreels_jax.cli.planning.chips import topology
from skyreels_jax.parallel.mesh import MeshConfig, make_mesh
from skyreels_jax.parallel.placement import Placement
for line in sys.stdin:
    name, sizes, batch = json.loads(line)
    devices = topology(name)[1]
    placement = Placement(mesh=make_mesh(MeshConfig(**sizes), devices), rules=())
    hosts = sorted({device.process_index for device in devices})
    print(json.dumps([placement.rows(batch, process=host) for host in hosts]))
"""


def rows(cases):
    """Returns (blocks, count) of every process, for each (topology, mesh, batch)."""
    env = os.environ | {"TPU_LIBRARY_PATH": str(COMPILER), "PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}
    text = "\n".join(map(json.dumps, cases))
    options = {"capture_output": True, "text": True, "env": env, "timeout": 600}
    done = subprocess.run([sys.executable, "-c", SCRIPT], input=text, **options)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@compiles
def test_meshes_of_slices():
    """Those that no whole axes of the torus make, too; and every process knows its clips."""
    cases = [
        ("v5p:4x4x8", {"fsdp": 16, "context": 8}, 16),  # launch/gke_tpu.yaml
        ("v5p:4x4x8", {"fsdp": 64, "context": 2}, 64),
        ("v5p:4x4x8", {"fsdp": 128}, 128),
        ("v5p:4x4x4", {"fsdp": 8, "context": 8}, 16),
        ("v6e:16x16", {"fsdp": 128, "context": 2}, 128),
        ("v6e:16x16", {"fsdp": 64, "context": 4}, 64),
        ("v5e:4x4", {"fsdp": 4, "context": 4}, 8),
        ("tpu7x:4x4x4", {"fsdp": 64, "context": 2}, 64),
    ]
    found = rows(cases)
    for (name, sizes, _), processes in zip(cases, found, strict=True):
        held = [block for blocks, count in processes for block in blocks]
        assert {count for _, count in processes} == {sizes["fsdp"]}, name
        # Every block is somewhere, as often as processes share its clips.
        assert sorted(set(held)) == list(range(sizes["fsdp"])), name
    # On a pod they are no neighbours.
    assert any(blocks != list(range(blocks[0], blocks[-1] + 1)) for blocks, _ in found[0])
