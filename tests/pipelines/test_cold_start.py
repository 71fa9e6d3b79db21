"""What a first film waits for."""

import subprocess
import sys

import jax
import pytest
from flax import nnx

from skyreels_jax.models.kinds import KINDS, abstract_model
from skyreels_jax.pipelines import load


def test_a_film_imports_no_training_and_no_transformers():
    code = """
import sys
from skyreels_jax.pipelines import load, model
load.find("tiny").request(prompt="a red ring")
heavy = {"grain", "orbax", "transformers", "torch", "tensorflow_datasets"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["vae", "text_encoder", "transformer"])
def test_abstract_models_are_what_is_made(name):
    """Shapes come from other random streams than weights."""
    config = load.find("tiny").configs[name]
    graphdef, abstract = abstract_model(name, config)
    made = nnx.eval_shape(lambda: KINDS[name].model(config, rngs=nnx.Rngs(0)))
    expected = nnx.split(made)
    assert graphdef == expected[0]
    said = [
        jax.tree.map(lambda x: (x.shape, x.dtype), tree)
        for tree in (abstract, nnx.to_pure_dict(expected[1]))
    ]
    assert said[0] == said[1]
