"""From a name to a model: what it is and what it can make first, its weights last."""

import pathlib
from typing import TYPE_CHECKING, Any

from skyreels_jax.core.run_folder import is_checkpoint, is_run
from skyreels_jax.pipelines.places import HUB_ID, SMALL_FILES, TINY, fetch, shipped

if TYPE_CHECKING:
    from skyreels_jax.parallel.mesh import MeshConfig
    from skyreels_jax.pipelines.model import VideoModel
    from skyreels_jax.pipelines.source import ModelSource


def load(
    model_id: str,
    *,
    dtype: str | None = None,
    lora: Any = (),
    mesh: "MeshConfig | None" = None,
) -> "VideoModel":
    """Returns the model, ready to generate.

    model_id: "tiny", a folder (diffusers, official SkyReels-V2, or of a training run here or one of
    its checkpoints), or the id of a repository on the Hugging Face hub.
    dtype: of transformer and text encoder; by default float32 on CPU and bfloat16 elsewhere.
    lora: adapters, one or several, of all films that do not name others: "PATH", "PATH:SCALE" or
    (path, scale), of files in diffusers, peft, official or musubi-tuner naming.
    mesh: how several devices share each film (`parallel.mesh`); None: the first makes it alone.
    Raises `UserError` if there is no such model, or its files are damaged or of another model.
    """
    return find(model_id).load(dtype=dtype, lora=lora, mesh=mesh)


def find(model_id: str) -> "ModelSource":
    """Returns what `model_id` is and can make; reads configurations and tokenizer, no weights.

    Raises `UserError` as `load` does, but for what only the weights can tell.
    """
    from skyreels_jax.pipelines.source import open_folder

    path = pathlib.Path(model_id).expanduser()
    if model_id == TINY:
        return open_folder(TINY, shipped())
    if is_run(path) or is_checkpoint(path):
        from skyreels_jax.pipelines.run import open_run  # brings Orbax, which nobody else needs

        return open_run(path, find)
    if path.exists() or not HUB_ID.fullmatch(model_id):
        return open_folder(str(path.resolve()), path)
    return open_folder(model_id, fetch(model_id, SMALL_FILES), fetch=lambda: fetch(model_id))
