"""The traps of a ledger on Git refs: stale locks, fsync, gc. (Rewrites: test_remote; starvation: tests/faults.)"""

import json
import os
import subprocess
import threading
import time
from pathlib import Path

import pytest
from tests.conftest import git
from tests.ledger.conftest import REF, make_record

from forge.errors import LedgerError
from forge.ledger import ledger as ledger_module
from forge.ledger import refs
from forge.ledger.leases import Leases
from forge.ledger.ledger import Draft, Ledger
from forge.repo.repository import Repository


def stale(path: Path, seconds: float = 60.0) -> Path:
    """A lock file as a killed git leaves it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.utime(path, (time.time() - seconds,) * 2)
    return path


def test_a_stale_lock_of_the_ledger_is_removed(ledger: Ledger, folder: Path) -> None:
    ledger.append([Draft(make_record("a"))])
    lock = stale(folder / ".git" / "refs" / "forge" / "ledger.lock")
    ledger.append([Draft(make_record("b"))])
    assert not lock.exists()
    assert ledger.snapshot().head[0] == 2


def test_a_stale_lock_of_a_lease_or_of_the_counter_is_removed(ledger: Ledger, folder: Path) -> None:
    leases = Leases(ledger)
    lease = leases.take(make_record("a").key, "tokenize/a", "c" * 40)
    stale(folder / ".git" / f"{lease.ref}.lock")
    lease = leases.beat(lease)
    stale(folder / ".git" / "refs" / "forge" / "lease-token.lock")
    other = leases.take(make_record("b").key, "tokenize/b", "c" * 40)
    stale(folder / ".git" / f"{lease.ref}.lock")
    ledger.append([Draft(make_record("a"))], ended=[lease])
    assert list(leases.current()) == [other.key]


def test_a_young_lock_is_waited_for(ledger: Ledger, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refs, "STALE_LOCK_SECONDS", 1.0)
    ledger.append([Draft(make_record("a"))])
    lock = folder / ".git" / "refs" / "forge" / "ledger.lock"
    lock.touch()
    threading.Timer(0.3, lock.unlink).start()  # its git is alive, and lets go
    began = time.monotonic()
    ledger.append([Draft(make_record("b"))])
    assert time.monotonic() - began > 0.25
    lock.touch()  # its git is dead
    began = time.monotonic()
    ledger.append([Draft(make_record("c"))])
    assert time.monotonic() - began > 0.9


def test_a_clock_of_this_machine_that_is_an_hour_ahead_removes_no_young_lock(
    ledger: Ledger, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refs, "_LOCK_WAIT_SECONDS", 0.5)
    plain = time.time
    monkeypatch.setattr(time, "time", lambda: plain() + 3600)
    ledger.append([Draft(make_record("a"))])
    lock = folder / ".git" / "refs" / "forge" / "ledger.lock"
    lock.touch()
    with pytest.raises(LedgerError, match=r"left .*ledger\.lock behind: remove that file"):
        ledger.append([Draft(make_record("b"))])
    assert lock.exists()


def test_a_stale_packed_refs_lock_is_the_operators_to_remove(ledger: Ledger, folder: Path) -> None:
    ledger.append([Draft(make_record("a"))])
    lock = stale(folder / ".git" / "packed-refs.lock")
    with pytest.raises(
        LedgerError, match=r"If no git process runs, a killed one left .*packed-refs\.lock behind: remove that file"
    ):
        ledger.append([Draft(make_record("b"))])
    assert lock.exists()
    lock.unlink()
    ledger.append([Draft(make_record("b"))])
    assert ledger.snapshot().head[0] == 2


def test_objects_and_refs_are_flushed_to_the_disk(ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trace = tmp_path / "trace"
    monkeypatch.setitem(os.environ, "GIT_TRACE2_EVENT", str(trace))
    lease = Leases(ledger).take(make_record("a").key, "tokenize/a", "c" * 40)
    ledger.append([Draft(make_record("a"))], ended=[lease])
    flushed: dict[str, int] = {}
    names: dict[str, str] = {}
    for line in trace.read_text().splitlines():
        event = json.loads(line)
        if event["event"] == "cmd_name":
            names[event["sid"]] = event["name"]
        if event.get("category") == "fsync" and event.get("key") == "fsync/hardware-flush":
            command = names.get(event["sid"], "")
            flushed[command] = flushed.get(command, 0) + int(event["value"])
    assert flushed.get("hash-object", 0) >= 2
    assert flushed.get("fast-import", 0) >= 1
    assert flushed.get("update-ref", 0) >= 2


def test_a_gc_that_prunes_beside_an_append_loses_nothing_that_was_acknowledged(ledger: Ledger, folder: Path) -> None:
    ended = threading.Event()
    runs: list[int] = []

    def collect() -> None:
        while not ended.is_set():
            done = subprocess.run(["git", "gc", "--quiet", "--prune=now"], cwd=folder, capture_output=True, check=False)
            runs.append(done.returncode)

    leases = Leases(ledger)
    lease = leases.take(make_record("held").key, "tokenize/held", "c" * 40)
    collector = threading.Thread(target=collect)
    collector.start()
    try:
        for number in range(25):
            ledger.append([Draft(make_record(f"a{number}"), (b"attestation %d" % number,))])
    finally:
        ended.set()
        collector.join()
    assert runs.count(0) >= 2
    git(folder, "gc", "--quiet", "--prune=now")
    git(folder, "fsck", "--no-dangling", "--strict")
    with Repository(folder) as repository:
        snapshot = Ledger(repository, REF).snapshot()
        assert snapshot.head[0] == 25
        assert [snapshot.record(make_record(f"a{number}").key) for number in range(25)] == [
            make_record(f"a{number}") for number in range(25)
        ]
        assert Leases(Ledger(repository, REF)).current() == {lease.key: lease}
    leases.end(leases.beat(lease))


def test_small_packs_are_joined(ledger: Ledger, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "_PACKS", 5)
    for number in range(12):
        ledger.append([Draft(make_record(f"a{number}"), (b"attestation %d" % number,))])
    assert len(list((folder / ".git" / "objects" / "pack").glob("*.pack"))) < 8
    assert [ledger.snapshot().record(make_record(f"a{number}").key) for number in range(12)] == [
        make_record(f"a{number}") for number in range(12)
    ]
    git(folder, "fsck", "--no-dangling")


def test_a_ledger_lies_in_a_linked_work_tree_as_well(ledger: Ledger, folder: Path, tmp_path: Path) -> None:
    ledger.append([Draft(make_record("a"))])
    git(folder, "worktree", "add", "--quiet", str(tmp_path / "linked"))
    linked = Ledger(Repository(tmp_path / "linked"), REF)
    linked.append([Draft(make_record("b"))])
    assert ledger.snapshot().head[0] == 2
