"""Compiled programs on disk: found again by another process without tracing anything.

jax's own cache is asked with a program that was traced and lowered, which of a large model takes
most of the time that is left. Here a program is found by what it would be traced from: the source
of this package, versions, machine, flags, devices, and the arguments' shapes and places.

An entry holds machine code and is unpickled, so no other's may be loaded: it is signed with a key
that is this user's alone. What is stale has another name, and what is not ours, or damaged, is not
opened: it is said in the log, compiled, and written anew.

A program that comes from jax's cache (after an edit that did not change it) is used, and not kept:
on CPU an executable that was read once and written again lacks functions when it is read again.
"""

import functools
import hashlib
import hmac
import importlib.metadata
import logging
import os
import pathlib
import pickle
import platform
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.experimental import serialize_executable
from jax.sharding import NamedSharding

import skyreels_jax
from skyreels_jax.core.errors import UserError
from skyreels_jax.core.files import replacing

SIGNATURE, KEPT = 32, 256  # bytes; entries, the newest ones
FLAGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "JAX_PLATFORMS")
# What says less than what a program depends on: closures and objects without a text of their own.
VAGUE = ("<locals>", "<lambda>", " object at ")
log = logging.getLogger(__name__)


class Shelf:
    """The entries in `folder`, of this user; raises `UserError` where the key cannot be his own."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self._key = _own_key(folder)

    def read(self, name: str) -> bytes | None:
        """Returns what was written as `name`; None where nothing was, or not by this user."""
        path = self.folder / f"{name}.program"
        try:
            content = path.read_bytes()
        except OSError:
            return None
        signature, body = content[:SIGNATURE], content[SIGNATURE:]
        if not hmac.compare_digest(signature, self._sign(name, body)):
            log.warning("%s is damaged or not yours: it is not opened, but written anew", path)
            return None
        os.utime(path)
        return body

    def write(self, name: str, body: bytes) -> None:
        """Writes an entry, and removes those that were used longest ago."""
        with replacing(self.folder / f"{name}.program") as aside:
            aside.write_bytes(self._sign(name, body) + body)
        entries = sorted(self.folder.glob("*.program"), key=lambda p: p.stat().st_mtime)
        for old in entries[:-KEPT]:
            old.unlink(missing_ok=True)

    def _sign(self, name: str, body: bytes) -> bytes:
        return hmac.digest(self._key, name.encode() + b"\0" + body, "sha256")


def _own_key(folder: pathlib.Path) -> bytes:
    path = folder / f"key-{os.getuid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(os.urandom(SIGNATURE))
        except FileExistsError:
            pass
        said, key = path.lstat(), path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot keep programs in {str(folder)!r}: {error.strerror}") from None
    if said.st_uid != os.getuid() or said.st_mode & 0o177 or len(key) != SIGNATURE:
        raise UserError(f"{path} is not a key that you alone can read and write; remove it")
    return key


class _Hits:
    """How many programs have come from jax's own cache."""

    def __init__(self):
        self.count = 0
        jax.monitoring.register_event_listener(self._note)

    def _note(self, event: str, **_: Any) -> None:
        self.count += event == "/jax/compilation_cache/cache_hits"


_shelf: Shelf | None = None
_hits = functools.cache(_Hits)


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
        if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
            return self._jitted(*args)
        key = _shelf, fixed, tree, tuple(map(_kind, leaves)), _settings()
        if key not in self._found:
            self._found[key] = self._find(args, _shelf, *key[1:])
        return self._found[key](*given)

    def lower(self, *args: Any) -> jax.stages.Lowered:
        """Returns what `jax.jit(function).lower` does: for devices that may not be there."""
        return self._jitted.lower(*args)

    def _find(
        self, args: tuple, shelf: Shelf, fixed: tuple, tree: Any, kinds: tuple, settings: str
    ) -> Callable[..., Any]:
        """Returns the executable from the shelf, or a new one."""
        function = f"{self._function.__module__}.{self._function.__qualname__}"
        said = [_about(), settings, function, fixed, self._static, self._donate, tree, kinds]
        text = "\n".join(map(str, said))
        if any(word in text for word in VAGUE):
            log.info("%s is not kept: its arguments do not say all that it depends on", function)
            return self._jitted.lower(*args).compile()
        text = re.sub(r" at 0x[0-9a-f]+", "", text)  # of functions, which their names tell apart
        name = hashlib.sha256(text.encode()).hexdigest()
        if (body := shelf.read(name)) is not None:
            payload, out = pickle.loads(body)  # ours: `read` has checked the signature
            return serialize_executable.deserialize_and_load(
                payload, tree, out, execution_devices=_devices(kinds)
            )
        hits, lowered = _hits(), self._jitted.lower(*args)
        before, compiled = hits.count, lowered.compile()
        if hits.count != before:
            return compiled
        try:
            payload, _, out = serialize_executable.serialize(compiled)
            shelf.write(name, pickle.dumps((payload, out)))
        except (NotImplementedError, ValueError, TypeError, jax.errors.JaxRuntimeError) as error:
            log.info("%s is not kept: %s", function, error)
        except UserError as error:  # the disk is full, say
            log.warning("%s is not kept: %s", function, error)
        return compiled


def _kind(leaf: Any) -> tuple:
    """Returns what a program depends on of an argument: shape and type, and place if it has one."""
    placed = isinstance(leaf, jax.Array) and leaf.committed
    return jax.typeof(leaf), leaf.sharding if placed else None


def _devices(kinds: tuple) -> list[jax.Device]:
    """Returns the devices of a program with such arguments, in its order."""
    for _, sharding in kinds:
        if isinstance(sharding, NamedSharding):
            return list(sharding.mesh.devices.flat)
    for _, sharding in kinds:
        if sharding is not None:
            return list(sharding.device_set)
    default = jax.config.jax_default_device
    return [default if isinstance(default, jax.Device) else jax.devices(default)[0]]


def _settings() -> str:
    """Returns the settings of jax that may change between calls."""
    config = jax.config
    return (
        f"{config.jax_default_matmul_precision} {config.jax_enable_x64} "
        f"{config.jax_default_device} {config.jax_numpy_rank_promotion}"
    )


@functools.cache
def _about() -> str:
    """Returns what every program depends on: code, versions, flags, and the machine."""
    digest = hashlib.sha256()
    root = pathlib.Path(skyreels_jax.__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)} {path.stat().st_size}\n".encode())
        digest.update(path.read_bytes())
    devices, client = jax.devices(), jax.devices()[0].client
    said = [
        digest.hexdigest(),
        platform.python_version(),
        *(f"{name} {importlib.metadata.version(name)}" for name in ("jax", "jaxlib", "flax")),
        client.platform_version,
        jax.process_count(),
        [(device.id, device.device_kind, device.process_index) for device in devices],
        [(name, os.environ.get(name)) for name in FLAGS],
        platform.machine(),
        _processor() if client.platform == "cpu" else "",
    ]
    return "\n".join(map(str, said))


def _processor() -> str:
    """Returns what a CPU can do: machine code for it runs on no lesser one."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.split("\t")[0] in names}))
