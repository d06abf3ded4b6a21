"""A disk that fills up while a step works: the step says so, also where its last word is what no longer fits."""

import errno
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.steps.conftest import request_of, run_process

from forge.contract.messages import FAILURE_FILE, FailureCause, StepFailure, StepRequest
from forge.executors import local
from forge.executors.workspace import Workspace
from forge.steps import process
from forge.steps.interruption import StopRequest


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(disk)], check=False, capture_output=True)
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_step_that_fills_the_disk_says_where_and_what_to_do(small_disk: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    rows = [f'{{"id": "{number}", "text": "document {number} {"word " * 100}"}}\n' for number in range(4000)]
    (source / "00000.jsonl").write_text("".join(rows))
    folder = small_disk / "run"
    request = request_of(folder, "curate", {"sources": [{}], "split": {"validation_fraction": 0.3}}, {"source-0": source})
    done = run_process(folder, request)
    assert done.status == 1
    assert done.failure["cause"] == "resource"
    message = done.failure["message"]
    assert message.startswith(f"Test/subject: the curate step found no room left to write in {folder}/")
    assert "free some space on that disk and apply again" in message


def failing(folder: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> StepFailure:
    request = request_of(folder, "gate", {}, {})
    folder.mkdir(exist_ok=True)
    (folder / "request.json").write_text(request.model_dump_json())

    def run(request: StepRequest, folder: Path, stop: StopRequest) -> None:
        raise error

    monkeypatch.setattr(process, "_run", run)
    assert process.process_request([str(folder / "request.json")], StopRequest()) == 1
    return StepFailure.model_validate_json((folder / FAILURE_FILE).read_bytes())


def test_the_path_that_has_no_room_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = OSError(errno.EDQUOT, "Disk quota exceeded", "/data/file")
    fault = RuntimeError("cannot go on")
    fault.__cause__ = full
    failure = failing(tmp_path / "run", monkeypatch, fault)
    assert failure.cause is FailureCause.RESOURCE
    assert failure.message == (
        "Test/subject: the gate step found no room left to write in /data/file: free some space on that disk and apply again"
        " (cannot go on)"
    )


def test_the_last_word_is_written_where_room_was_kept_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[int] = []
    reserve = process._reserve

    def watched(path: Path) -> None:
        reserve(path)
        kept.append(path.with_suffix(".tmp").stat().st_ino)

    monkeypatch.setattr(process, "_reserve", watched)
    failing(tmp_path / "run", monkeypatch, ValueError("x"))
    assert (tmp_path / "run" / FAILURE_FILE).stat().st_ino == kept[0]
    assert not (tmp_path / "run" / "failure.tmp").exists()


@pytest.mark.parametrize(("free", "cause"), [(0, FailureCause.RESOURCE), (10**9, FailureCause.INTERNAL)])
def test_a_step_that_could_say_nothing_is_told_by_the_disk(
    free: int, cause: FailureCause, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = Workspace(tmp_path)
    space.attempt(1).mkdir()
    (space.attempt(1) / local.LOG_FILE).write_text("the end\n")
    monkeypatch.setattr(local.os, "statvfs", lambda _: SimpleNamespace(f_bavail=free, f_frsize=1))
    with pytest.raises(local.StepFailedError, match="the end") as caught:
        local._outcome(space, 1, 1)
    assert caught.value.cause is cause
    assert ("is full (0 bytes are free); free some space" in str(caught.value)) is (free == 0)
