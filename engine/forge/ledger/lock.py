"""A fair lock between the processes of one machine.

It is two flocks. Whoever waits for the lock holds the place at the head of the queue meanwhile; the one who has just
released the lock has to queue again, and cannot take it twice in a row past somebody who waits. The kernel drops both when
their holder dies, so nothing stale is left behind.
"""

import fcntl
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from forge.errors import LedgerError

WAIT_SECONDS = 300.0
_POLL_SECONDS = 0.004


@contextmanager
def fair_lock(folder: Path, name: str, wait_seconds: float = WAIT_SECONDS) -> Iterator[None]:
    """Hold the lock ``name`` in a folder; raises LedgerError when it does not come free in time. Not re-entrant."""
    deadline = time.monotonic() + wait_seconds
    queue = _acquire(folder / f"{name}.queue", deadline)
    try:
        lock = _acquire(folder / f"{name}.lock", deadline)
    finally:
        os.close(queue)
    try:
        yield
    finally:
        os.close(lock)


@contextmanager
def lock_if_free(folder: Path, name: str) -> Iterator[bool]:
    """Hold the lock ``name`` of a folder if nobody has it now; gives whether it is held."""
    descriptor = os.open(folder / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def _acquire(path: Path, deadline: float) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise LedgerError(
                        f"another process has held {path} for too long: find it with `fuser {path}`, wait for it or end it"
                    ) from None
                time.sleep(random.uniform(0.5, 1) * _POLL_SECONDS)  # noqa: S311 (jitter, not secrecy)
            else:
                return descriptor
    except BaseException:
        os.close(descriptor)
        raise
