"""The steps that were launched in a clone and are not recorded yet: one small file each, below ``work/open/``.

Invariant: a step is noted before it is launched and the note goes after its record is there, so what an interrupted run left
behind is always found, and nobody has to search every folder for it. A plan reads the notes; they are no evidence.
"""

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from forge.canonical import hex_of
from forge.faults import reached

_OPEN = "open"


@dataclass(frozen=True)
class OpenRun:
    """A step that was launched in a clone and whose result is not recorded yet."""

    key: str
    step_id: str
    commit: str


def note_open(work: Path, key: str, step_id: str, commit: str) -> None:
    """Note that a step is launched, before it is: what it leaves behind can be found without searching every folder."""
    folder = work / _OPEN
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{hex_of(key)}.tmp"
    reached("executor.open.before")
    temporary.write_text(json.dumps({"schema_version": 1, "key": key, "step_id": step_id, "commit": commit}))
    temporary.replace(folder / hex_of(key))
    reached("executor.open.after")


def note_closed(work: Path, key: str) -> None:
    """Note that a step is recorded."""
    (work / _OPEN / hex_of(key)).unlink(missing_ok=True)
    reached("executor.closed.after")


def open_runs(work: Path) -> list[OpenRun]:
    """The steps that were launched here and not recorded, the newest first; a note that cannot be read is no note."""
    folder = work / _OPEN
    if not folder.is_dir():
        return []
    found = []
    for path in sorted(folder.glob("?" * 64), key=lambda path: path.stat().st_mtime, reverse=True):
        with suppress(ValueError, KeyError, OSError):
            note = json.loads(path.read_text())
            found.append(OpenRun(str(note["key"]), str(note["step_id"]), str(note["commit"])))
    return found
