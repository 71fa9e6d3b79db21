"""The compilation cache on disk, shared by every command and program on this account."""

import os
import pathlib


def enable_compilation_cache() -> None:
    """Keeps compiled programs in $SKYREELS_JAX_CACHE, else ~/.cache/skyreels_jax.

    A cache that the caller has configured in jax stays; an empty SKYREELS_JAX_CACHE means no cache.
    """
    import jax

    folder = os.environ.get("SKYREELS_JAX_CACHE")
    if jax.config.jax_compilation_cache_dir is not None or folder == "":
        return
    folder = pathlib.Path(folder or "~/.cache/skyreels_jax").expanduser()
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
