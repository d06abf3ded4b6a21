"""SIGKILL before and after every write of the ledger, its leases and its index: what is resumed ends as if nothing had been."""

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from tests.conftest import commit_all, git, new_repository
from tests.faults.scenario import final_state, in_a_process

from forge.faults import POINTS, reached

OURS = tuple(point for point in POINTS if point.partition(".")[0] in ("ledger", "remote", "lease", "index"))


def new_place(folder: Path, remote: str | None) -> Path:
    place = new_repository(folder / "clone")
    commit_all(place)
    if remote:
        git(folder, "init", "--quiet", "--bare", "shared.git")
        git(place, "remote", "add", remote, str(folder / "shared.git"))
    return place


def undisturbed(folder: Path, remote: str | None, names: str = "a") -> tuple[dict[str, object], Counter[str]]:
    place = new_place(folder, remote)
    assert in_a_process(place, remote, log=str(folder / "log"), names=names) == 0
    return final_state(place, remote, names), Counter((folder / "log").read_text().split())


def kill_and_resume(folder: Path, remote: str | None, fault: str, expected: dict[str, object], names: str = "a") -> None:
    place = new_place(folder, remote)
    assert in_a_process(place, remote, fault=fault, names=names) == -signal.SIGKILL, f"{fault} was not reached"
    assert in_a_process(place, remote, names=names) == 0, fault
    assert final_state(place, remote, names) == expected, fault
    assert git(place, "for-each-ref", "refs/forge/tmp") == "", fault


@pytest.fixture(scope="module")
def shared_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, object], Counter[str]]:
    return undisturbed(tmp_path_factory.mktemp("undisturbed"), "origin")


def test_every_point_is_reached(shared_run: tuple[dict[str, object], Counter[str]]) -> None:
    assert set(OURS) - set(shared_run[1]) == set()
    assert shared_run[0]["leases"] == {}


@pytest.mark.parametrize("point", OURS)
def test_killed_at_a_point_and_resumed_it_ends_as_the_undisturbed_run(
    tmp_path: Path, shared_run: tuple[dict[str, object], Counter[str]], point: str
) -> None:
    kill_and_resume(tmp_path, "origin", point, shared_run[0])


@pytest.mark.soak
@pytest.mark.parametrize("remote", ["origin", None], ids=["remote", "local"])
def test_killed_at_every_single_write(tmp_path: Path, remote: str | None) -> None:
    expected, seen = undisturbed(tmp_path / "undisturbed", remote, "ab")
    for point, times in seen.items():
        for number in range(1, times + 1):
            kill_and_resume(tmp_path / f"{point}-{number}", remote, f"{point}:{number}", expected, "ab")


def test_the_environment_arms_a_point_and_an_unlisted_one_is_an_error(tmp_path: Path) -> None:
    program = "from forge.faults import reached; reached('ledger.seen.before'); reached(input())"
    armed = {**os.environ, "FORGE_FAULT": "ledger.seen.before:2", "FORGE_FAULT_LOG": str(tmp_path / "log")}
    for said, status in (("ledger.seen.before", -signal.SIGKILL), ("ledger.seen.after", 0), ("no.such.point", 1)):
        done = subprocess.run([sys.executable, "-c", program], env=armed, input=said.encode(), capture_output=True, check=False)
        assert done.returncode == status, done.stderr
    assert "no.such.point" in done.stderr.decode()
    reached("no.such.point")  # unarmed, a point is nothing at all
