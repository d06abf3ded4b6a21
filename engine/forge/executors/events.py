"""A step's events, read as they are appended: by whoever watches the step, and long afterwards.

An incomplete last line waits for its end; a line that is none of ours is passed over, because a display must not fail for it.
"""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from forge.contract.messages import EVENTS_FILE, Event

_TAIL_BYTES = 8192

OnEvent = Callable[[Event], None]


class EventTail:
    """Reads what was appended to a step's events since the last look."""

    def __init__(self, folder: Path, on_event: OnEvent) -> None:
        self._path = folder / EVENTS_FILE
        self._on_event = on_event
        self._position = 0

    def read(self) -> None:
        """Pass on what is new."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._position)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._position += len(line)
                with suppress(ValidationError):
                    self._on_event(Event.model_validate_json(line))


def read_events(folder: Path) -> list[Event]:
    """All events of an attempt so far."""
    events: list[Event] = []
    EventTail(folder, events.append).read()
    return events


def first_and_last_event(folder: Path) -> tuple[Event | None, Event | None]:
    """The two ends of an attempt's events, without reading what lies between."""
    path = folder / EVENTS_FILE
    if not path.exists():
        return None, None
    with path.open("rb") as file:
        first = _event(file.readline())
        size = file.seek(0, 2)
        file.seek(max(0, size - _TAIL_BYTES))
        lines = file.read().split(b"\n")[:-1]  # what follows the last line break is not whole yet
    last = next((event for line in reversed(lines) if (event := _event(line)) is not None), None)
    return first, last


def _event(line: bytes) -> Event | None:
    try:
        return Event.model_validate_json(line)
    except ValidationError:
        return None
