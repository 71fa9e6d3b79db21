"""`skyreels-jax convert` from the command line."""

import pytest

from skyreels_jax.cli import main
from skyreels_jax.cli.convert import parse_size
from skyreels_jax.core.errors import UserError


@pytest.mark.parametrize(
    ("text", "size"), [("5GB", 5 * 10**9), ("1.5 MiB", 3 * 2**19), ("700", 700), ("2kb", 2000)]
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "0", "5 apples"])
def test_bad_sizes(text):
    with pytest.raises(UserError, match="expected a size such as 500MB"):
        parse_size(text)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "out", "--to", "official"], "nowhere: no such model folder"),
        (["nowhere", "gs://b/out", "--to", "official"], "gs://b/out is no folder; mount a share"),
        (["nowhere", "out"], "--to"),
        (["nowhere", "out", "--to", "gguf"], "gguf"),
        (["nowhere", "out", "--to", "official", "--dtype", "int8"], "int8"),
        (["nowhere", "out", "--to", "diffusers", "--max_shard_size", "big"], "500MB, 5GB or 2GiB"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main.main(["convert", *arguments]) == 2
    out, err = capsys.readouterr()
    assert message in err and err.count("\n") == 1 and not out
    assert not list(tmp_path.iterdir())
