"""All programs of a film are kept on disk, and found there: none has something without a text."""

import logging
import re

import jax
import pytest
from streams import PROMPT, SMALL

from skyreels_jax.pipelines.load import load


@pytest.mark.parametrize("kind", ["forcing_folder", "causal_folder"])
def test_every_program_of_a_film(kept_programs, kind, request, caplog):
    path = str(request.getfixturevalue(kind))
    options = SMALL | ({"carry": "cache"} if kind == "causal_folder" else {})
    found = []
    for _ in range(2):
        jax.clear_caches()  # as another process begins
        caplog.clear()
        with caplog.at_level(logging.INFO), jax.log_compiles():
            list(load(path).stream(PROMPT, num_frames=13, **options))
        found.append(sorted(kept_programs.glob("*.program")))
    assert len(found[0]) >= 5 and found[1] == found[0]
    assert "is not kept" not in caplog.text
    compiled = re.findall(r"Finished XLA compilation of jit.(\w+)", caplog.text)
    assert not compiled  # not even a small one, which would take 20 ms
