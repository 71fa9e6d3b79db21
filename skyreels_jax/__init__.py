"""SkyReels-V2 in JAX: films from sentences, and the whole way to the model that makes them.

    import skyreels_jax as sr
    model = sr.load("tiny")
    film = model.generate("A red ring glides slowly to the right ...", num_frames=33, seed=0)
    film.save("a.mp4")

Names resolve on first use: importing the package pulls in neither jax nor a model.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Film": "skyreels_jax.pipelines.film",
    "UserError": "skyreels_jax.core.errors",
    "VideoModel": "skyreels_jax.pipelines.model",
    "load": "skyreels_jax.pipelines.load",
}
__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
