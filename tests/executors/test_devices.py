"""Accelerators for steps: which are lent, to one live process each, and what is said where none is free."""

import os
import signal
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.steps.conftest import request_of

from forge.contract.messages import FailureCause, Resources
from forge.executors import devices, local
from forge.executors.devices import chosen, visible_devices
from forge.executors.local import StepFailedError, launch
from forge.executors.workspace import step_lock, workspace


@pytest.mark.parametrize(
    ("environment", "listed", "expected"),
    [
        ({}, ["GPU-1", "GPU-2"], ("GPU-1", "GPU-2")),
        ({}, [], ()),
        ({"CUDA_VISIBLE_DEVICES": "2,0"}, ["GPU-1"], ("2", "0")),
        ({"CUDA_VISIBLE_DEVICES": "MIG-a, GPU-b"}, [], ("MIG-a", "GPU-b")),
        ({"CUDA_VISIBLE_DEVICES": ""}, ["GPU-1"], ()),
        ({"CUDA_VISIBLE_DEVICES": "1,-1,2"}, [], ("1",)),
        ({"CUDA_VISIBLE_DEVICES": "1,1"}, [], ("1",)),
    ],
)
def test_what_may_be_lent_is_what_the_runner_sees(
    environment: dict[str, str], listed: list[str], expected: tuple[str, ...]
) -> None:
    assert visible_devices(environment, listed) == expected


@given(st.lists(st.text("0123", min_size=1), unique=True), st.data())
def test_what_is_chosen_is_free_and_as_many_as_asked_for(names: list[str], data: st.DataObject) -> None:
    taken = data.draw(st.sets(st.sampled_from(names))) if names else set()
    wanted = data.draw(st.integers(1, 5))
    found = chosen(names, taken, wanted)
    if found is None:
        assert len(names) - len(taken) < wanted
    else:
        assert len(set(found)) == wanted
        assert set(found) <= set(names) - taken


@pytest.fixture
def sleeping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., local.Job]:
    """Launch an attempt whose process writes what it sees of devices into ``seen``, and sleeps."""
    program = tmp_path / "python"
    program.write_text('#!/bin/sh\necho "$CUDA_VISIBLE_DEVICES" > seen.tmp\nmv seen.tmp seen\nexec sleep 60\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(local.sys, "executable", str(program))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,6,7")

    def start(key: str, accelerator: str = "cuda", processes: int = 1) -> local.Job:
        request = request_of(tmp_path, "train", {}, {}).model_copy(
            update={"key": "sha256:" + key * 64, "resources": Resources(accelerator=accelerator, processes=processes)}
        )
        space = workspace(tmp_path / "work", request.key)
        with step_lock(space) as lock:
            assert lock is not None
            return launch(request, space, lock, lambda _: None)

    return start


def seen(job: local.Job) -> str:
    path, deadline = job.space.attempt(job.attempt) / "seen", time.monotonic() + 10
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return path.read_text().strip()


def test_trainings_at_once_have_devices_of_their_own(sleeping: Callable[..., local.Job]) -> None:
    jobs = [sleeping("a"), sleeping("b", processes=2), sleeping("c", accelerator="cpu")]
    try:
        assert [seen(job) for job in jobs] == ["5", "6,7", "5,6,7"]
        late = sleeping("d")
        assert late.is_over()
        with pytest.raises(StepFailedError, match="1 devices are asked for, and 0 of 3 are free: other steps hold") as told:
            late.outcome()
        assert told.value.cause is FailureCause.RESOURCE
        jobs[0].kill()
        jobs.append(sleeping("e"))
        assert seen(jobs[-1]) == "5"
    finally:
        for job in jobs:
            job.kill()


def test_a_runner_that_is_gone_leaves_its_devices_with_the_step(sleeping: Callable[..., local.Job]) -> None:
    """The lock is the process's: a runner that comes later lends none of them twice."""
    job = sleeping("a", processes=3)
    pid = local.living_process(job.space)
    assert pid is not None
    assert seen(job) == "5,6,7"
    assert sleeping("b").is_over()
    os.killpg(pid, signal.SIGKILL)
    job._process.wait()
    again = sleeping("c")
    assert not again.is_over()
    again.kill()


def test_more_devices_than_there_are_is_for_the_step_to_say(sleeping: Callable[..., local.Job]) -> None:
    job = sleeping("a", processes=4)
    assert seen(job) == "5,6,7"
    job.kill()


def test_the_drivers_list_is_asked_where_the_runner_is_shown_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nprintf 'GPU-1\\nGPU-2\\n'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    lend, cuda, folder = devices.lend, Resources(accelerator="cuda"), tmp_path / "devices"
    with lend(cuda, folder) as first, lend(cuda, folder) as second:
        assert (first.names, second.names) == (("GPU-1",), ("GPU-2",))
    tool.write_text("#!/bin/sh\nexit 9\n")
    with devices.lend(Resources(accelerator="cuda"), tmp_path / "devices") as none:
        assert none == devices.Lent()


def test_a_step_counts_devices_in_the_runners_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names in ``CUDA_VISIBLE_DEVICES`` may be numbers, and mean other devices by CUDA's own order."""
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    found = local._environment(request_of(tmp_path, "train", {}, {}), tmp_path)
    assert found["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


def test_compilers_reach_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CC", "CXX", "TORCHINDUCTOR_CACHE_DIR"):
        monkeypatch.setenv(name, f"/{name}")
    found = local._environment(request_of(tmp_path, "train", {}, {}), tmp_path)
    assert {name: found[name] for name in ("CC", "CXX", "TORCHINDUCTOR_CACHE_DIR")} == {
        name: f"/{name}" for name in ("CC", "CXX", "TORCHINDUCTOR_CACHE_DIR")
    }
