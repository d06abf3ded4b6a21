"""Several runners: one ledger behind a remote, leases that outlive their holders, and nothing done twice."""

import datetime
import hashlib
import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from tests.admission.test_withdrawals import withdraw
from tests.conftest import DEPLOYMENT, MODEL, SETTINGS, commit_all, git, run_forge
from tests.reconcile.test_apply import FORGE, snapshot_of, step_processes, training_under_way, wait_for

from forge.cli.place import place_of
from forge.contract.record import Release, Retirement
from forge.ledger.lease import Holder
from forge.ledger.leases import Leases
from forge.ledger.ledger import Draft, Ledger
from forge.plan.graph import build_graph
from forge.plan.step import key_of
from forge.reconcile.apply import apply
from forge.reconcile.claim import ask_to_stop
from forge.reconcile.place import gives_way, look
from forge.reconcile.stop import Stop
from forge.repo.desired import read_desired
from forge.repo.repository import Repository
from forge.repo.tree import CommitTree
from forge.ui.progress import display

REF = "refs/forge/ledger"
SHORT = "[leases]\ntime_to_live_seconds = 3.0\n"


def changed(folder: Path, settings: str) -> None:
    (folder / "forge.toml").write_text(SETTINGS + settings)
    (folder / "models" / "deployment.yaml").write_text(DEPLOYMENT.replace("max: 7.0", "max: 6.5"))
    commit_all(folder)


def key_of_the_gate(folder: Path) -> str:
    with Repository(folder) as repository:
        desired = read_desired(CommitTree(repository, repository.resolve_commit("HEAD")))
        snapshot = Ledger(repository, REF).snapshot()
        report = snapshot.latest("evaluate/small.small")
        assert report is not None
        return key_of(build_graph(desired)["gate/small-local"], {"report-0": report.products["report"]})


def take_as_another_machine(folder: Path, key: str, remote: str | None = None) -> None:
    """A lease as a runner elsewhere would hold it, who is never heard of again."""
    with Repository(folder) as repository:
        holder = Holder(id="another-boot/another-namespace/1/1.00", host="elsewhere", pid=1)
        Leases(Ledger(repository, REF, remote), holder).take(key, "gate/small-local", "c" * 40, {})


def clone_of(bare: Path, first: Path) -> Path:
    """Another runner's clone, which shares the store with the first one's."""
    second = bare.parent / "second"
    git(bare.parent, "clone", "--quiet", "--branch", "main", str(bare), second.name)
    git(second, "config", "user.name", "Tester")
    git(second, "config", "user.email", "tester@forge.invalid")
    (second / ".forge").mkdir()
    (second / ".forge" / "store").symlink_to(first / ".forge" / "store")
    return second


def test_a_dead_holders_step_is_taken_over_after_its_time_to_live(copy_of_applied: Path, config_home: Path) -> None:
    changed(copy_of_applied, SHORT)
    key = key_of_the_gate(copy_of_applied)
    take_as_another_machine(copy_of_applied, key)
    plan = run_forge(copy_of_applied, config_home, "plan").stdout
    assert "in flight: process 1 on elsewhere" in plan
    done = run_forge(copy_of_applied, config_home, "apply")
    assert "gate/small-local: done" in done.stderr
    assert git(copy_of_applied, "for-each-ref", "refs/forge/leases") == ""
    record = snapshot_of(copy_of_applied).record(key)
    assert record is not None


