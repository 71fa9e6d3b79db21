"""A micro model on disk for the commands."""

import pytest

from skyreels_jax.testing.micro import write_micro_model


@pytest.fixture(scope="session")
def micro_folder(tmp_path_factory):
    return write_micro_model(tmp_path_factory.mktemp("micro"))


@pytest.fixture(scope="session")
def forcing_folder(tmp_path_factory):
    return write_micro_model(tmp_path_factory.mktemp("forcing"), forcing=True)


@pytest.fixture(scope="session")
def causal_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("causal")
    return write_micro_model(folder, forcing=True, causal_block=2)
