"""A step process that SIGKILL ended: whose doing it was, and what is said of memory."""

import os
import signal
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.steps.conftest import request_of

from forge.contract.messages import Event, FailureCause
from forge.executors import local
from forge.executors.killed import message_of_kill
from forge.executors.local import StepFailedError, launch
from forge.executors.workspace import step_lock, workspace

GIB = 1 << 30


@pytest.fixture
def training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., local.Job]:
    """Launch an attempt at a training whose process is a line of shell."""

    def start(line: str) -> local.Job:
        program = tmp_path / "python"
        program.write_text(f"#!/bin/sh\n{line}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr(local.sys, "executable", str(program))
        request = request_of(tmp_path, "train", {}, {})
        space = workspace(tmp_path / "work", request.key)
        (space.scratch / "checkpoints" / "step-00000080-attempt-1").mkdir(parents=True)
        with step_lock(space) as lock:
            assert lock is not None
            return launch(request, space, lock, lambda _: None)

    return start


def ended(job: local.Job) -> StepFailedError:
    deadline = time.monotonic() + 10
    while not job.is_over():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with pytest.raises(StepFailedError) as told:
        job.outcome()
    return told.value


def test_a_process_that_the_kernel_ended_lacked_memory(training: Callable[..., local.Job]) -> None:
    line = Event(time=1.0, memory_bytes=3 * GIB).model_dump_json(exclude_none=True)
    failure = ended(training(f"echo '{line}' > events.jsonl; kill -KILL $$"))
    assert failure.cause is FailureCause.RESOURCE
    assert "Test/subject: the step process was ended by SIGKILL, and not by this runner" in str(failure)
    assert "by its last word it had held 3.0 GiB, and the machine has " in str(failure)
    assert "The next attempt goes on from checkpoint step-00000080-attempt-1." in str(failure)
    assert "step.log" in str(failure)


def test_a_process_that_the_runner_ended_lacked_nothing(training: Callable[..., local.Job]) -> None:
    job = training("exec sleep 60")
    job.kill()
    assert ended(job).cause is FailureCause.INTERNAL


def test_a_process_that_another_signal_ended_is_no_matter_of_memory(training: Callable[..., local.Job]) -> None:
    job = training("exec sleep 60")
    pid = local.living_process(job.space)
    assert pid is not None
    os.killpg(pid, signal.SIGSEGV)
    failure = ended(job)
    assert failure.cause is FailureCause.INTERNAL
    assert "was ended by SIGSEGV without a word" in str(failure)


@pytest.mark.parametrize(
    ("step", "parameters", "named", "unnamed"),
    [
        ("train", {"objective": "pretrain"}, "training.activation_checkpointing (the same identity)", "adapter"),
        ("train", {"objective": "sft"}, "train an adapter", "activation_checkpointing"),
        ("train", {"objective": "pretrain", "backend": "nanotron"}, "nanotron.tensor_parallel", "activation_checkpointing"),
        ("evaluate", {}, "executor.slots", "micro_batch_sequences"),
    ],
)
def test_what_needs_less_memory_is_what_the_step_has(
    tmp_path: Path, step: str, parameters: dict[str, Any], named: str, unnamed: str
) -> None:
    message = message_of_kill(request_of(tmp_path, step, parameters, {}), [], 16 * GIB, None)
    assert named in message
    assert unnamed not in message
    assert "it had said nothing of its memory; the machine has 16.0 GiB. The next attempt starts anew." in message
