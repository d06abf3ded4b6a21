"""Downloads that steps of all keys share on one machine: files named by the digest of what they hold.

Invariant: a file is there whole or not at all, and nobody believes it: whoever takes one hashes it, and drops it where it
holds other bytes. So several steps may fill the folder at once, and anybody may empty it at any time.
"""

import os
import shutil
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PARTIAL = "partial-"
_ABANDONED_SECONDS = 24 * 3600.0


@dataclass(frozen=True)
class Downloads:
    """The folder; None: nothing is kept."""

    folder: Path | None

    def find(self, name: str) -> Path | None:
        """The file of that name, which may hold anything; None where there is none."""
        path = self.folder / name if self.folder is not None else None
        return path if path is not None and path.is_file() and not path.is_symlink() else None

    def keep(self, name: str, path: Path) -> None:
        """Keep a file whose bytes were compared with the digest in its name; nobody writes to ``path`` any more."""
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._sweep()
        temporary = self.folder / f"{_PARTIAL}{uuid.uuid4().hex}"
        try:
            try:
                os.link(path, temporary)
            except OSError:  # another file system: the bytes have to be written once more
                shutil.copyfile(path, temporary)
            temporary.replace(self.folder / name)
        finally:
            temporary.unlink(missing_ok=True)

    def _sweep(self) -> None:
        """Remove what steps that were killed left half written."""
        for path in self.folder.glob(f"{_PARTIAL}*") if self.folder is not None else ():
            with suppress(FileNotFoundError):  # another step was faster
                if path.stat().st_mtime < time.time() - _ABANDONED_SECONDS:
                    path.unlink()

    def drop(self, name: str) -> None:
        """Forget a file that holds other bytes than its name says."""
        if self.folder is not None:
            (self.folder / name).unlink(missing_ok=True)
