"""The audit log holds whole lines or says that it cannot."""

import datetime
import json
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from forge.serve.audit import AuditError, AuditLog, AuditRecord


def record(request_id: str) -> AuditRecord:
    return AuditRecord(
        time="2030-01-01T00:00:00.000+00:00", request_id=request_id, role=None, key_id=None, route="other", model="m",
        weights_digest="w", policy_digest="p", release_digest="r", decision="denied", policies=(), reason="x", status=404,
        prompt_tokens=None, completion_tokens=None, stream=False, duration_seconds=0.1,
    )  # fmt: skip


def day(number: int) -> Callable[[], datetime.datetime]:
    return lambda: datetime.datetime(2030, 1, number, tzinfo=datetime.UTC)


def ids(path: Path) -> list[str]:
    return [json.loads(line)["request_id"] for line in path.read_text().splitlines()]


def test_a_file_per_day_and_a_new_one_when_it_was_moved_away(tmp_path: Path) -> None:
    number = [1]
    log = AuditLog(tmp_path / "audit", lambda: datetime.datetime(2030, 1, number[0], tzinfo=datetime.UTC))
    log.write(record("a"))
    number[0] = 2
    log.write(record("b"))
    (tmp_path / "audit/requests-2030-01-02.jsonl").rename(tmp_path / "old")
    log.write(record("c"))
    found = {file.name: ids(file) for file in (tmp_path / "audit").iterdir()}
    assert found == {"requests-2030-01-01.jsonl": ["a"], "requests-2030-01-02.jsonl": ["c"]}
    assert ids(tmp_path / "old") == ["b"]
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / "audit").iterdir()} == {0o600}


def test_a_line_that_was_cut_by_a_kill_does_not_swallow_the_next(tmp_path: Path) -> None:
    file = tmp_path / "requests-2030-01-01.jsonl"
    file.write_text('{"request_id": "cu')
    AuditLog(tmp_path, day(1)).write(record("next"))
    assert [json.loads(line)["request_id"] for line in file.read_text().splitlines()[1:]] == ["next"]


def test_a_write_that_is_cut_short_is_taken_back(tmp_path: Path) -> None:
    """A file size limit cuts a write as a full disk does."""
    program = f"""
import datetime, resource, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_audit import day, record
from forge.serve.audit import AuditError, AuditLog
from pathlib import Path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
log = AuditLog(Path({str(tmp_path)!r}), day(1))
log.write(record("first"))
size = len(record("first").to_line())
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, resource.RLIM_INFINITY))
try:
    log.write(record("second"))
except AuditError:
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    log.write(record("third"))
"""
    assert hasattr(signal, "SIGXFSZ")
    assert hasattr(resource, "RLIMIT_FSIZE")
    subprocess.run([sys.executable, "-c", program], check=True)
    assert ids(tmp_path / "requests-2030-01-01.jsonl") == ["first", "third"]


def test_a_log_that_cannot_be_opened_or_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AuditError, match="cannot be opened"):
        AuditLog(tmp_path / "file", day(1)).check()
    (tmp_path / "requests-2030-01-01.jsonl").symlink_to("/dev/full")
    with pytest.raises(AuditError, match="No space left"):
        AuditLog(tmp_path, day(1)).write(record("a"))


def test_with_little_room_left_no_request_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forge.serve.audit.LEAST_FREE_BYTES", 2**60)
    with pytest.raises(AuditError, match="free"):
        AuditLog(tmp_path, day(1)).check()
