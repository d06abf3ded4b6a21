"""SIGKILL at every write that applying a commit makes: the next apply ends where an undisturbed one ends, nothing twice.

The points are found, not listed: an undisturbed run logs each one that it reaches, and every occurrence is then killed at.
"""

import os
import shutil
import signal
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from tests.conftest import DEPLOYMENT, POLICY, commit_all, git
from tests.faults import test_gc_faults, test_ledger_kills
from tests.reconcile.test_apply import FORGE, snapshot_of, step_processes
from tests.tlog import test_log

from forge.contract.record import Record
from forge.faults import POINTS

BEFORE_A_RECORD = (
    "store.write.before",
    "store.write.after",
    "lease.token.before",
    "lease.token.after",
    "lease.objects.before",
    "lease.objects.after",
    "lease.move.before",
    "lease.move.after",
    "executor.open.before",
    "executor.open.after",
    "executor.launch.before",
    "executor.launch.after",
    "ledger.objects.before",
    "ledger.objects.after",
    "ledger.move.before",
)
AFTER_A_RECORD = (
    "ledger.move.after",
    "index.write.before",
    "index.rows.after",
    "index.write.after",
    "ledger.seen.before",
    "ledger.seen.after",
    "executor.clear.before",
    "executor.clear.after",
    "executor.closed.after",
)
IN_TURN = BEFORE_A_RECORD + AFTER_A_RECORD
REACHED = frozenset(IN_TURN)
"""What an apply of this machine alone reaches: no remote, no damaged index, and too few packs to join."""


def apply(folder: Path, config_home: Path, log: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [FORGE, "apply"],
        cwd=folder,
        env={**os.environ, "FORGE_CONFIG_HOME": str(config_home), "FORGE_FAULT_LOG": str(log), **environment},
        capture_output=True,
        check=False,
        timeout=300,
    )


def launches(log: Path) -> int:
    """How many processes of steps were launched. A step outlives its runner's death, so one is enough for each."""
    return log.read_text().split().count("executor.launch.after")


def changed(applied: Path, folder: Path) -> Path:
    """A copy in which a gate and a release are to be made again: two steps, and a policy to store."""
    shutil.copytree(applied, folder, symlinks=True)
    (folder / "models" / "deployment.yaml").write_text(DEPLOYMENT.replace("max: 7.0", "max: 6.5"))
    (folder / "policies" / "small.yaml").write_text(POLICY.replace("max_tokens: 32", "max_tokens: 33"))
    commit_all(folder)
    return folder


def records_of(folder: Path) -> list[Record]:
    snapshot = snapshot_of(folder)
    entries = [snapshot.entry(number) for number in range(1, snapshot.head[0] + 1)]
    return [entry.body for entry in entries if entry is not None and isinstance(entry.body, Record)]


def state_of(folder: Path) -> dict[str, object]:
    """What must not depend on where a run was killed; each key was completed once."""
    snapshot = snapshot_of(folder)
    release = snapshot.release("local")
    records = records_of(folder)
    completions = Counter(record.key for record in records)
    assert set(completions.values()) == {1}, completions
    assert release is not None
    return {
        "products": {(record.step_id, record.key): dict(record.products) for record in records},
        "release": release.release,
        "moves": [move.release for move in snapshot.releases("local")],
        "leases": git(folder, "for-each-ref", "refs/forge/leases"),
    }


@pytest.mark.soak
def test_killed_at_every_single_write_of_an_apply(applied: Path, config_home: Path, tmp_path: Path) -> None:
    _kill_and_resume(applied, config_home, tmp_path, every=True)


def test_killed_at_every_kind_of_write_the_next_apply_ends_where_an_undisturbed_one_ends(
    applied: Path, config_home: Path, tmp_path: Path
) -> None:
    _kill_and_resume(applied, config_home, tmp_path, every=False)


def _kill_and_resume(applied: Path, config_home: Path, tmp_path: Path, *, every: bool) -> None:
    log = tmp_path / "reached"
    whole = changed(applied, tmp_path / "whole")
    assert apply(whole, config_home, log).returncode == 0
    expected = state_of(whole)
    counts = Counter(log.read_text().split())
    assert set(counts) == REACHED
    for point, count in sorted(counts.items()):
        # the short form kills at the last time that a point is reached; `make soak` at every one
        for number in range(1, count + 1) if every else (count,):
            folder, log = tmp_path / "killed", tmp_path / f"reached-{point}-{number}"
            _killed(applied, folder, config_home, log, point, number)
            again = apply(folder, config_home, log)
            assert again.returncode == 0, (point, number, again.stderr)
            assert state_of(folder) == expected, (point, number)
            assert apply(folder, config_home, log).returncode == 0
            assert launches(log) == counts["executor.launch.after"], (point, number)
            assert not step_processes(folder)
            shutil.rmtree(folder)


def _killed(applied: Path, folder: Path, config_home: Path, log: Path, point: str, number: int) -> None:
    """A copy whose apply was killed the so-manieth time that it reached a point.

    How often a lease is renewed depends on the machine's load: where a run got by with fewer, it is killed one time earlier.
    """
    for earlier in range(number, 0, -1):
        log.unlink(missing_ok=True)
        killed = apply(changed(applied, folder), config_home, log, FORGE_FAULT=f"{point}:{earlier}")
        if killed.returncode == -signal.SIGKILL:
            return
        assert killed.returncode == 0, (point, earlier, killed.stderr)
        shutil.rmtree(folder)
    raise AssertionError(f"{point} was never reached")


def test_every_step_from_the_data_to_the_release_survives_a_kill_at_every_kind_of_write(
    repository: Path, applied: Path, config_home: Path, tmp_path: Path
) -> None:
    """One run of everything, killed once at each point in turn: first at those that come before a step is recorded."""
    log = tmp_path / "reached"
    for point in IN_TURN:
        killed = apply(repository, config_home, log, FORGE_FAULT=point)
        assert killed.returncode == -signal.SIGKILL, (point, killed.stderr)
    last = apply(repository, config_home, log)
    assert last.returncode == 0, last.stderr
    assert state_of(repository) == state_of(applied)
    assert launches(log) == len(records_of(repository)), "each step was launched once"
    assert not step_processes(repository)


def test_every_point_there_is_is_reached_by_the_case_that_kills_at_it() -> None:
    """Each of these sets is what its own case is seen to reach; together they are all that is listed."""
    assert {*IN_TURN} == REACHED
    assert {*REACHED, *test_ledger_kills.OURS, *test_gc_faults.DELETING, *test_log.POINTS_OF_LOGS} == set(POINTS)
