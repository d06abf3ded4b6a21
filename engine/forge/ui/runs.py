"""Runs as a table, and a run's log as it grows."""

import datetime
from collections.abc import Iterable
from typing import Any

from forge.contract.messages import Event
from forge.errors import printable
from forge.executors.runs import Run
from forge.plan.render import duration
from forge.ui.progress import event_text

_WORDS = 60


def to_data(runs: Iterable[Run]) -> dict[str, Any]:
    """Runs as JSON."""
    return {
        "schema_version": 1,
        "runs": [
            {
                "id": run.id,
                "key": run.key,
                "attempt": run.attempt,
                "step": run.step_id,
                "state": run.state.value,
                "started": run.started,
                "seconds": run.seconds,
                "message": run.message,
                "folder": str(run.folder) if run.folder is not None else None,
                "last_event": run.last.model_dump(mode="json", exclude_none=True) if run.last is not None else None,
            }
            for run in runs
        ],
    }


def to_text(runs: list[Run]) -> str:
    """Runs for people, one line each."""
    if not runs:
        return "nothing ran here yet"
    rows = [("RUN", "STEP", "STATE", "STARTED (UTC)", "TOOK", "LAST"), *map(_row, runs)]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = ("  ".join([*map(str.ljust, row[:5], widths), row[5]]).rstrip() for row in rows)
    return "\n".join(map(printable, lines))


def line_of(event: Event) -> str:
    """An event in a log."""
    time = datetime.datetime.fromtimestamp(event.time, datetime.UTC).strftime("%H:%M:%S")
    return f"{time}  {printable(event_text(event))}"


def _row(run: Run) -> tuple[str, ...]:
    took = duration(run.seconds) if run.seconds is not None else "-"
    words = run.message or (event_text(run.last) if run.last is not None else "")
    if run.folder is None:
        words = words or "(its folder is not on this machine)"
    first, *more = words.splitlines() or [""]
    shown = printable(first if len(first) <= _WORDS and not more else first[: _WORDS - 2] + "..")
    started = (run.started or "-")[:19].replace("T", " ")
    return run.id, run.step_id, run.state.value, started, took, shown
