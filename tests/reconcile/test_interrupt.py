"""Ctrl-C, once and twice, and SIGTERM: what is at work ends, nothing is left behind, and the next apply goes on from there.

Signals go to the whole group of the runner, as a terminal sends them.
"""

import os
import re
import shutil
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from tests.conftest import MODEL, commit_all, git, run_forge
from tests.reconcile.test_apply import FORGE, snapshot_of, step_processes, training_under_way, wait_for

from forge.cli.place import place_of
from forge.errors import RefusedError
from forge.executors.workspace import workspace
from forge.plan.graph import build_graph
from forge.plan.saved import from_bytes
from forge.reconcile.approved import how_to_go_on
from forge.reconcile.at_work import _checkpoint
from forge.reconcile.place import look
from forge.repo.desired import read_desired
from forge.repo.repository import Repository
from forge.repo.tree import CommitTree

SIGNALS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
LONG_ENOUGH = "tokens: 160k"


def start(folder: Path, config_home: Path, *arguments: str) -> "subprocess.Popen[str]":
    """``forge`` as the leader of a process group of its own, as a shell starts it."""
    return subprocess.Popen(
        [FORGE, *(arguments or ("apply",))],
        cwd=folder,
        env={**os.environ, "FORGE_CONFIG_HOME": str(config_home)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A test run in the background ignores SIGINT, and so would what it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 (no threads here)
    )


def group_of(leader: int) -> list[int]:
    """The processes of a group that are alive."""
    found = subprocess.run(["ps", "-e", "-o", "pid=,pgid=,stat="], capture_output=True, text=True, check=True).stdout
    rows = (line.split() for line in found.splitlines())
    return [int(pid) for pid, group, state in rows if int(group) == leader and not state.startswith("Z")]


def leases(folder: Path) -> str:
    return git(folder, "for-each-ref", "refs/forge/leases")


@pytest.fixture
def training(copy_of_applied: Path) -> Path:
    """The example with a training that takes long enough to be interrupted."""
    (copy_of_applied / "models" / "model.yaml").write_text(MODEL.replace("tokens: 40k", LONG_ENOUGH))
    commit_all(copy_of_applied)
    return copy_of_applied


def nothing_is_left(folder: Path, runner: "subprocess.Popen[str]") -> None:
    assert step_processes(folder) == []
    assert group_of(runner.pid) == []
    assert leases(folder) == ""
    assert snapshot_of(folder).attempts("train/small") == []  # a stop that was asked for is no failure


def goes_on(folder: Path, config_home: Path) -> None:
    run_forge(folder, config_home, "apply")
    record = snapshot_of(folder).latest("train/small")
    assert record is not None
    assert record.attempt == 2
    assert int(record.metrics["resumed_from_step"]) > 0
    assert "7 in sync" in run_forge(folder, config_home, "plan").stdout


def test_a_plan_file_goes_on_until_a_part_of_it_is_recorded(training: Path, config_home: Path, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    run_forge(training, config_home, "plan", "--out", str(file))
    runner = start(training, config_home, "apply", str(file))
    wait_for(lambda: training_under_way(training))
    os.killpg(runner.pid, signal.SIGINT)
    _, said = runner.communicate(timeout=120)
    assert runner.returncode == 130, said
    assert f"stopped as asked; `forge apply {file}` goes on where it stopped" in said
    with Repository(training) as repository:
        place = place_of(repository, read_desired(CommitTree(repository, repository.resolve_commit("HEAD"))))
        saved = from_bytes(file.read_bytes(), "plan")
        assert how_to_go_on(place, saved, None) == "`forge apply` goes on where it stopped"
        done = replace(saved, ledger="sha256:another")
        assert "no longer the plan for what is left: make one of that (`forge plan --out FILE`)" in how_to_go_on(
            place, done, "p"
        )


def test_once_lets_the_training_write_its_checkpoint(training: Path, config_home: Path) -> None:
    runner = start(training, config_home)
    wait_for(lambda: training_under_way(training))
    os.killpg(runner.pid, signal.SIGINT)
    _, said = runner.communicate(timeout=60)
    assert runner.returncode == 130, said
    assert "`forge apply` goes on where it stopped" in said
    assert "Traceback" not in said
    nothing_is_left(training, runner)
    (failure,) = (training / ".forge" / "work").glob("*/000001/failure.json")
    assert '"stopped"' in failure.read_text()  # the step had the time to say so
    goes_on(training, config_home)


@SIGNALS
def test_twice_ends_a_step_that_does_not_answer(training: Path, config_home: Path, number: signal.Signals) -> None:
    runner = start(training, config_home)
    wait_for(lambda: training_under_way(training))
    (step,) = step_processes(training)
    step.suspend()  # it hears nothing: only being killed ends it
    os.killpg(runner.pid, number)
    with pytest.raises(subprocess.TimeoutExpired):
        runner.communicate(timeout=12)
    assert leases(training) != ""  # it is awaited, however long that takes, and nobody else may have it
    os.killpg(runner.pid, number)
    _, said = runner.communicate(timeout=20)
    assert runner.returncode == 130, said
    assert "waiting for train/small to end, with a checkpoint; ask again (Ctrl-C) to end it at once" in said
    assert "Traceback" not in said
    nothing_is_left(training, runner)
    assert not list((training / ".forge" / "work").glob("*/000001/failure.json"))
    if number is signal.SIGINT:
        goes_on(training, config_home)


def test_twice_before_the_first_was_noticed_counts_as_twice(training: Path, config_home: Path) -> None:
    runner = start(training, config_home)
    wait_for(lambda: training_under_way(training))
    (step,) = step_processes(training)
    step.suspend()
    runner.send_signal(signal.SIGSTOP)
    for number in (signal.SIGINT, signal.SIGTERM):  # one of each: two of one kind would wait as one
        runner.send_signal(number)
    runner.send_signal(signal.SIGCONT)
    _, said = runner.communicate(timeout=20)
    assert runner.returncode == 130, said
    nothing_is_left(training, runner)


def test_a_controller_ends_the_same_way(training: Path, config_home: Path) -> None:
    runner = start(training, config_home, "reconcile", "--watch", "--interval", "1")
    wait_for(lambda: training_under_way(training))
    os.killpg(runner.pid, signal.SIGINT)
    _, said = runner.communicate(timeout=60)
    assert runner.returncode == 130, said
    assert "Traceback" not in said
    nothing_is_left(training, runner)


def takes_sigterm(pid: int) -> bool:
    """Whether a process has a handler for SIGTERM, which is the first thing that the command line sets up."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught, 16) & 1 << signal.SIGTERM - 1)


@SIGNALS
def test_while_it_is_still_planning_it_ends_without_a_word_of_python(
    training: Path, config_home: Path, number: signal.Signals
) -> None:
    lock = training / ".git" / "forge" / "apply.lock"
    assert lock.exists()
    runner = start(training, config_home)
    wait_for(lambda: group_of(runner.pid))
    wait_for(lambda: takes_sigterm(runner.pid))  # before that it is Python that starts, not Forge
    os.killpg(runner.pid, number)
    _, said = runner.communicate(timeout=60)
    assert runner.returncode != 0
    assert "Traceback" not in said
    nothing_is_left(training, runner)


def test_a_longer_run_goes_on_from_what_was_stopped_and_never_begins_anew_without_a_word(
    training: Path, config_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORGE_CONFIG_HOME", str(config_home))
    runner = start(training, config_home)
    wait_for(lambda: training_under_way(training))
    os.killpg(runner.pid, signal.SIGINT)
    runner.communicate(timeout=60)
    (training / "models" / "model.yaml").write_text(MODEL.replace("tokens: 40k", "tokens: 180k"))
    commit_all(training)
    said = run_forge(training, config_home, "plan").stdout
    assert re.search(r"> extend +train/small .*continues: step \d+ of the run that stopped under the key sha256:", said)
    with Repository(training) as repository:
        place = place_of(repository, read_desired(CommitTree(repository, repository.resolve_commit("HEAD"))))
        action = next(action for action in look(place).plan.actions if action.id == "train/small")
        for scratch in (training / ".forge" / "work").glob("*/scratch"):
            shutil.rmtree(scratch)
        step = build_graph(place.desired)["train/small"]
        with pytest.raises(RefusedError, match="what it was to go on from has gone since it was planned"):
            _checkpoint(place, action, step, workspace(place.work, action.key or ""))
    said = run_forge(training, config_home, "plan").stdout
    assert re.search(r"> extend +train/small .*continues: sha256:", said)  # what the recorded run kept, in the store
    with Repository(training) as repository:
        place = place_of(repository, read_desired(CommitTree(repository, repository.resolve_commit("HEAD"))))
        kept = snapshot_of(training).latest("train/small")
        assert kept is not None
        place.store.remove(kept.byproducts["checkpoint"])
    said = run_forge(training, config_home, "plan").stdout
    assert re.search(r"\+ run +train/small .*has left no checkpoint of its first \d+ steps on this machine", said)
