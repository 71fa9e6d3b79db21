"""The micro models in memory, for all tests of this room."""

import pytest

from skyreels_jax.pipelines.load import load


@pytest.fixture(scope="session")
def micro(micro_folder):
    return load(str(micro_folder))


@pytest.fixture(scope="session")
def forcing(forcing_folder):
    return load(str(forcing_folder))


@pytest.fixture(scope="session")
def causal(causal_folder):
    return load(str(causal_folder))
