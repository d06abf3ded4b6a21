"""Requests to stop between two steps: SIGTERM, or the end of the process that launched this one.

A handler only takes note; the loop asks after each step, writes a checkpoint and ends. A worker under torchrun holds
the read end of a pipe as its standard input, whose other end only the step process has: end of file there means that
the step process is gone, however it died, and nobody would collect what an orphan computes.
"""

import os
import select
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from types import FrameType


class StopReason(StrEnum):
    """Why a training stops between two steps."""

    SIGTERM = "SIGTERM"
    """Somebody asked it to."""
    LAUNCHER_ENDED = "the end of its step process"
    """Nobody would collect the result."""


class StopRequest:
    """Whether this process was asked to stop, and by what."""

    def __init__(self, *, watch_stdin: bool) -> None:
        self._signalled = False
        self._watch_stdin = watch_stdin

    def note_signal(self, _number: int, _frame: FrameType | None) -> None:
        """The signal handler."""
        self._signalled = True

    @property
    def reason(self) -> StopReason | None:
        """Why to stop; None to go on."""
        if self._signalled:
            return StopReason.SIGTERM
        if self._watch_stdin and _at_end_of_file(sys.stdin.fileno()):
            return StopReason.LAUNCHER_ENDED
        return None


@contextmanager
def stop_requests(*, watch_stdin: bool = False) -> Iterator[StopRequest]:
    """Take note of SIGTERM for the time of the block; outside the main thread, signals go where they went before."""
    request = StopRequest(watch_stdin=watch_stdin)
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = signal.signal(signal.SIGTERM, request.note_signal)
    try:
        yield request
    finally:
        signal.signal(signal.SIGTERM, before)


def _at_end_of_file(descriptor: int) -> bool:
    readable, _, _ = select.select([descriptor], [], [], 0)
    return bool(readable) and not os.read(descriptor, 1)