def test_two_clones_share_one_ledger_through_a_remote(copy_of_applied: Path, config_home: Path, tmp_path: Path) -> None:
    """The second clone finds done what the first did, without a word between them but the remote's refs."""
    bare = tmp_path / "remote.git"
    git(tmp_path, "init", "--quiet", "--bare", str(bare))
    git(copy_of_applied, "remote", "add", "origin", str(bare))
    changed(copy_of_applied, SHORT.replace("[leases]", '[ledger]\nremote = "origin"\n[leases]'))
    git(copy_of_applied, "push", "--quiet", "origin", "main", "refs/forge/ledger")
    second = clone_of(bare, copy_of_applied)
    run_forge(copy_of_applied, config_home, "apply")
    before = hashlib.sha256(git(bare, "rev-parse", REF).encode()).hexdigest()
    assert "7 in sync" in run_forge(second, config_home, "apply").stdout
    assert hashlib.sha256(git(bare, "rev-parse", REF).encode()).hexdigest() == before
    assert "the chain holds" in run_forge(second, config_home, "verify", "release/local").stdout
    (second / "models" / "deployment.yaml").write_text(DEPLOYMENT.replace("max: 7.0", "max: 6.0"))
    commit_all(second)
    git(second, "push", "--quiet", "origin", "main")
    run_forge(second, config_home, "apply")
    git(copy_of_applied, "pull", "--quiet", "origin", "main")
    assert "7 in sync" in run_forge(copy_of_applied, config_home, "plan").stdout
    assert git(bare, "for-each-ref", "refs/forge/leases") == ""


def test_a_verdict_is_about_the_ledger_as_its_remote_has_it(copy_of_applied: Path, config_home: Path, tmp_path: Path) -> None:
    """Whoever verifies a clone of last week would be told that what was withdrawn since may serve."""
    bare = tmp_path / "remote.git"
    git(tmp_path, "init", "--quiet", "--bare", str(bare))
    git(copy_of_applied, "remote", "add", "origin", str(bare))
    changed(copy_of_applied, '[ledger]\nremote = "origin"\n')
    git(copy_of_applied, "push", "--quiet", "origin", "main", REF)
    run_forge(copy_of_applied, config_home, "apply")
    second = clone_of(bare, copy_of_applied)
    assert "the chain holds" in run_forge(second, config_home, "verify", "release/local").stdout
    entries = snapshot_of(second).head[0]
    withdraw(copy_of_applied, "Model/small")
    run_forge(copy_of_applied, config_home, "apply", code=1)

    offline = run_forge(second, config_home, "verify", "release/local", "--offline")
    assert "the chain holds" in offline.stdout
    assert f"the ledger is not fetched: it is judged up to entry {entries}, as this clone has it" in offline.stderr
    for command in (("verify", "release/local"), ("report", "release/local", "--out", str(tmp_path / "report"))):
        said = run_forge(second, config_home, *command, code=4)
        assert "Model/small is withdrawn" in said.stdout + said.stderr
    git(second, "remote", "set-url", "origin", str(tmp_path / "nowhere"))
    away = run_forge(second, config_home, "verify", "release/local", code=None)
    assert away.returncode not in (0, 2)
    assert "`--offline` judges the ledger as this clone has it" in away.stderr


def start_training_with_a_remote(
    folder: Path, config_home: Path, seconds: float, *command: str
) -> tuple[subprocess.Popen[bytes], Path]:
    """Apply a longer training whose leases lie on a bare remote, until it is under way; returns the process and its stderr."""
    bare = folder.parent / "remote.git"
    git(folder.parent, "init", "--quiet", "--bare", str(bare))
    git(folder, "remote", "add", "origin", str(bare))
    leases = f'[ledger]\nremote = "origin"\n[leases]\ntime_to_live_seconds = {seconds}\n'
    (folder / "forge.toml").write_text(SETTINGS + leases)
    (folder / "models" / "model.yaml").write_text(MODEL.replace("tokens: 40k", "tokens: 1M"))
    commit_all(folder)
    git(folder, "push", "--quiet", "origin", "main", "refs/forge/ledger")
    log = folder.parent / "stderr"
    environment = {**os.environ, "FORGE_CONFIG_HOME": str(config_home)}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [FORGE, *(command or ("apply",))], cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=output
        )
    wait_for(lambda: training_under_way(folder))
    return process, log


def test_a_training_outlives_a_remote_that_is_away_for_a_moment(copy_of_applied: Path, config_home: Path) -> None:
    process, log = start_training_with_a_remote(copy_of_applied, config_home, 12.0)
    bare = git(copy_of_applied, "remote", "get-url", "origin")
    git(copy_of_applied, "remote", "set-url", "origin", str(copy_of_applied / "nowhere"))
    wait_for(lambda: "the ledger is out of reach" in log.read_text())
    git(copy_of_applied, "remote", "set-url", "origin", bare)
    assert process.wait(120) == 0, log.read_text()
    assert log.read_text().count("the ledger is out of reach") == 1
    assert "train/small: done" in log.read_text()
    assert git(Path(bare), "for-each-ref", "refs/forge/leases") == ""


