"""What loading holds in memory, measured in a process of its own; arrays that need no copy."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from skyreels_jax.models import layout
from skyreels_jax.models.dit.config import DiTConfig
from skyreels_jax.testing.micro import random_params
from skyreels_jax.weights.convert import ALIGNMENT, BLOCK, aligned, copy

CONFIG = DiTConfig(
    num_attention_heads=4,
    attention_head_dim=64,
    in_channels=16,
    out_channels=16,
    text_dim=64,
    ffn_dim=3072,
    num_layers=24,
)
MEASURED = """
import json, pathlib, sys
import jax, jax.numpy as jnp
from flax import nnx
from skyreels_jax.models import layout

def memory():
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    said = dict(line.split(":") for line in lines)
    return {name: 1024 * int(said[name].split()[0]) for name in ("VmHWM", "VmRSS", "RssAnon")}

jax.block_until_ready(jnp.zeros(3) + 1)
component = layout.read_component(pathlib.Path(sys.argv[1]), "transformer")
layout.stored_params(component)  # traces the model
pathlib.Path("/proc/self/clear_refs").write_text("5")  # the highest is from here on
before = memory()
module = layout.load_component(component, dtype=sys.argv[2])
jax.block_until_ready(nnx.state(module))
after = memory()
print(json.dumps([after["VmHWM"] - before["VmRSS"], after["RssAnon"] - before["RssAnon"]]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "transformer"
    layout.save_component(path, "transformer", CONFIG, random_params("transformer", CONFIG))
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone says how much memory was held")
@pytest.mark.parametrize(("dtype", "share"), [("float32", 1.0), ("bfloat16", 0.5)])
def test_no_more_than_the_weights_and_a_few_tensors(folder, dtype, share):
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    assert size > 150e6
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(folder), dtype], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    peak, held = json.loads(done.stdout)
    assert 0.95 * share * size < held  # else something else was measured
    # A second copy of the largest leaf would be beyond: each ffn kernel is a third of all.
    assert peak <= (share + 0.1) * size, (peak / size, held / size)


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.float16, np.int8])
def test_arrays_of_which_jax_makes_no_copy(dtype):
    array = aligned((3, 5000), np.dtype(dtype))
    assert array.shape == (3, 5000) and array.dtype == dtype and array.ctypes.data % ALIGNMENT == 0
    array[...] = 1
    placed = jax.device_put(array, jax.devices("cpu")[0])
    assert placed.unsafe_buffer_pointer() == array.ctypes.data
    assert aligned((), np.dtype(dtype)).shape == () and aligned((0, 3), np.dtype(dtype)).size == 0


def test_loaded_weights_may_be_given_away(folder):
    """Who trains them gives them to a step that destroys its arguments."""
    array = aligned((4, 256), np.dtype(np.float32))
    array[...] = 2
    step = jax.jit(lambda x: x + 1, donate_argnums=0)
    np.testing.assert_array_equal(step(jax.device_put(array)), np.full((4, 256), 3))
    np.testing.assert_array_equal(array, np.full((4, 256), 2))


@pytest.mark.parametrize("axes", [(0, 1, 2), (0, 2, 1), (2, 1, 0), (1, 2, 0)])
def test_a_copy_part_by_part(axes):
    source = np.random.default_rng(0).standard_normal((3, BLOCK + 9, 2 * BLOCK + 1), np.float32)
    source = source.astype(ml_dtypes.bfloat16).transpose(axes)
    target = np.zeros(source.shape, ml_dtypes.bfloat16)
    copy(target, source)
    np.testing.assert_array_equal(target, source)


def test_stored_scalars_are_leaves_too():
    target = np.zeros((), np.float32)
    copy(target, np.array(3, np.float32))
    assert target == jnp.float32(3)
