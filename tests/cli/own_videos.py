"""A small folder of own videos, and the command that encodes it."""

import json
import pathlib

import imageio.v3 as iio
import numpy as np

from skyreels_jax.cli.main import main
from skyreels_jax.testing.videos import write_video

SIZE = {"resolution": "32x48", "num_frames": 65}


def write_own_videos(folder: pathlib.Path) -> pathlib.Path:
    """Writes three films (four clips), one of them 16 times a second, two images, a broken file."""
    write_video(folder / "a.mp4", frames=100)
    write_video(folder / "b.mp4", frames=66, fps=32)
    write_video(folder / "c.mp4", frames=34)
    (folder / "d.mp4").write_text("broken")
    for number, name in enumerate(("e.png", "f.png")):
        iio.imwrite(folder / name, np.full((40, 60, 3), 90 + 60 * number, np.uint8))
    lines = [
        {"file": "a.mp4", "caption": ["a red ring", "a red ring moves slowly to the right"]},
        {"file": "b.mp4", "caption": "a blue square", "subject_type": "Animal"},
        {"file": "c.mp4", "caption": "a green triangle in a meadow", "subject_type": "Human"},
        {"file": "d.mp4", "caption": "nothing"},
        {"file": "e.png", "caption": "a still ring", "subject_type": "Human"},
        {"file": "f.png", "caption": "a still square", "subject_type": "Animal"},
    ]
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def encode(videos, model, out, **options) -> int:
    """Returns the exit code of `data encode`."""
    flags = {**SIZE, "videos": videos, "model": model, "data_dir": out, **options}
    return main(["data", "encode", *(f"--{name}={value}" for name, value in flags.items())])
