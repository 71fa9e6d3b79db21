"""The version of the code is a commit where there is one."""

import subprocess

import skyreels_jax
from skyreels_jax.core.version import ROOT, code_version


def git(folder, *args):
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    done = subprocess.run(["git", *who, *args], cwd=folder, capture_output=True, check=True)
    return done.stdout.decode().strip()


def test_a_commit_and_whether_files_differ(tmp_path):
    git(tmp_path, "init", "--quiet")
    (tmp_path / "file").write_text("a")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "--quiet", "--message", "a")
    git(tmp_path, "tag", "v1")
    commit = git(tmp_path, "rev-parse", "HEAD")[:12]
    assert code_version(tmp_path) == commit
    (tmp_path / "file").write_text("b")
    assert code_version(tmp_path) == f"{commit}-dirty"


def test_without_a_checkout_it_is_the_package(tmp_path):
    assert code_version(tmp_path) == skyreels_jax.__version__
    (tmp_path / ".git").mkdir()  # not a checkout after all
    assert code_version(tmp_path) == skyreels_jax.__version__


def test_of_this_package():
    assert (ROOT / "skyreels_jax" / "__init__.py").samefile(skyreels_jax.__file__)
