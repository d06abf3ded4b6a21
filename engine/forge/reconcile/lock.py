"""One reconciler at a time in a clone, and the name of the one who is at it.

The lock is an flock: the kernel drops it when its holder dies, so nothing stale is ever left behind.
"""

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from forge.errors import RefusedError

_POLL_SECONDS = 0.2


@contextmanager
def apply_lock(folder: Path, wait_seconds: float) -> Iterator[None]:
    """Hold the lock; raises RefusedError naming the holder when it is not free within ``wait_seconds``."""
    deadline = time.monotonic() + wait_seconds
    descriptor = os.open(folder / "apply.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise RefusedError(_held_by(descriptor)) from None
                time.sleep(_POLL_SECONDS)
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(holder).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _held_by(descriptor: int) -> str:
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
        who = f"process {holder['pid']} on {holder['host']}, since {holder['since']}"
    except (ValueError, KeyError):
        who = "a process that has not said its name yet"
    return f"another `forge apply` is at work here: {who}. Wait for it (--wait SECONDS), or end it"
