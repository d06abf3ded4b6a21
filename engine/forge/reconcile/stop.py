"""The wish to stop. Once: drain, that is, let the steps write their checkpoints and end. Twice: end them at once.

Asked a third time, whatever is being done is left as a kill would leave it: a large artifact that is being stored must not
keep anybody waiting, and everything that is written here can be interrupted anywhere.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_PATIENCE = 2
"""So often the one who asks is answered in order."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Counts how often someone asked."""

    def __init__(self) -> None:
        self.asked = 0

    def ask(self) -> None:
        """Ask once more."""
        self.asked += 1


@contextmanager
def stop_on_signals(stop: Stop) -> Iterator[None]:
    """Turn Ctrl-C and SIGTERM into the wish to stop, for as long as the block runs."""

    def handle(_number: int, _frame: FrameType | None) -> None:
        stop.ask()
        if stop.asked > _PATIENCE:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, handle) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
