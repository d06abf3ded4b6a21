"""Heartbeats: leases move whatever the reconciler is busy with, and what the thread learns reaches it."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import DEPLOYMENT, SETTINGS, commit_all, git
from tests.reconcile.test_apply import snapshot_of, wait_for

from forge.cli.place import place_of
from forge.contract.manifest import Manifest
from forge.errors import LedgerError, RepoError
from forge.ledger.lease import Holder, Lease
from forge.ledger.leases import Leases, Watch
from forge.ledger.ledger import Ledger
from forge.reconcile.apply import apply
from forge.reconcile.heartbeat import Heartbeats
from forge.reconcile.stop import Stop
from forge.repo.desired import read_desired
from forge.repo.repository import Repository
from forge.repo.tree import CommitTree
from forge.store.store import Store
from forge.ui.progress import display

LIFE = 2.0
KEY = "sha256:" + "a" * 64
COMMIT = "c" * 40


class SlowStore:
    """A store that takes three lives of a lease to keep what a step made, as one far away does."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.began: list[float] = []

    def put_folder(self, folder: Path) -> Manifest:
        self.began.append(time.monotonic())
        time.sleep(3 * LIFE)
        return self._store.put_folder(folder)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def test_nobody_finds_a_runner_dead_that_stores_for_longer_than_a_lease_lives(
    copy_of_applied: Path, config_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORGE_CONFIG_HOME", str(config_home))
    (copy_of_applied / "forge.toml").write_text(SETTINGS + f"[leases]\ntime_to_live_seconds = {LIFE}\n")
    (copy_of_applied / "models" / "deployment.yaml").write_text(DEPLOYMENT.replace("max: 7.0", "max: 6.5"))
    commit_all(copy_of_applied)
    over, seen, dead = threading.Event(), set[str](), []

    def watch() -> None:
        """Another runner, on another machine: it knows nothing but whether leases move."""
        with Repository(copy_of_applied) as repository:
            leases, patience = Leases(Ledger(repository, "refs/forge/ledger")), Watch(LIFE)
            while not over.wait(0.1):
                for lease in leases.current().values():
                    seen.add(lease.object_id)
                    if patience.is_dead(lease):
                        dead.append(str(lease))

    other = threading.Thread(target=watch)
    other.start()
    try:
        with Repository(copy_of_applied) as repository:
            desired = read_desired(CommitTree(repository, repository.resolve_commit("HEAD")))
            place = place_of(repository, desired)
            store = SlowStore(place.store)
            apply(replace(place, store=store), display(), Stop())  # type: ignore[arg-type]
    finally:
        over.set()
        other.join()
    assert len(store.began) == 2  # the verdict and the release
    assert dead == []
    assert len(seen) > 2 * 3 * 3  # two leases, each for three lives of four beats, less those that the other has not seen
    assert git(copy_of_applied, "for-each-ref", "refs/forge/leases") == ""
    assert snapshot_of(copy_of_applied).latest("gate/small-local") is not None


@pytest.fixture
def leases(tmp_path: Path) -> Leases:
    git(tmp_path, "init", "--quiet")
    return Leases(Ledger(Repository(tmp_path), "refs/forge/ledger"), Holder(id="1", host="here", pid=7))


def beating(leases: Leases, life: float = 0.4) -> Heartbeats:
    @contextmanager
    def own() -> Iterator[Leases]:
        yield leases

    return Heartbeats(own, life)


def now_at(leases: Leases, lease: Lease) -> Lease:
    return leases.current()[lease.key]


def test_a_lease_that_is_let_go_moves_no_more(leases: Leases) -> None:
    lease = leases.take(KEY, "train/a", COMMIT)
    with beating(leases) as hearts:
        hearts.hold(lease, time.monotonic())
        wait_for(lambda: now_at(leases, lease).beat > 2, 10)
        hearts.let_go(lease)
        stands = now_at(leases, lease).beat
        time.sleep(0.5)
        assert now_at(leases, lease).beat <= stands + 1  # one may have been on its way
    assert hearts.lost() == frozenset()


def test_a_lease_that_another_runner_took_is_told_and_one_of_the_same_key_that_is_held_again_is_not(leases: Leases) -> None:
    lease = leases.take(KEY, "train/a", COMMIT)
    with beating(leases) as hearts:
        hearts.hold(lease, time.monotonic())
        leases.end(lease)
        wait_for(lambda: hearts.lost() == {KEY}, 10)
        again = leases.take(KEY, "train/a", COMMIT)
        hearts.hold(again, time.monotonic())
        hearts.let_go(lease)  # the earlier one: it is not held any more
        wait_for(lambda: now_at(leases, again).beat > 1, 10)
        assert hearts.lost() == frozenset()


def test_a_request_to_stop_is_told_and_outlives_the_next_beats(leases: Leases) -> None:
    lease = leases.take(KEY, "train/a", COMMIT)
    with beating(leases) as hearts:
        hearts.hold(lease, time.monotonic())
        leases.ask_to_stop(lease, "d" * 40)
        wait_for(lambda: hearts.superseded() == {KEY: "d" * 40}, 10)
        asked = now_at(leases, lease)
        wait_for(lambda: now_at(leases, lease).beat > asked.beat + 2, 10)
        assert now_at(leases, lease).superseded_by == "d" * 40
        hearts.let_go(lease)
        assert hearts.superseded() == {}


def test_a_ledger_out_of_reach_is_told_and_tried_again_soon(leases: Leases, monkeypatch: pytest.MonkeyPatch) -> None:
    lease = leases.take(KEY, "train/a", COMMIT)
    away = threading.Event()
    away.set()
    beat = Leases.beat
    tries: list[float] = []

    def sometimes(self: Leases, lease: Lease) -> Lease:
        tries.append(time.monotonic())
        if away.is_set():
            raise LedgerError("it is away")
        return beat(self, lease)

    monkeypatch.setattr(Leases, "beat", sometimes)
    with beating(leases, 4.0) as hearts:
        hearts.hold(lease, time.monotonic())
        assert hearts.seconds_left() == pytest.approx(3.0, abs=0.2)
        wait_for(lambda: str(hearts.trouble()) == "it is away", 10)
        assert hearts.seconds_left() < 2.5
        wait_for(lambda: len(tries) > 3, 10)
        assert min(later - earlier for earlier, later in pairwise(tries)) < 0.5  # beats are a second apart
        away.clear()
        wait_for(lambda: hearts.trouble() is None, 10)
        assert hearts.seconds_left() > 2.5


def test_what_ends_the_thread_is_raised_where_it_is_asked() -> None:
    @contextmanager
    def broken() -> Iterator[Leases]:
        raise RepoError("no repository")
        yield

    lease = Lease(key=KEY, step_id="train/a", commit=COMMIT, holder=Holder(id="1", host="here", pid=7), token=1)
    with Heartbeats(broken, 0.4) as hearts:
        hearts.hold(lease, time.monotonic())
        with pytest.raises(RepoError, match="no repository"):
            wait_for(hearts.trouble, 10)
