"""Where a model is: shipped, in a folder, on the hub."""

import importlib.resources
import pathlib
import re

from skyreels_jax.core.errors import UserError
from skyreels_jax.core.run_folder import is_checkpoint, is_run

TINY = "tiny"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# Read before the weights: fetched first, so that a bad request costs no gigabytes.
SMALL_FILES = ["*.json", "*/tokenizer*", "*.model", "google/*"]
ENCODER_FILES = [*SMALL_FILES, "vae/*", "text_encoder/*", "Wan2.1_VAE.pth", "models_*.pth"]


def shipped() -> pathlib.Path:
    """Returns the folder of "tiny"."""
    return pathlib.Path(str(importlib.resources.files("skyreels_jax"))) / "assets" / TINY


def folder_of_encoders(model_id: str) -> pathlib.Path:
    """Returns the folder of a model with the files of its VAE and text encoder at least; these are
    fetched from the hub where needed.

    Raises `UserError` for a training run, which has weights of its own only, for a converted model
    whose text encoder is in a checkpoint, and where the hub has no such repository. Whether the
    folder holds a model, `layout.read_folder` says.
    """
    path = pathlib.Path(model_id).expanduser()
    if model_id == TINY:
        return shipped()
    if is_run(path) or is_checkpoint(path):
        run = path if is_run(path) else path.parents[1]
        if (run / "model_index.json").exists():  # `pipelines.converted`
            raise UserError(
                f"{run} has its text encoder in a checkpoint; give what "
                f"`skyreels-jax convert {run} DST --to diffusers` makes of it"
            )
        raise UserError(f"{run} is a training run; give what it exported: {run / 'export'}")
    there = path.exists() or not HUB_ID.fullmatch(model_id)
    return path if there else fetch(model_id, ENCODER_FILES)


def fetch(model_id: str, patterns: list[str] | None = None) -> pathlib.Path:
    """Returns the folder of a hub repository, downloaded where needed: all files, or those like one
    of `patterns`.
    """
    from huggingface_hub import errors, snapshot_download

    try:
        return pathlib.Path(snapshot_download(model_id, allow_patterns=patterns))
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"no folder {model_id!r} here, and the hub did not give it ({reason}); "
            f"legal: {TINY!r}, a model folder, or the id of a hub repository"
        ) from None
