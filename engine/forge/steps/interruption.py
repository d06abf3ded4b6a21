"""Requests to stop: SIGTERM, or, for a rank under torchrun, the end of the process that launched it.

Invariant: a step process that was sent SIGTERM ends soon, either with its result or with ``failure.json`` and the cause
``stopped``. Three ways lead there:

1. As a rule the signal's handler raises ``StoppedError`` where the step stands. Nothing is lost: what a step made counts
   only once its result is in place.
2. Inside ``deferred`` it only takes note, and the code there asks: the training loop, which writes a checkpoint between two
   steps, and the writing of a result, which is nearly done.
3. Code that does not come back to the interpreter, or that swallows exceptions, is ended by a thread after some seconds.

A worker under torchrun holds the read end of a pipe as its standard input, whose other end only the step process has: end
of file there means that the step process is gone, however it died, and nobody would collect what an orphan computes.
This module loads nothing but the standard library, so that a step listens before it loads anything that takes time.
"""

import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from types import FrameType

PATIENCE_SECONDS = 5.0
"""How long the step's own code has to answer outside ``deferred``."""

_SIGTERM = bytes([signal.SIGTERM])
_OVER = b"\0"


class StoppedError(BaseException):
    """The step was asked to stop. No ``Exception``: libraries that catch those must not take it for a fault of theirs."""


class StopReason(StrEnum):
    """Why a step stops."""

    SIGTERM = "SIGTERM"
    """Somebody asked it to."""
    LAUNCHER_ENDED = "the end of its step process"
    """Nobody would collect the result."""


class StopRequest:
    """Whether this process was asked to stop, and by what."""

    def __init__(self, *, watch_stdin: bool = False) -> None:
        self._signalled = False
        self._deferrals = 0
        self._watching = False
        self._watch_stdin = watch_stdin

    @property
    def reason(self) -> StopReason | None:
        """Why to stop; None to go on."""
        if self._signalled:
            return StopReason.SIGTERM
        if self._watch_stdin and _at_end_of_file(sys.stdin.fileno()):
            return StopReason.LAUNCHER_ENDED
        return None

    def check(self) -> None:
        """Raise ``StoppedError`` if there is a reason to stop."""
        reason = self.reason
        if reason:
            raise StoppedError(f"stopped by {reason}")

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Only take note of SIGTERM inside the block; whoever leaves it asks ``check``."""
        self._deferrals += 1
        try:
            yield
        finally:
            self._deferrals -= 1

    @contextmanager
    def undeferred(self, give_up: Callable[[], None]) -> Iterator[None]:
        """Inside ``deferred``, a block where SIGTERM raises again; a request that was noted before raises at once.

        ``give_up`` is called, in a thread, when the code of the block did not answer; it is to end the process.
        """
        with self._watched(give_up):
            deferrals, self._deferrals = self._deferrals, 0
            try:
                self.check()
                yield
            finally:
                self._deferrals = deferrals

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Answer SIGTERM from here on, and ignore it after the block: what is left then is the end of the process.

        Outside the main thread, signals go where they went before.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        signal.signal(signal.SIGTERM, self._note_signal)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def _note_signal(self, _number: int, _frame: FrameType | None) -> None:
        first = not self._signalled
        self._signalled = True
        if first and not self._deferrals:
            self.check()

    @contextmanager
    def _watched(self, give_up: Callable[[], None]) -> Iterator[None]:
        """A thread that the kernel wakes at a signal, even while the main thread is in code that is not Python's."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        over = threading.Event()
        self._watching = True
        os.register_at_fork(after_in_child=self._forget_in_child)
        thread = threading.Thread(target=self._watch, args=(reader, over, give_up), name="forge-stop", daemon=True)
        before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        thread.start()
        try:
            yield
        finally:
            self._watching = False
            over.set()
            signal.set_wakeup_fd(before)
            os.write(writer, _OVER)  # not by closing it: a forked child may hold it too
            thread.join()
            os.close(writer)
            os.close(reader)

    def _forget_in_child(self) -> None:
        """A forked child shares the pipe: a signal that ends it must not look like one to this process."""
        if self._watching:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def _watch(self, reader: int, over: threading.Event, give_up: Callable[[], None]) -> None:
        received = os.read(reader, 1)
        while received not in (_OVER, _SIGTERM):  # another signal's number
            received = os.read(reader, 1)
        while not over.wait(PATIENCE_SECONDS):
            if not self._deferrals:
                give_up()


def _at_end_of_file(descriptor: int) -> bool:
    readable, _, _ = select.select([descriptor], [], [], 0)
    return bool(readable) and not os.read(descriptor, 1)
