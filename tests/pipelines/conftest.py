"""One micro model on disk and in memory for all tests of this room."""

import pytest

from skyreels_jax.pipelines.load import load
from skyreels_jax.testing.micro import write_micro_model


@pytest.fixture(scope="session")
def micro_folder(tmp_path_factory):
    return write_micro_model(tmp_path_factory.mktemp("micro"))


@pytest.fixture(scope="session")
def micro(micro_folder):
    return load(str(micro_folder))


@pytest.fixture(scope="session")
def forcing_folder(tmp_path_factory):
    return write_micro_model(tmp_path_factory.mktemp("forcing"), forcing=True)


@pytest.fixture(scope="session")
def forcing(forcing_folder):
    return load(str(forcing_folder))


@pytest.fixture(scope="session")
def causal_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("causal")
    return write_micro_model(folder, forcing=True, causal_block=2)


@pytest.fixture(scope="session")
def causal(causal_folder):
    return load(str(causal_folder))
