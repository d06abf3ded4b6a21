"""What goes wrong on the machine: each fault ends in one clear message, the last good checkpoint kept, and a resumable run."""

import errno
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors import SafetensorError
from tests.steps.train.conftest import fill_disk

from forge.contract.checkpoints import BEFORE_DECAY
from forge.contract.messages import FailureCause
from forge.errors import StepError
from forge.steps.interruption import StoppedError, StopReason, StopRequest
from forge.steps.process import _cause_of
from forge.steps.run import StepRun
from forge.steps.train import export, keeping, loop, sharding
from forge.steps.train import run as run_train
from forge.steps.train.allocator import memory_named
from forge.steps.train.checkpoint import checkpoint_name, load_checkpoint
from forge.steps.train.rise import STEPS_REMEMBERED

Make = Callable[..., Any]
EVERY = {"checkpoint_every_tokens": 256 * 4}


def test_a_full_disk_keeps_the_checkpoint_before_and_leaves_no_half(new_attempt: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = new_attempt("whole", settings=EVERY)
    whole.run()
    first = new_attempt(settings=EVERY)
    fill_disk(monkeypatch, times=2)  # of step 4, of step 8
    with pytest.raises(StepError, match=r"the checkpoint of step 8 cannot be written to .*No space left on device") as told:
        first.run()
    assert isinstance(told.value.__cause__, OSError)
    assert [path.name for path in first.checkpoints.iterdir()] == [checkpoint_name(4, 1)]
    monkeypatch.undo()
    second = new_attempt(number=2, settings=EVERY)
    assert second.run()["resumed_from_step"] == 4
    assert second.weights_digest() == whole.weights_digest()


@pytest.mark.parametrize(
    "full",
    [
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
    ],
    ids=["disk", "quota"],
)
def test_a_disk_that_does_not_take_the_weights_is_named_and_nothing_is_trained_again(
    new_attempt: Make, monkeypatch: pytest.MonkeyPatch, full: Exception
) -> None:
    """safetensors raises no OSError; its words are those of a tmpfs of 64 KiB."""
    first = new_attempt(settings=EVERY)

    def refuse(*_given: Any) -> None:
        raise full

    monkeypatch.setattr(export, "save_file", refuse)
    with pytest.raises(StepError, match=r"Model/tiny: the weights cannot be written to .*: (No space|Disk quota)") as told:
        first.run()
    assert _cause_of(told.value) is FailureCause.RESOURCE
    monkeypatch.undo()
    assert new_attempt(number=2, settings=EVERY).run()["resumed_from_step"] == 12


def test_what_else_hinders_the_writing_of_weights_stays_what_it_is(new_attempt: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_given: Any) -> None:
        raise SafetensorError("Error while serializing: something else")

    monkeypatch.setattr(export, "save_file", refuse)
    with pytest.raises(SafetensorError, match="something else"):
        new_attempt().run()


def test_a_loss_that_jumps_up_ends_the_training_and_the_next_attempt_goes_on_from_before_it(
    new_attempt: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two steps at a rate that destroys the weights: the losses after it are those of no model."""
    long = {"tokens": 256 * 40}
    whole = new_attempt("whole", training=long)
    whole.run()
    real = loop.learning_rate
    monkeypatch.setattr(loop, "learning_rate", lambda *given: 30.0 if given[2] in (16, 17) else real(*given))
    attempt = new_attempt(training=long, settings={"checkpoint_every_tokens": 256 * 2})
    with pytest.raises(
        StepError, match=r"at step 2\d of 40 the loss has risen: the median .* more than training.max_loss_rise \(1.0\) above"
    ) as told:
        attempt.run()
    (kept,) = attempt.checkpoints.iterdir()
    state = load_checkpoint(kept).state
    assert state.step == 16
    assert f"The checkpoint of step 16 (loss {state.train_loss:.4f}) is kept" in str(told.value)
    assert state.train_loss < state.lowest_mean_loss + 0.5
    monkeypatch.undo()
    again = new_attempt(number=2, training=long)
    assert again.run()["resumed_from_step"] == 16
    assert again.weights_digest() == whole.weights_digest()


CLIMBING = {
    "tokens": 256 * 400,
    "optimizer": {"lr": 3.0},
    "schedule": {"name": "wsd", "warmup_tokens": 256 * 380, "decay_tokens": 0},
}
"""A rate that rises until the model is lost: the loss falls to 3.4 by step 50, and then climbs."""


def test_a_rise_rotates_no_good_checkpoint_away_and_a_retry_ends_at_the_same_step(new_attempt: Make) -> None:
    """The watch's state is in the checkpoint: a retry that forgot it would get further, and leave worse checkpoints."""
    told, kept = [], []
    for number in (1, 2):
        attempt = new_attempt(number=number, training=CLIMBING, settings={"checkpoint_every_tokens": 256})
        with pytest.raises(StepError, match="the loss has risen") as error:
            attempt.run()
        told.append(str(error.value))
        kept.append([load_checkpoint(path).state for path in sorted(attempt.checkpoints.iterdir())])
    assert told[0] == told[1]
    assert [state.step for state in kept[0]] == [state.step for state in kept[1]]
    good = kept[0][-1]
    assert good.train_loss < good.lowest_mean_loss + 0.5
    assert len(good.recent_losses) == min(good.step, STEPS_REMEMBERED)


def test_a_run_that_is_killed_while_its_loss_rises_goes_on_where_it_was(new_attempt: Make) -> None:
    """The newest checkpoint, and the bits of an undisturbed run; the good one before stays beside the two newest."""
    settings = {"checkpoint_every_tokens": 256 * 2}
    first = new_attempt(training=CLIMBING, settings=settings)
    request = first.request()

    class At64(StopRequest):
        """Asked to stop after some steps, as SIGTERM asks."""

        @property
        def reason(self) -> StopReason | None:
            at_64 = any(first.checkpoints.glob("step-00000064-*"))
            return StopReason.SIGTERM if at_64 else None

    with pytest.raises(StoppedError):
        run_train(StepRun(request, first.folder, At64()))
    steps = [load_checkpoint(path).state.step for path in sorted(first.checkpoints.iterdir())]
    assert steps[-1] in (64, 65)
    assert len(steps) == 3
    assert steps[0] < 60
    second = new_attempt(number=2, training=CLIMBING, settings=settings)
    with pytest.raises(StepError, match="the loss has risen") as told:
        second.run()
    assert f"The checkpoint of step {steps[0]} " in str(told.value)
    assert [load_checkpoint(path).state.step for path in second.checkpoints.iterdir()] == [steps[0]]


def test_a_training_may_be_told_to_go_on_whatever_its_loss(new_attempt: Make) -> None:
    training = {**CLIMBING, "tokens": 256 * 90, "schedule": {**CLIMBING["schedule"], "warmup_tokens": 256 * 90}}
    training["optimizer"] = {"lr": 3.0 * 90 / 380}
    with pytest.raises(StepError, match="the loss has risen"):
        new_attempt(training=training).run()
    again = new_attempt(number=2, training=training, settings={"max_loss_rise": None})
    assert again.run()["resumed_from_step"] > 0


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:1] . DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("Registering memory failed with cudaError: 2. It's possible that this is an asynchronous error raised"),
    ],
    ids=["python", "cuda", "cpu", "context", "workspace", "pinned"],
)
def test_out_of_memory_has_one_message_whoever_ran_out(error: Exception) -> None:
    with (
        pytest.raises(StepError, match=r"Model/x: out of memory: .* identity\), or wait") as told,
        memory_named("Model/x", "wait"),
    ):
        raise error
    assert isinstance(told.value.__cause__, MemoryError)
    with pytest.raises(RuntimeError, match="other"), memory_named("Model/x", "wait"):
        raise RuntimeError("other")


