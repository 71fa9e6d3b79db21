"""Entries on disk that only their own user can have written: files with a signature before them."""

import contextlib
import hmac
import logging
import os
import pathlib
import stat
import tempfile

from skyreels_jax.core.errors import UserError
from skyreels_jax.core.files import replacing

SIGNATURE, KEPT = 32, 256  # bytes; entries, the newest ones
log = logging.getLogger(__name__)


class Shelf:
    """The entries in `folder`, of this user; raises `UserError` where the key cannot be his own.

    Names are any text. Users may share a folder: each signs, and calls his files, by his own key.
    """

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self._key = _own_key(folder)

    def read(self, name: str) -> bytes | None:
        """Returns what was written as `name`; None where nothing was, or not by this user."""
        path = self.path(name)
        try:
            content = path.read_bytes()
        except OSError:
            return None
        signature, body = content[:SIGNATURE], content[SIGNATURE:]
        if not hmac.compare_digest(signature, self._sign(name, body)):
            log.warning("%s is damaged or not yours: it is not opened, but written anew", path)
            return None
        with contextlib.suppress(OSError):  # another process has removed it
            os.utime(path)
        return body

    def write(self, name: str, body: bytes) -> None:
        """Writes an entry, and removes those that were used longest ago.

        Raises `UserError` where it cannot be written.
        """
        with replacing(self.path(name)) as aside:
            aside.write_bytes(self._sign(name, body) + body)
        used = {}
        for path in self.folder.glob("*.program"):  # and what writers left that were killed
            with contextlib.suppress(OSError):
                used[path] = path.stat().st_mtime
        for old in sorted(used, key=lambda path: used[path])[:-KEPT]:
            with contextlib.suppress(OSError):
                old.unlink()

    def path(self, name: str) -> pathlib.Path:
        """Returns the file of an entry."""
        called = hmac.digest(self._key, b"name\0" + name.encode(), "sha256").hex()
        return self.folder / f"{called}.program"

    def _sign(self, name: str, body: bytes) -> bytes:
        said = name.encode()
        return hmac.digest(self._key, b"body\0%d\0%s%s" % (len(said), said, body), "sha256")


def _own_key(folder: pathlib.Path) -> bytes:
    path = folder / f"key-{os.getuid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.path.lexists(path):
            _write_key(path)
        # No link, and what is looked at is what is read.
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
            said, key = os.fstat(file.fileno()), file.read()
    except OSError as error:
        raise UserError(f"cannot keep programs in {str(folder)!r}: {error.strerror}") from None
    private = said.st_uid == os.getuid() and not stat.S_IMODE(said.st_mode) & 0o177
    if not private or len(key) != SIGNATURE:
        raise UserError(f"{path} is not a key that you alone can read and write; remove it")
    return key


def _write_key(path: pathlib.Path) -> None:
    """Writes a new key, whole at once: of several processes the first one's stays."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".key-") as file:  # 0600
        file.write(os.urandom(SIGNATURE))
        file.flush()
        with contextlib.suppress(FileExistsError):
            os.link(file.name, path)
