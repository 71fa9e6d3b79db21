"""Inputs of layers in the host's memory, through the real TPU compiler; needs no TPU."""

import os
import pathlib
import subprocess
import sys

import pytest

COMPILER = pathlib.Path(sys.prefix) / "tpu" / "libtpu" / "libtpu.so"
DEPTH, ROWS, WIDTH, DEVICES = 9, 4096, 512, 4
CODE = f"""
import jax, jax.numpy as jnp
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from skyreels_jax.cli.planning.chips import topology
from skyreels_jax.nn.linear import Linear
from skyreels_jax.nn.stack import scan, stack
from skyreels_jax.parallel.mesh import MeshConfig, make_mesh

class Layer(nnx.Module):
    def __init__(self, *, rngs):
        self.linear = Linear({WIDTH}, {WIDTH}, rngs=rngs)

    def __call__(self, x):
        return x + jnp.tanh(self.linear(x))

mesh = make_mesh(MeshConfig(data={DEVICES}), topology("v5e:2x2")[1])
whole, rows = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("data",)))
make = lambda: stack(lambda rngs: Layer(rngs=rngs), {DEPTH}, rngs=nnx.Rngs(0))
graphdef, state = nnx.split(nnx.eval_shape(make))
state = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), state)
x = jax.ShapeDtypeStruct(({ROWS}, {WIDTH}), jnp.float32, sharding=rows)

def loss(state, x):
    return jnp.sum(jnp.sin(scan(nnx.merge(graphdef, state), x, remat="offload")))

with jax.set_mesh(mesh):
    compiled = jax.jit(jax.grad(loss)).lower(state, x).compile()
print(compiled.memory_analysis().host_temp_size_in_bytes)
"""


@pytest.mark.skipif(not COMPILER.exists(), reason="`make test` installs the TPU compiler")
def test_a_host_has_the_inputs_of_all_layers_of_its_devices():
    env = os.environ | {"XLA_FLAGS": "", "TPU_LIBRARY_PATH": str(COMPILER)}
    command = [sys.executable, "-c", CODE]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) == DEPTH * ROWS // DEVICES * WIDTH * 4
