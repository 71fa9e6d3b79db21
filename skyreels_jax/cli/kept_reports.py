"""What settings came to, kept beside a comparison: stopped or extended, it goes on from there."""

import argparse
import hashlib
import json
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from skyreels_jax.cli.side_by_side import Asked
    from skyreels_jax.data.toy_film.world import Scene
    from skyreels_jax.evals.suite import Report


def place(
    args: argparse.Namespace, one: "Asked", scenes: "Sequence[Scene]", rounds: int
) -> pathlib.Path:
    """Returns the file of a setting, whose name hangs on all that its report hangs on: the model,
    what is asked of it, scenes and noise, and the code, which makes and judges its films.
    """
    from skyreels_jax.core.version import code_version
    from skyreels_jax.data.toy_film.world import attributes

    said = [code_version(), one.source.fingerprint, repr(one.request), args.seed, rounds, args.rows]
    said += [attributes(scene) for scene in scenes]
    name = hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]
    return args.outdir / "settings" / f"{name}.npz"


def read(path: pathlib.Path, scenes: "Sequence[Scene]") -> "Report | None":
    """Returns the report in `path`; None where there is none."""
    from skyreels_jax.evals.suite import read_report

    if not path.is_file():
        return None
    with np.load(path) as saved:
        return read_report(json.loads(str(saved["records"])), scenes, saved["frames"])


def write(path: pathlib.Path, report: "Report") -> None:
    """Writes a report, with the frames that it has."""
    from skyreels_jax.core.files import replacing

    frames = np.stack([sample.frames for sample in report.samples if len(sample.frames)])
    with replacing(path) as aside:
        np.savez_compressed(aside, records=json.dumps(report.records()), frames=frames)
