"""Fault injection: named points around every write of state, at which a test lets the process kill itself.

A write is atomic or it is not; the only proof is to be killed before and after each one. So the points stand in the code
itself, all of them are listed here, and a test walks the list: a point that is never reached, or one that is reached but not
listed, fails it. Without the two environment variables a point costs one comparison.

``FORGE_FAULT=POINT[:N]`` sends SIGKILL to this process when it reaches the point for the Nth time (1 where N is left out).
``FORGE_FAULT_LOG=FILE`` appends the name of each point that is reached.
"""

import os
import signal
from collections import Counter
from pathlib import Path

POINTS = (
    "ledger.objects.before",
    "ledger.objects.after",
    "ledger.move.before",
    "ledger.move.after",
    "ledger.seen.before",
    "ledger.seen.after",
    "ledger.repack.before",
    "ledger.repack.after",
    "remote.fetch.before",
    "remote.fetch.after",
    "remote.push.before",
    "remote.push.after",
    "remote.seen.before",
    "remote.seen.after",
    "remote.configure.before",
    "remote.configure.after",
    "lease.objects.before",
    "lease.objects.after",
    "lease.move.before",
    "lease.move.after",
    "lease.token.before",
    "lease.token.after",
    "index.write.before",
    "index.rows.after",
    "index.write.after",
    "index.discard.before",
    "index.discard.after",
    "store.write.before",
    "store.write.after",
    "store.remove.before",
    "store.remove.after",
    "store.sweep.before",
    "store.sweep.after",
    "executor.open.before",
    "executor.open.after",
    "executor.launch.before",
    "executor.launch.after",
    "executor.clear.before",
    "executor.clear.after",
    "executor.closed.after",
    "tlog.file.before",
    "tlog.file.after",
    "tlog.sealed.before",
    "tlog.sealed.after",
    "tlog.trim.before",
    "tlog.trim.after",
)
"""Every point there is: room, what is written, and on which side of the write."""

_FAULT = os.environ.get("FORGE_FAULT", "")
_LOG = os.environ.get("FORGE_FAULT_LOG", "")
_IS_ARMED = bool(_FAULT or _LOG)
_reached: Counter[str] = Counter()


def reached(point: str) -> None:
    """Say that a point is reached; nothing happens unless a test armed one. Raises ValueError for one that is not listed."""
    if not _IS_ARMED:
        return
    if point not in POINTS:
        raise ValueError(f"fault point {point!r} is not listed in forge.faults.POINTS")
    if _LOG:
        with Path(_LOG).open("a", encoding="utf-8") as log:
            log.write(point + "\n")
    _reached[point] += 1
    name, _, number = _FAULT.partition(":")
    if name == point and _reached[point] == int(number or 1):
        os.kill(os.getpid(), signal.SIGKILL)
