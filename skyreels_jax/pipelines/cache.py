"""Compiled programs on disk, shared by every command and program on this account."""

import logging
import os
import pathlib

from skyreels_jax.core.errors import UserError


def enable_compilation_cache() -> None:
    """Keeps compiled programs in $SKYREELS_JAX_CACHE, else ~/.cache/skyreels_jax: what jax
    compiles, and under programs/ whole executables that need no tracing (`core.programs`).

    A cache that the caller has configured in jax stays, and is the only one; an empty
    SKYREELS_JAX_CACHE means none. Where executables cannot be kept safely, the log says why.
    """
    import jax

    from skyreels_jax.core.programs import keep_programs

    folder = os.environ.get("SKYREELS_JAX_CACHE")
    if jax.config.jax_compilation_cache_dir is not None or folder == "":
        return
    folder = pathlib.Path(folder or "~/.cache/skyreels_jax").expanduser()
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
    try:
        keep_programs(folder / "programs")
    except UserError as error:
        logging.getLogger(__name__).warning("%s", error)
