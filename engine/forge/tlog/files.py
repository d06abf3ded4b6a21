"""Writing a file so that it is there whole or not at all, and survives a power cut once the call has returned."""

import contextlib
import os
from pathlib import Path

from forge.errors import TransparencyError
from forge.faults import reached


def write_file(path: Path, data: bytes) -> None:
    """Put a file in its place; its folder is made where it is missing. Raises TransparencyError; then nothing has changed."""
    reached("tlog.file.before")
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        _make_folder(path.parent)
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise TransparencyError(f"{path} cannot be written: {error.strerror}") from error
    reached("tlog.file.after")


def _make_folder(folder: Path) -> None:
    """Make a folder whose name is on the disk as well."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