def test_a_controllers_training_outlives_it_too(copy_of_applied: Path, config_home: Path) -> None:
    """A controller asks the remote for more than its leases, every other second."""
    command = ("reconcile", "--watch", "--interval", "1")
    process, log = start_training_with_a_remote(copy_of_applied, config_home, 12.0, *command)
    try:
        bare = git(copy_of_applied, "remote", "get-url", "origin")
        git(copy_of_applied, "remote", "set-url", "origin", str(copy_of_applied / "nowhere"))
        wait_for(lambda: "the ledger is out of reach" in log.read_text())
        git(copy_of_applied, "remote", "set-url", "origin", bare)
        wait_for(lambda: "train/small: done" in log.read_text(), 240)
        assert "train/small: found at work" not in log.read_text()
        assert log.read_text().count("train/small: started") == 1
    finally:
        process.terminate()
        process.wait(90)


def test_a_training_ends_when_its_lease_may_have_run_out(copy_of_applied: Path, config_home: Path) -> None:
    process, log = start_training_with_a_remote(copy_of_applied, config_home, 4.0)
    git(copy_of_applied, "remote", "set-url", "origin", str(copy_of_applied / "nowhere"))
    assert process.wait(60) == 1
    assert log.read_text().count("See whether `git ls-remote origin` works") == 2  # a warning, and the error
    assert step_processes(copy_of_applied) == []
    assert "train/small: done" not in log.read_text()


def test_a_newer_commit_that_another_runner_applies_stops_the_run_it_replaces(copy_of_applied: Path, config_home: Path) -> None:
    process, log = start_training_with_a_remote(copy_of_applied, config_home, 6.0)
    bare = Path(git(copy_of_applied, "remote", "get-url", "origin"))
    second = clone_of(bare, copy_of_applied)
    (second / "models" / "model.yaml").write_text(MODEL.replace("seed: 5", "seed: 6"))
    newer = commit_all(second)
    git(second, "fetch", "--quiet", "origin", "refs/forge/leases/*:refs/forge/remotes/origin/leases/*")
    assert "supersedes a run in flight" in run_forge(second, config_home, "plan").stdout
    done = run_forge(second, config_home, "apply")
    assert "train/small, held by process" in done.stderr
    assert "is asked to stop: it works at what an earlier commit asked for" in done.stderr
    assert process.wait(30) == 4, log.read_text()
    said = log.read_text()
    assert f"train/small: commit {newer[:12]}, which another runner applies, wants another run" in said
    assert "train/small: done" not in said
    assert training_under_way(copy_of_applied)  # its checkpoint is kept
    assert git(bare, "for-each-ref", "refs/forge/leases") == ""
    record = snapshot_of(second).latest("train/small")
    assert record is not None
    assert record.commit == newer


def test_a_process_that_outlived_its_runner_stops_for_a_newer_commit(copy_of_applied: Path, config_home: Path) -> None:
    process, _ = start_training_with_a_remote(copy_of_applied, config_home, 6.0)
    process.kill()
    process.wait()
    (left_behind,) = step_processes(copy_of_applied)
    (copy_of_applied / "models" / "model.yaml").write_text(MODEL.replace("seed: 5", "seed: 6"))
    commit_all(copy_of_applied)
    done = run_forge(copy_of_applied, config_home, "apply")
    assert "is asked to stop" in done.stderr
    assert not left_behind.is_running()
    assert git(Path(git(copy_of_applied, "remote", "get-url", "origin")), "for-each-ref", "refs/forge/leases") == ""


