"""All programs of a film are kept on disk, and found there: none has something without a text."""

import logging

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache
from streams import PROMPT, SMALL

from skyreels_jax.core.programs import keep_programs
from skyreels_jax.pipelines.load import load


@pytest.fixture
def folder(tmp_path):
    """Programs are kept in a folder of their own, and none comes from the suite's cache."""
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    keep_programs(tmp_path / "programs")
    yield tmp_path / "programs"
    keep_programs(None)
    jax.config.update("jax_enable_compilation_cache", True)
    compilation_cache.reset_cache()


@pytest.mark.parametrize("kind", ["forcing_folder", "causal_folder"])
def test_every_program_of_a_film(folder, kind, request, caplog):
    path = str(request.getfixturevalue(kind))
    options = SMALL | ({"carry": "cache"} if kind == "causal_folder" else {})
    found = []
    for _ in range(2):
        jax.clear_caches()  # as another process begins
        with caplog.at_level(logging.INFO, logger="skyreels_jax.core.programs"):
            list(load(path).stream(PROMPT, num_frames=13, **options))
        found.append(sorted(folder.glob("*.program")))
    assert len(found[0]) >= 5 and found[1] == found[0]
    assert not caplog.text
