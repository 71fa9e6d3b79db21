"""Compiled programs on disk: found again by another process without tracing anything.

jax's own cache is asked with a program that was traced and lowered, which of a large model takes
most of the time that is left. Here a program is found by what it would be traced from: the source
of this package, versions, machine, flags, devices, and the arguments' shapes and places, all of
which is its name on a shelf (`core.shelf`).

An entry holds machine code and is unpickled, so no other's may be loaded: the shelf gives only what
this user has signed. What is stale has another name; what is damaged, or does not load, is said in
the log, compiled, and written anew.

A program that comes from jax's cache (after an edit that did not change it), or that jax has
already, is used, and not kept: on CPU an executable that was read once and written again lacks
functions when it is read again.
"""

import functools
import hashlib
import logging
import os
import pathlib
import pickle
import platform
import re
import threading
from collections.abc import Callable, Sequence
from importlib.metadata import distributions
from typing import Any

import jax
from jax.core import Tracer
from jax.experimental import serialize_executable
from jax.sharding import Mesh, NamedSharding

import skyreels_jax
from skyreels_jax.core.errors import UserError
from skyreels_jax.core.naming import Vague, text_of
from skyreels_jax.core.shelf import Shelf

# Packages that programs come from.
MAKERS = re.compile("(jax|flax|numpy|ml.dtypes|libtpu|nvidia)")
FLAGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "JAX_PLATFORMS")
SETTINGS = (  # of jax, which may change between calls
    "jax_debug_nans",
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_enable_x64",
    "jax_numpy_dtype_promotion",
    "jax_numpy_rank_promotion",
    "jax_threefry_partitionable",
)
DEFAULT_DEVICE = "jax_default_device"  # read by its name: jax declares no such attribute
log = logging.getLogger(__name__)


