"""From a name to a model: what it is and what it can make first, its weights last."""

import importlib.resources
import pathlib
import re
from typing import TYPE_CHECKING, Any

from skyreels_jax.core.errors import UserError

if TYPE_CHECKING:
    from skyreels_jax.pipelines.model import VideoModel
    from skyreels_jax.pipelines.source import ModelSource

TINY = "tiny"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# Read before the weights: fetched first, so that a bad request costs no gigabytes.
SMALL_FILES = ["*.json", "*/tokenizer*", "*.model", "google/*"]


def load(model_id: str, *, dtype: str | None = None, lora: Any = ()) -> "VideoModel":
    """Returns the model, ready to generate.

    model_id: "tiny", a folder (diffusers, official SkyReels-V2, or of a training run here or one of
    its checkpoints), or the id of a repository on the Hugging Face hub.
    dtype: of transformer and text encoder; by default float32 on CPU and bfloat16 elsewhere.
    lora: adapters, one or several, of all films that do not name others: "PATH", "PATH:SCALE" or
    (path, scale), of files in diffusers, peft, official or musubi-tuner naming.
    Raises `UserError` if there is no such model, or its files are damaged or of another model.
    """
    return find(model_id).load(dtype=dtype, lora=lora)


def find(model_id: str) -> "ModelSource":
    """Returns what `model_id` is and can make; reads configurations and tokenizer, no weights.

    Raises `UserError` as `load` does, but for what only the weights can tell.
    """
    from skyreels_jax.pipelines.source import open_folder

    path = pathlib.Path(model_id).expanduser()
    if model_id == TINY:
        path = pathlib.Path(str(importlib.resources.files("skyreels_jax"))) / "assets" / TINY
        return open_folder(TINY, path)
    one = path.parent.name == "checkpoints" and (path / "state").is_dir()  # of a run's checkpoints
    if one or (path / "checkpoints").is_dir():
        from skyreels_jax.pipelines.run import open_run  # brings Orbax, which nobody else needs

        return open_run(path, find)
    if path.exists() or not HUB_ID.fullmatch(model_id):
        return open_folder(str(path.resolve()), path)
    small = fetch(model_id, small=True)
    path = small if (small / "model_index.json").exists() else fetch(model_id)
    return open_folder(model_id, path, fetch=lambda: fetch(model_id))


def fetch(model_id: str, *, small: bool = False) -> pathlib.Path:
    """Returns the folder of a hub repository, downloaded where needed; `small`: no weights."""
    from huggingface_hub import errors, snapshot_download

    try:
        patterns = SMALL_FILES if small else None
        return pathlib.Path(snapshot_download(model_id, allow_patterns=patterns))
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"no folder {model_id!r} here, and the hub did not give it ({reason}); "
            f"legal: {TINY!r}, a model folder, or the id of a hub repository"
        ) from None
