"""Exported graphs on the node's own disk: an export takes ten seconds or more, a read none.

Many processes may read and write at once: a file is published by renaming, and the same key gives
a file that computes the same.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

from satray import __version__

KEPT = 16
"""Files that a folder keeps, the last used ones."""


def default_folder() -> Path:
    """This user's folder under the system's temporary folder."""
    return Path(tempfile.gettempdir()) / f"satray-{os.getuid()}" / "engines"


class ExportCache:
    """Bytes by key, in one folder; without the folder everything is made anew."""

    def __init__(self, folder: Path | None = None) -> None:
        """Take a folder.

        Args:
            folder: made where it is absent; None: `default_folder()`.
        """
        self._folder = folder or default_folder()

    def has(self, *parts: str) -> bool:
        """Whether the bytes of this key are kept."""
        return self._safe() and self._path(parts).is_file()

    def get(self, make: Callable[[], bytes], *parts: str) -> bytes:
        """The bytes of a key, made if they are not kept.

        Args:
            make: gives them.
            parts: what they depend on besides the versions of satray and the exporters.
        """
        if self._safe():
            path = self._path(parts)
            with suppress(OSError):
                data = path.read_bytes()
                os.utime(path)
                return data
        data = make()
        self._keep(data, parts)
        return data

    def forget(self, *parts: str) -> None:
        """Remove a key's bytes, which turned out to be none."""
        with suppress(OSError):
            self._path(parts).unlink()

    def _path(self, parts: tuple[str, ...]) -> Path:
        made_by = [__version__, *(version(name) for name in ("torch", "onnx", "onnxscript"))]
        digest = hashlib.sha256(repr((made_by, parts)).encode()).hexdigest()
        return self._folder / f"{digest[:32]}.onnx"

    def _keep(self, data: bytes, parts: tuple[str, ...]) -> None:
        with suppress(OSError):  # a full disk costs the next process its time, not this one
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not self._safe():
                return
            with tempfile.NamedTemporaryFile(dir=self._folder, delete=False) as file:
                try:
                    file.write(data)
                    file.close()
                    os.replace(file.name, self._path(parts))
                except BaseException:
                    os.unlink(file.name)
                    raise
            by_use = sorted(self._folder.glob("*.onnx"), key=lambda each: each.stat().st_mtime)
            for path in by_use[:-KEPT]:
                path.unlink(missing_ok=True)

    def _safe(self) -> bool:
        """Whether nobody else can write there: a graph of a stranger's is not to be run."""
        try:
            found = self._folder.stat()
        except OSError:
            return False
        return found.st_uid == os.getuid() and not found.st_mode & 0o022