@pytest.mark.parametrize(
    ("lacking", "message"),
    [
        ("compiler", r"needs a C\+\+ compiler where the step runs; g\+\+, clang\+\+, c\+\+ is not on the PATH: install it"),
        ("headers", r"needs Python's headers where the step runs; .*nowhere/Python\.h is not there: install it"),
    ],
)
def test_what_compiling_needs_is_asked_for_before_the_first_step(
    new_attempt: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacking: str, message: str
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    if lacking == "headers":
        (programs / "g++").write_text("#!/bin/sh\n")
        (programs / "g++").chmod(0o755)
        monkeypatch.setattr(sharding.sysconfig, "get_path", lambda _name: str(tmp_path / "nowhere"))
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(StepError, match=message):
        new_attempt(settings={"compile": True}).run()


def test_an_allocation_that_the_machine_refuses_is_a_matter_of_resources(new_attempt: Make) -> None:
    """The first matrix is larger than the address space: a real refusal, in a process of its own."""
    attempt = new_attempt(architecture={"hidden_size": 1 << 16})
    path = attempt.folder / "request.json"
    path.write_text(attempt.request().model_dump_json())
    done = subprocess.run(
        [sys.executable, "-m", "forge.steps", str(path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30)),
    )
    assert done.returncode == 1
    assert attempt.failure()["cause"] == "resource", done.stderr
    assert "Model/tiny: out of memory" in attempt.failure()["message"]
    assert "activation_checkpointing" in attempt.failure()["message"]


def test_a_killed_rank_is_named_and_the_run_goes_on_from_its_checkpoint(new_attempt: Make) -> None:
    fields = {"training": {"tokens": 256 * 160}, "processes": 2}
    settings = {"checkpoint_every_tokens": 256 * 20, "parallelism": {"data": "fsdp2"}}
    attempt = new_attempt(settings=settings, **fields)
    process = attempt.start()
    deadline = time.monotonic() + 90
    while not list(attempt.checkpoints.glob("step-????????-attempt-1")):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    ranks = [
        child for child in psutil.Process(process.pid).children(recursive=True) if "forge.steps.train.worker" in child.cmdline()
    ]
    victim = next(rank for rank in ranks if rank.environ().get("RANK") == "1")
    victim.send_signal(signal.SIGKILL)
    process.communicate(timeout=90)
    assert process.returncode == 1
    assert attempt.failure()["cause"] == "resource"
    assert "rank 1 of 2 was killed" in attempt.failure()["message"]
    newest = max(attempt.checkpoints.glob("step-????????-attempt-1"))
    step = load_checkpoint(newest).state.step
    again, whole = (new_attempt(name, number=2, settings=settings, **fields) for name in ("run", "whole"))
    assert again.run()["resumed_from_step"] == step > 0
    whole.run()
    assert again.weights_digest() == whole.weights_digest()


def test_waiting_for_the_checkpoint_from_before_the_decay_is_counted(
    new_attempt: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, waited = keeping.save_named, 0.3

    def slow(subject: str, folder: Path, *given: Any) -> Path:
        time.sleep(waited if folder.name == BEFORE_DECAY else 0)
        return real(subject, folder, *given)

    monkeypatch.setattr(keeping, "save_named", slow)
    attempt = new_attempt()
    metrics = attempt.run()
    assert attempt.byproduct.exists()
    told = [event["checkpoint_stall_seconds"] for event in attempt.events() if "checkpoint step" in event.get("message", "")]
    assert metrics["checkpoint_stall_seconds"] >= sum(told) + waited
