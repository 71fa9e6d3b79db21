"""Files appear whole or not at all."""

import json
import pathlib

import pytest

from skyreels_jax.core.errors import UserError
from skyreels_jax.core.files import check_writable, write_json


def test_what_cannot_be_written_whole_leaves_what_was_there(tmp_path):
    path = tmp_path / "new" / "said.json"
    write_json(path, {"films": 3})
    with pytest.raises(TypeError):
        write_json(path, {"films": object()})
    assert json.loads(path.read_text()) == {"films": 3} and list(path.parent.iterdir()) == [path]
    with pytest.raises(UserError, match="cannot write"):
        write_json(path / "below.json", {})


@pytest.mark.parametrize("url", ["gs://bucket/run", "s3://b", "https://host:1/a/b", "file:///tmp"])
def test_urls_are_no_folders(url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="is no folder; mount a share"):
        check_writable(pathlib.Path(url))
    check_writable(pathlib.Path("a:b/c"))
    check_writable(tmp_path / "gs:" / "b")
