"""The log of one attempt as it grows: its events, and what its process wrote to stdout and stderr, marked with a bar."""

from pathlib import Path

from forge.contract.messages import Event
from forge.errors import printable
from forge.executors.events import EventTail
from forge.executors.local import LOG_FILE
from forge.ui.runs import line_of


class LogTail:
    """Reads what is new since the last look."""

    def __init__(self, folder: Path, *, as_json: bool) -> None:
        self._output = folder / LOG_FILE
        self._position = 0
        self._as_json = as_json
        self._events: list[Event] = []
        self._tail = EventTail(folder, self._events.append)

    def read(self) -> list[str]:
        """New lines. As JSON there are events alone: what a process writes is no data."""
        self._tail.read()
        events, self._events[:] = list(self._events), []
        if self._as_json:
            return [event.model_dump_json(exclude_none=True) for event in events]
        return [*(f"| {printable(line)}" for line in self._new_output()), *map(line_of, events)]

    def _new_output(self) -> list[str]:
        if not self._output.exists():
            return []
        with self._output.open("rb") as file:
            file.seek(self._position)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._position += len(whole)
        return whole.decode(errors="replace").splitlines()
