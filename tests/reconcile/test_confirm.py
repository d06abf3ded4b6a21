"""`forge apply` at a terminal: it asks, and what was confirmed is what is done."""

import os
import pty
import select
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.conftest import DEPLOYMENT, commit_all, git
from tests.reconcile.test_apply import FORGE, snapshot_of


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, pid: int, descriptor: int) -> None:
        self.pid, self._descriptor = pid, descriptor
        self.shown = ""
        self.is_open = True
        self.is_ended = False

    def read(self, seconds: float = 0.1) -> None:
        """Take up what it shows within a while."""
        ready, _, _ = select.select([self._descriptor], [], [], seconds)
        if ready:
            try:
                data = os.read(self._descriptor, 65536)
            except OSError:  # the other side is closed
                data = b""
            self.is_open = bool(data)
            self.shown += data.decode(errors="replace")

    def wait_for(self, text: str, seconds: float = 60) -> None:
        until = time.monotonic() + seconds
        while text not in self.shown:
            assert self.is_open, self.shown
            assert time.monotonic() < until, self.shown
            self.read()

    def send(self, keys: bytes) -> None:
        os.write(self._descriptor, keys)

    def exit_code(self, seconds: float = 90, again: bytes = b"") -> int:
        """``again``: sent every two seconds. A signal between a prompt and its read is heard only when the read ends."""
        until = time.monotonic() + seconds
        sent = time.monotonic()
        while self.is_open:
            assert time.monotonic() < until, self.shown
            self.read()
            if again and time.monotonic() > sent + 2:
                sent = time.monotonic()
                self.send(again)
        self.is_ended = True
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@contextmanager
def terminal(folder: Path, config_home: Path, *arguments: str) -> Iterator[Terminal]:
    pid, descriptor = pty.fork()
    if pid == 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a test run in the background ignores it, and so would what it starts
        os.chdir(folder)
        os.execve(FORGE, [str(FORGE), *arguments], {**os.environ, "FORGE_CONFIG_HOME": str(config_home)})
    found = Terminal(pid, descriptor)
    try:
        yield found
    finally:
        os.close(descriptor)
        if not found.is_ended:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


@pytest.fixture
def gate_changed(copy_of_applied: Path) -> Path:
    (copy_of_applied / "models" / "deployment.yaml").write_text(DEPLOYMENT.replace("max: 7.0", "max: 6.5"))
    commit_all(copy_of_applied)
    return copy_of_applied


@pytest.mark.parametrize("answer", [b"\x03", b"n\n"], ids=["Ctrl-C", "no"])
def test_whoever_does_not_say_yes_changes_nothing(gate_changed: Path, config_home: Path, answer: bytes) -> None:
    before = git(gate_changed, "rev-parse", "refs/forge/ledger")
    with terminal(gate_changed, config_home, "apply") as asked:
        asked.wait_for("Do this?")
        asked.send(answer)
        assert asked.exit_code(60, answer if answer == b"\x03" else b"") == 1
    assert "Abort" in asked.shown
    assert "Traceback" not in asked.shown
    assert git(gate_changed, "rev-parse", "refs/forge/ledger") == before


def test_what_was_not_in_the_plan_that_was_confirmed_is_not_done(gate_changed: Path, config_home: Path) -> None:
    """The weights are lost while the question stands: training again was not what was agreed to."""
    weights = snapshot_of(gate_changed).latest("train/small")
    assert weights is not None
    name = weights.products["weights"].removeprefix("sha256:")
    with terminal(gate_changed, config_home, "apply") as asked:
        asked.wait_for("Do this?")
        (gate_changed / ".forge" / "store" / "manifests" / name[:2] / f"{name}.json").unlink()
        asked.send(b"y\n")
        assert asked.exit_code() == 4
    assert "goes beyond the plan that was confirmed" in asked.shown
    assert "train/small was not to be done" in asked.shown
    assert not list((gate_changed / ".forge" / "work").glob("*/000002"))


def test_what_was_confirmed_is_done(gate_changed: Path, config_home: Path) -> None:
    with terminal(gate_changed, config_home, "apply") as asked:
        asked.wait_for("Do this?")
        asked.send(b"y\n")
        assert asked.exit_code() == 0
    assert "In sync with commit" in asked.shown
