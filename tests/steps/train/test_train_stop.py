"""A training that is asked to stop ends soon and can be resumed, wherever it stands: to the bytes of an undisturbed run."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from forge.steps.interruption import StoppedError, StopRequest
from forge.steps.train import keeping, loop, worker
from forge.steps.train.checkpoint import checkpoint_name

Make = Callable[..., Any]
SOON_SECONDS = 40


@pytest.fixture
def stop() -> Iterator[StopRequest]:
    """What a step process listens with; this process's own handler comes back after the test."""
    before = signal.getsignal(signal.SIGTERM)
    request = StopRequest()
    try:
        with request.listening():
            yield request
    finally:
        signal.signal(signal.SIGTERM, before)


def signal_before(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> None:
    """Send this process SIGTERM at the first call of a function."""
    real = getattr(module, name)

    def signalling(*arguments: Any, **fields: Any) -> Any:
        monkeypatch.setattr(module, name, real)
        os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments, **fields)

    monkeypatch.setattr(module, name, signalling)


@pytest.mark.parametrize(
    ("module", "name", "step"),
    [
        (worker, "outline", None),
        (keeping, "load_newest", None),
        (loop, "training_batch", 1),
        (loop, "validation_batches", 3),
        (worker, "export_weights", 12),
        (keeping, "copy_checkpoint", 12),
    ],
    ids=["before the model", "while it resumes", "in a step", "in a validation", "in the export", "at the by-product"],
)
def test_it_stops_where_it_stands_and_resumes(
    new_attempt: Make, stop: StopRequest, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, step: int | None
) -> None:
    settings = {"validate_every_tokens": 256 * 3, "checkpoint_every_tokens": 256 * 5}
    whole = new_attempt("whole", settings=settings)
    whole.run()
    first = new_attempt(settings=settings)
    signal_before(monkeypatch, module, name)
    with pytest.raises(StoppedError, match="stopped by SIGTERM"):
        first.run(stop)
    found = sorted(path.name for path in first.checkpoints.glob("step-*"))
    assert found[-1:] == ([] if step is None else [checkpoint_name(step, 1)])
    second = new_attempt(number=2, settings=settings)
    assert second.run()["resumed_from_step"] == (step or 0)
    assert second.weights_digest() == whole.weights_digest()
    assert second.byproduct.is_dir()


def test_a_final_validation_is_cut_short(new_attempt: Make, stop: StopRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    signal_before(monkeypatch, loop, "validation_batches")
    attempt = new_attempt()
    with pytest.raises(StoppedError, match="stopped by SIGTERM after step 12 of 12"):
        attempt.run(stop)
    assert (attempt.checkpoints / checkpoint_name(12, 1)).is_dir()
    assert not attempt.weights.exists()
    assert not any("bits_per_byte" in event for event in attempt.events())


def catches(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal: before that, the signal ends Python itself."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt:"))
    return bool(int(line.split()[1], 16) >> (number - 1) & 1)


@pytest.mark.parametrize(("processes", "seconds"), [(1, 0.0), (1, 1.5), (2, 1.0), (2, 3.5)])
def test_a_stop_while_it_starts_up_is_told_from_a_failure(new_attempt: Make, processes: int, seconds: float) -> None:
    """The whole group is signalled, as an executor does: torchrun must not be signalled twice."""
    attempt = new_attempt(training={"tokens": 256 * 100_000}, processes=processes)
    path = attempt.folder / "request.json"
    path.write_text(attempt.request().model_dump_json())
    command = [sys.executable, "-m", "forge.steps", str(path)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + SOON_SECONDS
    while not catches(process.pid, signal.SIGTERM) and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(seconds)
    asked = time.monotonic()
    os.killpg(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=SOON_SECONDS)
    assert process.returncode == 1, errors
    assert attempt.failure()["cause"] == "stopped"
    assert time.monotonic() - asked < SOON_SECONDS
    assert not (attempt.folder / "result.json").exists()
