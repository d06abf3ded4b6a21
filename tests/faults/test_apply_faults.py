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
from tests.reconcile.test_apply import FORGE, snapshot_of, step_processes

from forge.faults import POINTS


def apply(folder: Path, config_home: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [FORGE, "apply"],
        cwd=folder,
        env={**os.environ, "FORGE_CONFIG_HOME": str(config_home), **environment},
        capture_output=True,
        check=False,
        timeout=300,
    )


def changed(applied: Path, folder: Path) -> Path:
    """A copy in which a gate and a release are to be made again: two steps, and a policy to store."""
    shutil.copytree(applied, folder, symlinks=True)
    (folder / "models" / "deployment.yaml").write_text(DEPLOYMENT.replace("max: 7.0", "max: 6.5"))
    (folder / "policies" / "small.yaml").write_text(POLICY.replace("max_tokens: 32", "max_tokens: 33"))
    commit_all(folder)
    return folder


def state_of(folder: Path) -> dict[str, object]:
    """What must not depend on where a run was killed."""
    snapshot = snapshot_of(folder)
    release = snapshot.release("local")
    entries = [snapshot.entry(number) for number in range(1, snapshot.head[0] + 1)]
    assert release is not None
    return {
        "records": sorted((entry.body.step_id, entry.body.key) for entry in entries if entry and entry.body.kind == "record"),
        "products": {
            step: record.products for step in ("gate/small-local", "release/small-local") if (record := snapshot.latest(step))
        },
        "release": release.release,
        "leases": git(folder, "for-each-ref", "refs/forge/leases"),
    }


def test_killed_at_every_write_the_next_apply_ends_where_an_undisturbed_one_ends(
    applied: Path, config_home: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    log = tmp_path / "reached"
    whole = changed(applied, tmp_path / "whole")
    assert apply(whole, config_home, FORGE_FAULT_LOG=str(log)).returncode == 0
    expected = state_of(whole)
    counts = Counter(log.read_text().split())
    assert set(counts) <= set(POINTS)
    assert {"store.write.after", "executor.launch.after", "ledger.move.after", "lease.move.after"} <= set(counts)
    for point, count in sorted(counts.items()):
        # in the short form the first and the last time that a point is reached; `make soak` takes every one
        for number in range(1, count + 1) if request.config.getoption("-m") == "soak" else sorted({1, count}):
            folder = changed(applied, tmp_path / "killed")
            killed = apply(folder, config_home, FORGE_FAULT=f"{point}:{number}")
            assert killed.returncode in (-signal.SIGKILL, 0), (point, number, killed.stderr)
            again = apply(folder, config_home)
            assert again.returncode == 0, (point, number, again.stderr)
            assert state_of(folder) == expected, (point, number)
            assert apply(folder, config_home).returncode == 0
            assert not step_processes(folder)
            shutil.rmtree(folder)
