"""Files that this user's trust rests on: private keys, secrets, and what says whom to believe.

Invariant: a file that others could have written, or, where it is private, read, is refused before its first byte is used, as
ssh refuses it: whoever read a key once can sign as its owner, whoever wrote a trust root decides what is believed, and no
message after that would be true. A file of root's may be readable by this user's group, which is how key files are handed to
services. What is checked is what was opened, not what its path names by then.
"""

import os
import stat
from pathlib import Path

from forge.errors import TrustError

_MOST_BYTES = 64 * 1024
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def read_private_file(path: Path) -> bytes:
    """The bytes of a file that only its owner can read; raises TrustError, and FileNotFoundError where there is none."""
    return _read(path, _OTHERS, stat.S_IRWXO | stat.S_IWGRP, "readable or writable by others", "0600")


def read_own_file(path: Path) -> bytes:
    """The bytes of a file that others may read but not write; raises TrustError, and FileNotFoundError where there is none."""
    return _read(path, stat.S_IWGRP | stat.S_IWOTH, stat.S_IWGRP | stat.S_IWOTH, "writable by others", "0644")


def _read(path: Path, forbidden: int, forbidden_of_root: int, fault: str, mode: str) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except PermissionError as error:
        raise TrustError(f"{path}: this user may not read it") from error
    found = os.fstat(descriptor)  # of what was opened: the path may name another file by now
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)  # before Python makes a file of it, which it does of no folder
        raise TrustError(f"{path}: expected a file, found something else")
    with os.fdopen(descriptor, "rb") as file:
        user = os.geteuid()
        if user not in (found.st_uid, 0) and found.st_uid != 0:
            raise TrustError(f"{path}: it belongs to another user (uid {found.st_uid}), who can change it")
        if found.st_mode & (forbidden_of_root if found.st_uid == 0 and user != 0 else forbidden):
            permissions = stat.S_IMODE(found.st_mode)
            raise TrustError(
                f"{path}: it is {fault} (mode {permissions:04o}): it is not used. Set it with `chmod {mode} {path}`"
            )
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise TrustError(f"{path}: larger than {_MOST_BYTES} bytes: no key and no setting is")
    return data