def test_a_run_for_a_commit_that_this_one_does_not_descend_from_is_awaited(copy_of_applied: Path, config_home: Path) -> None:
    """Whoever applies an older commit, or another branch, does not stop what he knows nothing of."""
    changed(copy_of_applied, SHORT)
    model = copy_of_applied / "models" / "model.yaml"
    model.write_text(MODEL.replace("seed: 5", "seed: 6"))
    commit_all(copy_of_applied)
    with Repository(copy_of_applied) as repository:
        place = place_of(repository, read_desired(CommitTree(repository, repository.resolve_commit("HEAD"))))
        action = next(action for action in look(place).plan.changes if action.id == "train/small")
        holder = Holder(id="another-boot/another-namespace/1/1.00", host="elsewhere", pid=1)
        lease = Leases(place.ledger, holder).take(action.key or "", action.id, git(copy_of_applied, "rev-parse", "HEAD"), {})
        model.write_text(MODEL.replace("seed: 5", "seed: 7"))
        commit_all(copy_of_applied)
        newer = place_of(repository, read_desired(CommitTree(repository, repository.resolve_commit("HEAD"))))
        assert gives_way(newer, lease)
        git(copy_of_applied, "checkout", "--quiet", "--detach", "HEAD~2")
        model.write_text(MODEL.replace("seed: 5", "seed: 8"))
        commit_all(copy_of_applied)
        other = place_of(repository, read_desired(CommitTree(repository, repository.resolve_commit("HEAD"))))
        assert not ask_to_stop(other, lease)
        assert Leases(place.ledger, holder).current()[lease.key] == lease
        assert ask_to_stop(newer, lease)
        assert Leases(place.ledger, holder).current()[lease.key].superseded_by == newer.desired.commit


Clock = Callable[[], datetime.datetime]


def ahead(**time: float) -> Clock:
    """A clock that is so far ahead; behind, where it is negative."""
    return lambda: datetime.datetime.now(datetime.UTC) + datetime.timedelta(**time)


def apply_by(folder: Path, clock: Clock) -> Release | Retirement:
    """Apply the newest commit as a runner whose clock shows another time; returns the environment's last move."""
    with Repository(folder) as repository:
        desired = read_desired(CommitTree(repository, repository.resolve_commit("HEAD")))
        apply(replace(place_of(repository, desired), now=clock), display(), Stop())
    move = snapshot_of(folder).last_move("local")
    assert move is not None
    return move


def test_a_runner_whose_clock_is_behind_releases_and_retires_after_one_that_is_not(
    copy_of_applied: Path, config_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORGE_CONFIG_HOME", str(config_home))
    deployment = copy_of_applied / "models" / "deployment.yaml"
    moves = []
    for number, hours in enumerate([0, -1, -1]):
        deployment.write_text(DEPLOYMENT + f"  engine: {{max_num_seqs: {number + 4}}}\n")
        commit_all(copy_of_applied)
        move = apply_by(copy_of_applied, ahead(hours=hours))
        assert isinstance(move, Release)
        assert "the chain holds" in run_forge(copy_of_applied, config_home, "verify", "release/local").stdout
        moves.append(move)
    assert len({move.release for move in moves}) == 3
    deployment.unlink()
    commit_all(copy_of_applied)
    retirement = apply_by(copy_of_applied, ahead(hours=-1))
    assert isinstance(retirement, Retirement)
    deployment.write_text(DEPLOYMENT)
    commit_all(copy_of_applied)
    last = apply_by(copy_of_applied, ahead(hours=-1))
    assert "the chain holds" in run_forge(copy_of_applied, config_home, "verify", "release/local").stdout
    times = [datetime.datetime.fromisoformat(move.moved) for move in (*moves, retirement, last)]
    assert [later - earlier for earlier, later in pairwise(times)] == [datetime.timedelta(milliseconds=1)] * 4


def test_a_move_that_nobody_signed_and_whose_time_is_none_keeps_nothing_up(
    copy_of_applied: Path, config_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORGE_CONFIG_HOME", str(config_home))
    with Repository(copy_of_applied) as repository:
        ledger = Ledger(repository, REF)
        move = ledger.snapshot().release("local")
        assert move is not None
        ledger.append([Draft(move.model_copy(update={"moved": "later", "attestations": {}}))])
    (copy_of_applied / "models" / "deployment.yaml").write_text(DEPLOYMENT + "  engine: {max_num_seqs: 4}\n")
    commit_all(copy_of_applied)
    apply_by(copy_of_applied, ahead())
    assert snapshot_of(copy_of_applied).release("local") not in (None, move)
