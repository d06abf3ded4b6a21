"""The attempts at steps whose folders lie on this machine: what each was asked, how far it came, how it ended.

Everything is read from the files that a step and its launcher exchange; nothing is evidence, and a file that cannot be read
leaves its field empty. A run is all attempts at one step key.
"""

import datetime
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from forge.canonical import PREFIX, hex_of, is_digest
from forge.contract.messages import (
    FAILURE_FILE,
    REQUEST_FILE,
    RESULT_FILE,
    Event,
    FailureCause,
    Message,
    StepFailure,
    StepRequest,
    StepResult,
)
from forge.errors import StepError
from forge.executors.events import first_and_last_event
from forge.executors.local import living_process
from forge.executors.open_runs import open_runs
from forge.executors.workspace import Workspace

_SHOWN_DIGITS = 12
_M = TypeVar("_M", bound=Message)


class RunState(StrEnum):
    """How an attempt stands."""

    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    STOPPED = "stopped"
    """It was asked to, and the next attempt goes on from its last checkpoint."""
    INTERRUPTED = "interrupted"
    """Its process is gone without a word: killed, or the machine went down."""


@dataclass(frozen=True)
class Run:
    """One attempt at a step."""

    key: str
    attempt: int
    step_id: str
    state: RunState
    started: str | None
    """UTC, RFC 3339."""
    seconds: float | None
    message: str = ""
    """The last event's, or why it failed."""
    last: Event | None = None
    folder: Path | None = None
    """Where its files lie; None for an attempt that ran elsewhere, or whose folder is gone."""

    @property
    def id(self) -> str:
        """What names it on the command line."""
        return f"{hex_of(self.key)[:_SHOWN_DIGITS]}-{self.attempt}"


def local_runs(work: Path) -> list[Run]:
    """Every attempt that left a folder here, in no order."""
    named = {run.key: run.step_id for run in open_runs(work)}
    found = []
    for folder in sorted(work.glob("?" * 64)) if work.is_dir() else []:
        key = PREFIX + folder.name
        if is_digest(key):
            space = Workspace(folder)
            living = living_process(space) is not None
            numbers = space.attempts()
            for number in numbers:
                run = _read(space.attempt(number), key, number, named.get(key), is_living=living and number == numbers[-1])
                if run is not None:
                    found.append(run)
    return found


def request_of(run: Run) -> StepRequest:
    """What an attempt was asked to do; raises StepError where its folder does not say."""
    request = _message(run.folder / REQUEST_FILE, StepRequest) if run.folder is not None else None
    if request is None:
        raise StepError(f"{run.id} ({run.step_id}): its request is not on this machine, or cannot be read")
    return request


def _read(folder: Path, key: str, number: int, step_id: str | None, *, is_living: bool) -> Run | None:
    request = _message(folder / REQUEST_FILE, StepRequest)
    if request is None:
        return None
    name = step_id or f"{request.step.value}/{request.subject.partition('/')[2]}"
    first, last = first_and_last_event(folder)
    result = _message(folder / RESULT_FILE, StepResult) or _message(folder / f"recorded-{RESULT_FILE}", StepResult)
    failure = _message(folder / FAILURE_FILE, StepFailure)
    began = first.time if first is not None else (folder / REQUEST_FILE).stat().st_mtime
    started = datetime.datetime.fromtimestamp(began, datetime.UTC).isoformat(timespec="seconds")
    seconds = None if last is None else last.time - began
    if result is not None:
        state, message = RunState.FINISHED, ""
        started, seconds = result.started, _seconds_between(result.started, result.finished)
    elif failure is not None:
        state = RunState.STOPPED if failure.cause is FailureCause.STOPPED else RunState.FAILED
        message = failure.message
    elif is_living:
        state, message = RunState.RUNNING, (last.message or "" if last is not None else "")
        seconds = max(0.0, datetime.datetime.now(datetime.UTC).timestamp() - began)
    else:
        state, message = RunState.INTERRUPTED, ""
    return Run(key, number, name, state, started, seconds, message, last, folder)


def _message(path: Path, kind: type[_M]) -> _M | None:
    try:
        return kind.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def _seconds_between(started: str, finished: str) -> float:
    return (datetime.datetime.fromisoformat(finished) - datetime.datetime.fromisoformat(started)).total_seconds()
