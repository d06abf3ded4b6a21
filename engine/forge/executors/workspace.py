"""The folder of one step key on this machine, and what it says without anybody asking a process.

``work/KEY/`` holds the step's inputs, the scratch that its attempts share, a folder for each attempt, and the lock that the
step's process holds for as long as it lives (``forge.executors.local``). Nothing is started or watched here.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from forge.canonical import hex_of
from forge.contract.checkpoints import CHECKPOINT_GLOB
from forge.contract.messages import REQUEST_FILE, RESULT_FILE, StepRequest, StepResult
from forge.faults import reached


@dataclass(frozen=True)
class Workspace:
    """The folder of one step key; attempts lie below it."""

    folder: Path

    @property
    def inputs(self) -> Path:
        """Where input artifacts are laid out."""
        return self.folder / "inputs"

    @property
    def scratch(self) -> Path:
        """What attempts share."""
        return self.folder / "scratch"

    def attempts(self) -> list[int]:
        """Numbers of the attempts so far."""
        return sorted(int(path.name) for path in self.folder.glob("[0-9]*") if path.name.isdigit())

    def attempt(self, number: int) -> Path:
        """The folder of one attempt."""
        return self.folder / f"{number:06d}"

    def checkpoints(self) -> list[str]:
        """What a training has kept in its scratch, as ``newest_checkpoint`` reads it: paths below that."""
        return sorted(path.relative_to(self.scratch).as_posix() for path in self.scratch.glob(CHECKPOINT_GLOB))

    def finished(self) -> tuple[StepResult, Path] | None:
        """A result that is in place but not recorded yet, with the folder its products lie in."""
        for number in reversed(self.attempts()):
            path = self.attempt(number) / RESULT_FILE
            if path.exists():
                return StepResult.model_validate_json(path.read_bytes()), self.attempt(number) / "output"
        return None

    def clear(self) -> None:
        """Drop what a recorded step leaves behind; logs, events and the result's words stay.

        The result is renamed first: a kill in between must not leave a result whose products are gone.
        """
        reached("executor.clear.before")
        for number in self.attempts():
            result = self.attempt(number) / RESULT_FILE
            if result.exists():
                result.replace(result.with_name("recorded-" + RESULT_FILE))
            shutil.rmtree(self.attempt(number) / "output", ignore_errors=True)
        for folder in (self.inputs, self.scratch, self.folder / "home"):
            shutil.rmtree(folder, ignore_errors=True)
        reached("executor.clear.after")


def workspace(work: Path, key: str) -> Workspace:
    """The workspace of a step key, made if need be."""
    folder = work / hex_of(key)
    folder.mkdir(parents=True, exist_ok=True)
    return Workspace(folder)


@contextmanager
def step_lock(space: Workspace) -> Iterator[int | None]:
    """The key's lock as an open file to hand to a child; None while a live step process holds it."""
    descriptor = os.open(space.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            yield descriptor
    finally:
        os.close(descriptor)


def requested(space: Workspace) -> StepRequest | None:
    """What the newest attempt was asked to do; None where there is none, or its request cannot be read."""
    attempts = space.attempts()
    if not attempts:
        return None
    try:
        return StepRequest.model_validate_json((space.attempt(attempts[-1]) / REQUEST_FILE).read_bytes())
    except (OSError, ValidationError):
        return None
