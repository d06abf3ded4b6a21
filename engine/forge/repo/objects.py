"""One long-lived ``git cat-file --batch``: single objects by name, without a process for each.

Invariant: a question is one line, and its answer is read whole before the next is asked. Where git ends in the middle (an
object that is damaged makes it die, or somebody killed it), the question is put to another process, once.
"""

import os
import subprocess
import tempfile
import threading
import weakref
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, NamedTuple


class Answer(NamedTuple):
    """An object as git gives it; nobody has compared its bytes with its name yet."""

    name: str
    """Hexadecimal object id."""
    kind: str
    data: bytes


class UnreadableError(Exception):
    """Git could not give an object; the message is git's own, as far as it said anything."""


class _EndedError(UnreadableError):
    """Git ended in the middle."""


class _Git(NamedTuple):
    process: subprocess.Popen[bytes]
    questions: IO[bytes]
    answers: IO[bytes]
    said: IO[bytes]


class ObjectReader:
    """Reads objects of one repository; safe to share between threads."""

    def __init__(self, common_dir: Path, environment: Mapping[str, str]) -> None:
        self._common_dir = common_dir
        self._environment = dict(environment)
        self._guard = threading.Lock()
        self._git: _Git | None = None
        self._finalizer: weakref.finalize[[_Git], ObjectReader] | None = None

    def read(self, name: str) -> Answer | None:
        """An object by id or by ``COMMIT:PATH``; None where git knows none; raises UnreadableError."""
        with self._guard:
            try:
                return self._ask(self._running(), name)
            except _EndedError:  # perhaps killed between two questions: the object is to blame only if it happens again
                return self._ask(self._running(), name)

    def close(self) -> None:
        """End the process."""
        with self._guard:
            self._forget()

    def _running(self) -> _Git:
        if self._git is None:
            said = tempfile.TemporaryFile()  # noqa: SIM115 (it lives as long as the process)
            process = subprocess.Popen(
                ["git", f"--git-dir={self._common_dir}", "-c", "advice.graftFileDeprecated=false", "cat-file", "--batch"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                cwd=self._common_dir,
                env=self._environment,
                start_new_session=True,  # Ctrl-C is for Forge, which ends it in order
            )
            if process.stdin is None or process.stdout is None:
                raise UnreadableError("git cat-file has no pipes")
            self._git = _Git(process, process.stdin, process.stdout, said)
            self._finalizer = weakref.finalize(self, _end, self._git)
        return self._git

    def _ask(self, git: _Git, name: str) -> Answer | None:
        try:
            git.questions.write(os.fsencode(name) + b"\n")
            git.questions.flush()
        except BrokenPipeError:
            raise self._ended(git) from None
        line = git.answers.readline()
        if not line.endswith(b"\n"):
            raise self._ended(git)
        words = line.decode("utf-8", "replace").split()
        if words[-1:] == ["missing"]:
            return None
        if len(words) != 3 or not words[2].isdecimal():
            raise UnreadableError(" ".join(words))
        data = git.answers.read(int(words[2]) + 1)  # and the line feed that ends it
        if len(data) != int(words[2]) + 1:
            raise self._ended(git)
        return Answer(words[0], words[1], data[:-1])

    def _ended(self, git: _Git) -> "_EndedError":
        """The error to raise when git has ended before it answered, once the process is cleared away."""
        git.process.wait()
        said = os.pread(git.said.fileno(), 2000, 0).decode(errors="replace").strip()
        self._forget()
        return _EndedError(said or f"git cat-file ended with status {git.process.returncode}")

    def _forget(self) -> None:
        self._git = None
        if self._finalizer is not None:
            self._finalizer()


def _end(git: _Git) -> None:
    """End the process; also of a reader that nobody closed and nobody holds any more."""
    with suppress(BrokenPipeError):  # it is gone already, and the question with it
        git.questions.close()
    git.answers.close()
    git.process.wait()
    git.said.close()
