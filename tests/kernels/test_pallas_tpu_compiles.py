"""Our kernels for TPUs through the real TPU compiler, for every chip; needs no TPU."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

COMPILER = pathlib.Path(sys.prefix) / "tpu" / "libtpu" / "libtpu.so"
pytestmark = pytest.mark.skipif(
    not COMPILER.exists(), reason="`make test` installs the TPU compiler"
)
TOPOLOGIES = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2", "tpu7x": "tpu7x:2x2x1"}

START = """
import json, sys
import jax, jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding
from skyreels_jax.kernels.attention import Attention, Mask, attention, attention_lse
from skyreels_jax.kernels.attention.tpu import tiles

said = json.loads(sys.argv[1])
devices = topologies.get_topology_desc(said["topology"], platform="tpu").devices

def program(function, *inputs):
    print(json.dumps(jax.jit(function).lower(*inputs).compile().as_text()))
"""

ALONE = """
if said["dtype"] == "bfloat16":
    table = tiles.TABLE[said["chip"]]
    tiles.passes = lambda dtype: table
placed = SingleDeviceSharding(devices[0])
length = 40_000  # so that tiles are the largest
x = jax.ShapeDtypeStruct((1, length, 1, said["width"]), said["dtype"], sharding=placed)
n = jax.ShapeDtypeStruct((1,), "int32", sharding=placed)
w = jax.ShapeDtypeStruct((1, length), "float32", sharding=placed)

def total(q, k, v, n, w):
    weight = w if said["weighted"] else None
    mask = Mask(kv_length=n, causal_block=1560, kv_weight=weight)
    out, lse = attention_lse(q, k, v, mask=mask, platform="tpu")
    return jnp.sum(out.astype(jnp.float32)) + jnp.sum(lse)

program(jax.grad(total, (0, 1, 2)), x, x, x, n, w)
"""

DIVIDED = """
from skyreels_jax.parallel.context import QUERIES, ContextAttention
from skyreels_jax.parallel.mesh import MeshConfig, make_mesh

mesh = make_mesh(MeshConfig(context=4), devices[:4])
kernels = Attention("tpu", "pallas_tpu")
attend = ContextAttention(mesh=mesh, kind=said["kind"], attention=kernels)
placed = NamedSharding(mesh, QUERIES)
x = jax.ShapeDtypeStruct((1, 4, 256, 4, 64), "bfloat16", sharding=placed)

def total(q, k, v):
    return jnp.sum(attend(q, k, v, mask=Mask(causal_block=512)).astype(jnp.float32))

program(jax.grad(total, (0, 1, 2)), x, x, x)
"""


def compiled(code: str, **said: str | int | bool) -> str:
    """Returns the text of the program that `code` compiles for a TPU."""
    env = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "",
        "TPU_LIBRARY_PATH": str(COMPILER),
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_LOG_DIR": "disabled",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }
    command = [sys.executable, "-c", START + code, json.dumps(said)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("chip", "dtype", "width", "weighted"),
    [
        ("v5e", "bfloat16", 128, False),
        ("v5p", "bfloat16", 128, False),
        ("v6e", "bfloat16", 64, False),
        ("tpu7x", "bfloat16", 128, False),
        ("v6e", "float32", 128, False),
        ("v5e", "bfloat16", 128, True),
        ("v6e", "bfloat16", 128, True),
    ],
)
def test_the_tiles_of_every_chip_forward_and_backward(chip, dtype, width, weighted):
    said = {"chip": chip, "topology": TOPOLOGIES[chip], "dtype": dtype, "width": width}
    text = compiled(ALONE, **said, weighted=weighted)
    for kernel in ("attention_forward", "attention_dq", "attention_dkv"):
        assert kernel in text


@pytest.mark.parametrize(
    ("kind", "planned", "other"),
    [
        ("ring", "collective-permute", "all-to-all"),
        ("ulysses", "all-to-all", "collective-permute"),
    ],
)
def test_divided_tokens_are_exchanged_as_planned(kind, planned, other):
    text = compiled(DIVIDED, kind=kind, topology="v5e:2x2")
    assert "attention_forward" in text and "attention_dkv" in text
    assert planned in text and other not in text and "all-gather" not in text
