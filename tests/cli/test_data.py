"""`skyreels-jax data`: every action end to end, and what it refuses."""

import argparse

import imageio.v3 as iio
import pytest

from skyreels_jax.cli import data
from skyreels_jax.core.errors import UserError


def run(*argv):
    parser = argparse.ArgumentParser()
    data.add_arguments(parser)
    return data.run(parser.parse_args(argv))


def test_show_writes_a_sheet(tmp_path, capsys):
    assert run("show", "--num", "2", "--num_frames", "9", "--outdir", str(tmp_path / "new")) == 0
    path = tmp_path / "new" / "toy_film_train.png"
    assert capsys.readouterr().out.strip() == str(path)
    assert iio.imread(path).shape[1:] == (1200, 3)


def test_build_prepares_the_dataset(tmp_path, capsys):
    argv = ("build", "--data_dir", str(tmp_path), "--num_clips", "2", "--num_frames", "5")
    assert run(*argv) == 0
    assert "train" in capsys.readouterr().out
    assert list(tmp_path.glob("toy_film/*/*/*.array_record*"))


def test_judge_prints_its_accuracy(capsys):
    assert run("judge", "--num", "3", "--num_frames", "17", "--noise", "4") == 0
    assert "camera_motion 1.000" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (("show", "--noise", "3"), "show does not read --noise; legal: --outdir"),
        (("show", "--split", "test"), "train, held_out"),
        (("judge", "--num", "0"), "--num must be 1 or more"),
        (("judge", "--seed", "-1"), "--seed must be 0 or more"),
        (("build", "--num_frames", "8"), "4k \\+ 1"),
        (("encode", "--videos", "/none", "--model", "tiny", "--num_frames", "5"), "1, 33, 65, 97"),
        (("encode", "--videos", "/none", "--model", "tiny", "--num_frames", "1"), "no folder of"),
    ],
)
def test_bad_input(argv, complaint):
    with pytest.raises(UserError, match=complaint):
        run(*argv)
