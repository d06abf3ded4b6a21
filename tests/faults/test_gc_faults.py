"""SIGKILL at every deletion of ``forge gc``: the next one ends where an undisturbed one ends."""

import os
import shutil
import signal
import subprocess
from collections import Counter
from pathlib import Path

from tests.conftest import run_forge
from tests.reconcile.test_apply import FORGE
from tests.reconcile.test_gc import retrained

STORE = Path(".forge") / "store"
DELETING = {"store.remove.before", "store.remove.after", "store.sweep.before", "store.sweep.after"}


def gc(folder: Path, config_home: Path, **environment: str) -> int:
    return subprocess.run(
        [FORGE, "gc", "--yes"],
        cwd=folder,
        env={**os.environ, "FORGE_CONFIG_HOME": str(config_home), **environment},
        capture_output=True,
        check=False,
        timeout=120,
    ).returncode


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in (folder / STORE).rglob("*") if path.is_file()}


def test_killed_at_every_deletion_the_next_gc_ends_where_an_undisturbed_one_ends(
    copy_of_applied: Path, config_home: Path, tmp_path: Path
) -> None:
    retrained(copy_of_applied, config_home)
    whole, log = tmp_path / "whole", tmp_path / "reached"
    shutil.copytree(copy_of_applied, whole, symlinks=True)
    assert gc(whole, config_home, FORGE_FAULT_LOG=str(log)) == 0
    expected = files_of(whole)
    assert expected < files_of(copy_of_applied)
    counts = {point: count for point, count in Counter(log.read_text().split()).items() if point in DELETING}
    assert set(counts) == DELETING
    for point, count in sorted(counts.items()):
        for number in {1, count}:
            folder = tmp_path / "killed"
            shutil.copytree(copy_of_applied, folder, symlinks=True)
            assert gc(folder, config_home, FORGE_FAULT=f"{point}:{number}") == -signal.SIGKILL, (point, number)
            assert expected <= files_of(folder), (point, number)
            assert "the chain holds" in run_forge(folder, config_home, "verify", "release/local").stdout
            assert gc(folder, config_home) == 0
            assert files_of(folder) == expected, (point, number)
            shutil.rmtree(folder)
