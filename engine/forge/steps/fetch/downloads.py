"""Downloads that steps of all keys share on one machine: files named by the digest of what they hold.

Invariant: a file is there whole or not at all, and nobody believes it: whoever takes one hashes it, and drops it where it
holds other bytes. So several steps may fill the folder at once, and anybody may empty it at any time.
"""

import os
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Downloads:
    """The folder; None: nothing is kept."""

    folder: Path | None

    def find(self, name: str) -> Path | None:
        """The file of that name, which may hold anything; None where there is none."""
        path = self.folder / name if self.folder is not None else None
        return path if path is not None and path.is_file() and not path.is_symlink() else None

    def keep(self, name: str, path: Path) -> None:
        """Keep a copy of a file whose bytes were compared with the digest in its name."""
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, temporary = tempfile.mkstemp(prefix="partial-", dir=self.folder)
        os.close(handle)
        try:
            shutil.copyfile(path, temporary)
            Path(temporary).replace(self.folder / name)
        finally:
            with suppress(FileNotFoundError):  # it was moved into its place
                Path(temporary).unlink()

    def drop(self, name: str) -> None:
        """Forget a file that holds other bytes than its name says."""
        if self.folder is not None:
            (self.folder / name).unlink(missing_ok=True)
