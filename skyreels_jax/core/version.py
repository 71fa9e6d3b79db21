"""Which code is running."""

import pathlib
import subprocess

import skyreels_jax

ROOT = pathlib.Path(skyreels_jax.__file__).parents[1]


def code_version(root: pathlib.Path = ROOT) -> str:
    """Returns the commit of the checkout in `root`, with "-dirty" behind it where tracked files
    differ from it; the version of the package where `root` is no checkout.
    """
    if (root / ".git").exists():
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
        try:
            said = subprocess.run(
                [*command, "--exclude=*"], capture_output=True, text=True, timeout=30
            )
        except (OSError, subprocess.TimeoutExpired):
            said = None
        if said is not None and said.returncode == 0:
            return said.stdout.strip()
    return skyreels_jax.__version__
