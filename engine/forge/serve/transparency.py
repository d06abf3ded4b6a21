"""The audit log's transparency log: a thread that brings new lines into the log, about once a second and at the end.

Invariant: a request never waits for it and never fails by it, for its line is in the file already. What goes wrong while the
agent serves is said once, tried again, and said to be over; what contradicts the log when the agent starts is refused there.
"""

import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from forge.errors import ForgeError
from forge.tlog.feed import Feed
from forge.tlog.key import load_key
from forge.tlog.log import open_writer
from forge.tlog.seals import Seals

INTERVAL_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0
_CLOSE_SECONDS = 10.0


@dataclass(frozen=True)
class AuditLogPlace:
    """Where the audit log's transparency log lies, and who signs it."""

    folder: Path
    origin: str
    key: Path
    seals: Path
    interval_seconds: float = INTERVAL_SECONDS


@contextmanager
def logging_lines(place: AuditLogPlace | None, audit_folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Log the lines of an audit folder as long as this lasts; None: they are not logged.

    What was left over from the last time is logged before it begins. Raises ForgeError where that cannot be done, where the
    files contradict the log, or where another process writes it.
    """
    if place is None:
        yield
        return
    with open_writer(place.folder, place.origin, load_key(place.key), Seals(place.seals)) as writer:
        feed = Feed(writer, audit_folder)
        try:
            feed.poll()
            thread = _Thread(feed, say, place.interval_seconds)
            thread.start()
            try:
                yield
            finally:
                thread.close()
        finally:
            feed.close()


class _Thread:
    """Polls a feed until it is closed."""

    def __init__(self, feed: Feed, say: Callable[[str], None], interval_seconds: float) -> None:
        self._feed = feed
        self._say = say
        self._interval_seconds = interval_seconds
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="forge-audit-log", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """Log what is left, and end."""
        self._closing.set()
        self._thread.join(_CLOSE_SECONDS)
        if self._thread.is_alive():
            self._say("the last lines of the audit log are not in its transparency log yet: the disk does not answer")

    def _run(self) -> None:
        fault: str | None = None
        pause = self._interval_seconds
        closing = False
        while not closing:
            closing = self._closing.wait(pause)
            try:
                self._feed.poll()
            except Exception as error:  # noqa: BLE001 (the thread's boundary: the agent goes on serving)
                if not isinstance(error, ForgeError):
                    traceback.print_exception(error)
                reason = str(error) or type(error).__name__
                if reason != fault:
                    self._say(f"the audit log's lines are not in its transparency log: {reason}")
                    fault = reason
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            else:
                if fault is not None:
                    self._say("the audit log's lines are in its transparency log again")
                fault, pause = None, self._interval_seconds