class _Counts:
    """How many programs jax has made or read, and how many of them came from its own cache."""

    def __init__(self):
        self.made = self.hits = 0
        jax.monitoring.register_event_duration_secs_listener(self._note_made)
        jax.monitoring.register_event_listener(self._note_hit)

    def _note_made(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        self.made += event == "/jax/core/compile/backend_compile_duration"

    def _note_hit(self, event: str, **_: Any) -> None:
        self.hits += event == "/jax/compilation_cache/cache_hits"


_shelf: Shelf | None = None
_counts = functools.cache(_Counts)
_compiling = threading.Lock()  # so that what is counted is one's own


def keep_programs(folder: pathlib.Path | None) -> None:
    """Keeps the programs of this process in `folder` from now on; None: nowhere.

    Raises `UserError` where that cannot be done safely.
    """
    global _shelf
    _shelf = None if folder is None else Shelf(folder)


class Program:
    """`jax.jit(function)` of positional arguments, whose executables are kept (`keep_programs`).

    static, donate: positions, as `static_argnums` and `donate_argnums`. Static arguments whose text
    does not say all of them are not kept.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        static: Sequence[int] = (),
        donate: Sequence[int] = (),
    ):
        self._function, self._static, self._donate = function, tuple(static), tuple(donate)
        self._jitted = jax.jit(function, static_argnums=static, donate_argnums=donate)
        self._found: dict[Any, Callable[..., Any]] = {}

    def __call__(self, *args: Any) -> Any:
        if _shelf is None:
            return self._jitted(*args)
        fixed = tuple(args[i] for i in self._static)
        given = tuple(arg for i, arg in enumerate(args) if i not in self._static)
        leaves, tree = jax.tree.flatten((given, {}))
        if any(isinstance(leaf, Tracer) for leaf in leaves):
            return self._jitted(*args)
        key = _shelf, fixed, tree, tuple(map(_kind, leaves)), _settings()
        run = self._found.get(key)  # once: to hash a model's structure takes 10 ms
        if run is None:
            run = self._found[key] = self._find(args, *key)
        return run(*given)

    def lower(self, *args: Any) -> jax.stages.Lowered:
        """Returns what `jax.jit(function).lower` does: for devices that may not be there."""
        return self._jitted.lower(*args)

    def _find(
        self, args: tuple, shelf: Shelf, fixed: tuple, tree: Any, kinds: tuple, settings: tuple
    ) -> Callable[..., Any]:
        """Returns the executable from the shelf, or a new one."""
        asked = self._function, fixed, self._static, self._donate, tree, settings
        try:
            devices = _devices(kinds)
            name = "\n".join([_about(), _text_of_devices(devices), text_of(asked), *_texts(kinds)])
        except Vague as error:
            log.info("%s is not kept: %s", self._function, error)
            return self._jitted.lower(*args).compile()
        body = shelf.read(name)
        if body is not None:  # ours: `read` has checked the signature
            try:
                return _loaded(body, tree, kinds, devices)
            except Exception as error:  # whatever pickle and the runtimes of devices raise
                log.warning("%s does not load (%s): it is written anew", shelf.path(name), error)
        lowered, counts = self._jitted.lower(*args), _counts()
        with _compiling:
            made, hits = counts.made, counts.hits
            compiled = lowered.compile()
            new = counts.made > made and counts.hits == hits
        if not new:
            return compiled
        try:
            payload, _, out = serialize_executable.serialize(compiled)
            shelf.write(name, pickle.dumps((payload, out)))
        except (NotImplementedError, ValueError, TypeError, jax.errors.JaxRuntimeError) as error:
            log.info("%s is not kept: %s", self._function, error)
        except UserError as error:  # the disk is full, say
            log.warning("%s is not kept: %s", self._function, error)
        return compiled


def _loaded(
    body: bytes, tree: Any, kinds: tuple, devices: Sequence[jax.Device]
) -> jax.stages.Compiled:
    """Returns the executable of an entry; raises whatever is wrong with it."""
    payload, out = pickle.loads(body)
    found = serialize_executable.deserialize_and_load(
        payload, tree, out, backend=devices[0].client, execution_devices=devices
    )
    takes = [(info.shape, info.dtype) for info in jax.tree.leaves(found.args_info)]
    if takes != [(aval.shape, aval.dtype) for aval, _ in kinds]:
        raise TypeError("it takes other arguments")
    return found


def _kind(leaf: Any) -> tuple:
    """Returns what a program depends on of an argument: shape and type, and place if it has one."""
    placed = isinstance(leaf, jax.Array) and leaf.committed
    return jax.typeof(leaf), leaf.sharding if placed else None


def _texts(kinds: tuple) -> list[str]:
    """Returns the texts of what `_kind` gave, but not the order of the devices (`_devices`)."""
    return [f"{aval} {aval.weak_type} {sharding}" for aval, sharding in kinds]


def _devices(kinds: tuple) -> list[jax.Device]:
    """Returns the devices of a program with such arguments, in its order."""
    placed = [sharding for _, sharding in kinds if sharding is not None]
    meshes = [s.mesh for s in placed if isinstance(s, NamedSharding) and isinstance(s.mesh, Mesh)]
    if meshes:
        return list(meshes[0].devices.flat)
    if not jax.sharding.get_abstract_mesh().empty or any(s.num_devices > 1 for s in placed):
        raise Vague("its devices have no order that is known")
    if placed:
        return list(placed[0].device_set)
    default = getattr(jax.config, DEFAULT_DEVICE)
    return [default if isinstance(default, jax.Device) else jax.devices(default)[0]]


def _text_of_devices(devices: Sequence[jax.Device]) -> str:
    """Returns how many devices of which kind these are, and where each stands."""
    client = devices[0].client
    said = [(d.id, d.platform, d.device_kind, d.process_index) for d in devices]
    return repr((len(said), said, client.platform_version, client.device_count()))


def _settings() -> tuple:
    """Returns what of jax may change between calls: its settings, and the mesh that is set."""
    named = tuple(getattr(jax.config, name) for name in SETTINGS)
    return *named, str(getattr(jax.config, DEFAULT_DEVICE)), str(jax.sharding.get_abstract_mesh())


@functools.cache
def _about() -> str:
    """Returns what every program depends on: code, versions, flags, and the machine."""
    digest = hashlib.sha256()
    root = pathlib.Path(skyreels_jax.__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)} {path.stat().st_size}\n".encode())
        digest.update(path.read_bytes())
    said = [
        digest.hexdigest(),
        platform.python_version(),
        sorted(f"{d.name} {d.version}" for d in distributions() if MAKERS.match(d.name)),
        jax.process_count(),
        [(name, os.environ.get(name)) for name in FLAGS],
        platform.machine(),
        _processor(),
    ]
    return repr(said)


def _processor() -> str:
    """Returns what a CPU can do: machine code for it runs on no lesser one."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.split("\t")[0] in names}))
