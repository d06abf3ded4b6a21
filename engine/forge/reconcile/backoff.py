"""How long to leave a failed step alone before it is tried again. Pure but for the clock that is handed in."""

from collections.abc import Callable

FIRST_SECONDS = 30.0
LONGEST_SECONDS = 900.0


class Backoff:
    """Per step key: each failure in a row doubles the pause, up to a quarter of an hour. Another key starts afresh."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._failures: dict[str, tuple[int, float]] = {}

    def failed(self, key: str) -> float:
        """Note a failure; returns the seconds to wait."""
        count = self._failures.get(key, (0, 0.0))[0] + 1
        pause = min(LONGEST_SECONDS, FIRST_SECONDS * 2.0 ** (count - 1))
        self._failures[key] = count, self._monotonic() + pause
        return pause

    def succeeded(self, key: str) -> None:
        """Forget what was."""
        self._failures.pop(key, None)

    def waits(self, key: str) -> bool:
        """Whether it is too early to try again."""
        return key in self._failures and self._monotonic() < self._failures[key][1]
