"""Leases: one winner, tokens that only grow, and nobody whose result counts after he was replaced."""

import multiprocessing
import os
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import git
from tests.ledger.conftest import REF, make_record

from forge.canonical import canonical_json
from forge.contract.kinds import StepKind
from forge.contract.messages import FailureCause
from forge.contract.record import Attempt
from forge.errors import LedgerError
from forge.ledger.lease import (
    TOKEN_REF,
    AlreadyRecordedError,
    Holder,
    LeaseHeldError,
    LeaseLostError,
    MalformedLeaseError,
    StaleLeaseError,
    lease_ref,
)
from forge.ledger.leases import Leases, Watch
from forge.ledger.ledger import Draft, Ledger
from forge.ledger.refs import write_blob
from forge.repo.repository import Repository

Clone = Callable[[str], Ledger]
KEY = make_record("a").key
STEP = "tokenize/a"
COMMIT = "c" * 40


@pytest.fixture(params=["local", "remote"])
def pair(request: pytest.FixtureRequest, ledger: Ledger, clone: Clone) -> tuple[Ledger, Ledger]:
    """Two runners: of one repository, or of two clones."""
    if request.param == "local":
        return ledger, Ledger(Repository(ledger.repository.root), REF)
    return clone("a"), clone("b")


def test_of_two_runners_one_holds_the_lease_and_the_other_learns_who(pair: tuple[Ledger, Ledger]) -> None:
    ours, theirs = Leases(pair[0], Holder(id="1", host="here", pid=7)), Leases(pair[1])
    lease = ours.take(KEY, STEP, COMMIT, {"pid": "99"})
    assert (lease.key, lease.step_id, lease.commit, lease.token, lease.beat, lease.handle) == (
        KEY,
        STEP,
        COMMIT,
        1,
        0,
        {"pid": "99"},
    )
    with pytest.raises(LeaseHeldError, match=r"tokenize/a, held by process 7 on here \(token 1, beat 0\)") as refusal:
        theirs.take(KEY, STEP, COMMIT)
    assert refusal.value.lease == lease
    assert ours.current() == theirs.current() == {KEY: lease}
    renewed = ours.beat(lease, {"job": "5"})
    assert (renewed.beat, renewed.token, renewed.handle) == (1, 1, {"job": "5"})
    assert theirs.current() == {KEY: renewed}
    ours.end(lease)  # an earlier beat of the same holding
    assert theirs.current() == {}
    ours.end(lease)
    assert theirs.take(KEY, STEP, COMMIT).token == 2


def test_a_take_over_needs_exactly_what_was_seen_and_fences_the_one_before(pair: tuple[Ledger, Ledger]) -> None:
    ours, theirs = Leases(pair[0]), Leases(pair[1])
    seen = ours.take(KEY, STEP, COMMIT, {"job": "5"})
    renewed = ours.beat(seen)
    with pytest.raises(LeaseHeldError) as refusal:
        theirs.take_over(seen)
    assert refusal.value.lease == renewed
    taken = theirs.take_over(renewed)
    assert (taken.token, taken.beat, taken.handle, taken.holder) == (2, 0, {"job": "5"}, theirs.holder)
    with pytest.raises(LeaseLostError):
        ours.beat(renewed)
    ours.end(renewed)  # leaves the successor's alone
    with pytest.raises(StaleLeaseError, match="its result is not recorded"):
        pair[0].append([Draft(make_record("b")), Draft(make_record("a"))], ended=[renewed])
    assert pair[0].fetch().head == (0, None)
    pair[1].append([Draft(make_record("a"))], ended=[taken])
    assert theirs.current() == {}
    (entry,) = pair[0].append([Draft(make_record("a"))], ended=[renewed])  # the very same record is there
    assert entry.sequence == 1
    with pytest.raises(LedgerError, match="recorded with other products"):
        pair[0].append([Draft(make_record("a", "other"))], ended=[renewed])
    with pytest.raises(AlreadyRecordedError):
        theirs.take_over(taken)


def test_a_stale_holders_failure_is_not_recorded_either(ledger: Ledger) -> None:
    leases = Leases(ledger)
    lease = leases.take(KEY, STEP, COMMIT)
    leases.end(lease)
    attempt = Attempt(key=KEY, step=StepKind.TOKENIZE, step_id=STEP, subject="Tokenizer/a", commit=COMMIT, attempt=1,
                      cause=FailureCause.INPUT, message="x", seconds=1)  # fmt: skip
    with pytest.raises(StaleLeaseError):
        ledger.append([Draft(attempt)], ended=[lease])
    again = leases.take(KEY, STEP, COMMIT)
    ledger.append([Draft(attempt)], ended=[again])
    assert ledger.snapshot().attempts(STEP) == [attempt]
    assert leases.current() == {}


def test_a_record_and_the_end_of_its_lease_are_one_transaction(pair: tuple[Ledger, Ledger]) -> None:
    leases = Leases(pair[0])
    held = [leases.take(make_record(name).key, f"tokenize/{name}", COMMIT) for name in "abc"]
    leases.beat(held[1])  # a heartbeat that the caller has not heard of yet
    pair[0].append([Draft(make_record(name)) for name in "ab"], ended=held[:2])
    assert list(Leases(pair[1]).current()) == [held[2].key]
    assert pair[1].fetch().head[0] == 2
    pair[0].append([], ended=[held[2]])
    assert Leases(pair[1]).current() == {}


def test_a_heartbeat_that_races_its_own_release_never_brings_the_lease_back(pair: tuple[Ledger, Ledger]) -> None:
    ledger = pair[0]
    leases = Leases(ledger)
    for round_number in range(4):
        record = make_record(f"r{round_number}")
        lease = leases.take(record.key, record.step_id, COMMIT)
        outcome: list[object] = []

        def heart(lease: object = lease, outcome: list[object] = outcome) -> None:
            with Repository(ledger.repository.root) as repository:
                own = Leases(Ledger(repository, REF, ledger.remote and "origin"), leases.holder)
                try:
                    while True:
                        lease = own.beat(lease)
                        time.sleep(0.15 if ledger.remote else 0.002)
                except LeaseLostError as error:
                    outcome.append(error)

        thread = threading.Thread(target=heart)
        thread.start()
        if round_number % 2:
            leases.end(lease)
        else:
            ledger.append([Draft(record)], ended=[lease])
        thread.join(60)
        assert len(outcome) == 1
        assert leases.current() == {}


def test_a_holder_learns_at_his_next_beat_that_he_is_asked_to_stop(pair: tuple[Ledger, Ledger]) -> None:
    ours, theirs = Leases(pair[0]), Leases(pair[1])
    lease = ours.take(KEY, STEP, COMMIT)
    assert b"superseded_by" not in lease.to_bytes()  # an engine that does not know the word reads every other lease
    moved = ours.beat(lease)
    theirs.ask_to_stop(lease, "d" * 40)  # he has seen an earlier beat
    asked = ours.beat(moved)
    assert (asked.superseded_by, asked.beat) == ("d" * 40, 2)
    assert ours.beat(asked).superseded_by == "d" * 40
    before = theirs.current()[KEY]
    theirs.ask_to_stop(before, "d" * 40)
    assert theirs.current()[KEY] == before
    ours.end(lease)
    theirs.ask_to_stop(before, "e" * 40)  # nobody is there to be asked
    assert theirs.current() == {}


def test_a_record_overrides_a_lease_that_was_left_behind(pair: tuple[Ledger, Ledger]) -> None:
    ours, theirs = Leases(pair[0]), Leases(pair[1])
    left = ours.take(KEY, STEP, COMMIT)
    living = ours.take(make_record("b").key, "tokenize/b", COMMIT)
    pair[0].append([Draft(make_record("a"))])  # killed between the two refs of the transaction
    pair[1].fetch()
    assert theirs.tidy() == (left,)
    assert theirs.tidy() == ()
    assert theirs.current() == {living.key: living}
    with pytest.raises(AlreadyRecordedError, match=r"tokenize/a was recorded meanwhile \(entry 1\): plan again"):
        theirs.take(KEY, STEP, COMMIT)  # whoever planned before the record
    with pytest.raises(AlreadyRecordedError):
        theirs.take_over(left)
    again = theirs.take(KEY, STEP, COMMIT, recorded=1)  # its artifact was lost: the step runs again under a lease of its own
    assert again.recorded == 1
    assert ours.tidy() == ()
    with pytest.raises(LeaseHeldError):
        ours.take(KEY, STEP, COMMIT, recorded=1)
    known = pair[1].snapshot().record_entry(KEY)
    pair[1].append([Draft(make_record("a", "other", known.digest if known else None))])
    pair[0].fetch()
    assert ours.take(KEY, STEP, COMMIT, recorded=2).token == again.token + 1  # overridden, and replaced without tidying


def test_a_lost_answer_to_a_taking_or_a_heartbeat_is_a_success(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    leases = Leases(clone("a"))
    plain, lost = Repository.program, []

    def program(self: Repository, arguments: list[str], *rest: object, **named: object) -> subprocess.CompletedProcess[bytes]:
        done = plain(self, arguments, *rest, **named)  # type: ignore[arg-type]
        if "push" in arguments and not lost:
            lost.append(done.returncode)
            return subprocess.CompletedProcess(done.args, 128, b"", b"fatal: the remote end hung up unexpectedly")
        return done

    monkeypatch.setattr(Repository, "program", program)
    lease = leases.take(KEY, STEP, COMMIT)
    lost.clear()
    lease = leases.beat(lease)
    assert lease.beat == 1
    lost.clear()
    leases.end(lease)
    assert lost == [0]
    assert leases.current() == {}


def test_without_the_remote_a_heartbeat_says_so_and_does_not_say_lost(clone: Clone) -> None:
    ledger = clone("a")
    lease = Leases(ledger).take(KEY, STEP, COMMIT)
    git(ledger.repository.root, "remote", "set-url", "origin", "/nowhere/at/all.git")
    with pytest.raises(LedgerError, match=r"remote 'origin': git fetch failed"):
        Leases(ledger).beat(lease)


def test_a_watch_finds_a_lease_dead_that_did_not_move_on_its_own_clock(ledger: Ledger) -> None:
    now = [1000.0]
    watch = Watch(30, lambda: now[0])
    leases = Leases(ledger)
    lease = leases.take(KEY, STEP, COMMIT)
    assert not watch.is_dead(lease)
    now[0] += 29
    assert not watch.is_dead(lease)
    renewed = leases.beat(lease)
    assert not watch.is_dead(renewed)
    now[0] += 29
    assert not watch.is_dead(renewed)
    now[0] += 1
    assert watch.is_dead(renewed)
    assert not watch.is_dead(leases.take_over(renewed))
    assert not Watch(0.0, lambda: now[0]).is_dead(renewed)  # whoever has just come has seen nothing yet


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"", "EOF"),
        (b"not json \x1b[31m", "expected ident"),
        (b"\xff\xfe", "Invalid JSON|invalid"),
        (b"[]", "dictionary|object"),
        (canonical_json({"schema_version": 2, "key": KEY}), "schema_version"),
        (b"[" * 100_000, "recursion|EOF|depth|dictionary|object"),
    ],
    ids=["empty", "text", "bytes", "list", "newer", "deep"],
)
def test_what_is_no_lease_is_named_and_blocks_only_itself(pair: tuple[Ledger, Ledger], data: bytes, fault: str) -> None:
    ledger = pair[0]
    ref = lease_ref(KEY)
    if ledger.remote:
        name = write_blob(ledger.repository, data)
        git(ledger.repository.root, "push", "--quiet", "origin", f"{name}:{ref}")
    else:
        git(ledger.repository.root, "update-ref", ref, write_blob(ledger.repository, data))
    leases = Leases(ledger)
    with pytest.raises(MalformedLeaseError, match=rf"(?s){ref} holds no lease.*({fault})") as refusal:
        leases.take(KEY, STEP, COMMIT)
    assert "\x1b" not in str(refusal.value)
    other = leases.take(make_record("b").key, "tokenize/b", COMMIT)
    assert leases.current() == {other.key: other}
    (said,) = leases.read().faults
    ledger.append([Draft(make_record("b"))], ended=[other])
    subprocess.run(str(said).rpartition("remove it: ")[2].split(), cwd=ledger.repository.root, check=True, capture_output=True)
    assert leases.take(KEY, STEP, COMMIT).token == 2


def test_a_lease_under_anothers_name_in_another_form_or_without_its_object_is_none(ledger: Ledger, folder: Path) -> None:
    leases = Leases(ledger)
    lease = leases.take(KEY, STEP, COMMIT)
    other = lease_ref(make_record("b").key)
    git(folder, "update-ref", other, lease.object_id)
    git(folder, "update-ref", lease.ref, write_blob(ledger.repository, lease.to_bytes() + b"\n"))
    wild = lease_ref(make_record("c").key)
    git(folder, "update-ref", wild, git(folder, "rev-parse", "HEAD"))
    gone = lease_ref(make_record("d").key)
    (folder / ".git" / gone).write_text("1234567890" * 4 + "\n")
    found = leases.read()
    assert found.leases == {}
    said = "\n".join(str(fault) for fault in found.faults)
    assert f"{other} holds no lease that this engine reads: it is the lease of {KEY}" in said
    assert f"{lease.ref} holds no lease that this engine reads: it is not in its canonical form" in said
    assert f"{wild} holds no lease" in said
    assert f"{gone} holds no lease that this engine reads: its object 1234567890" in said


def test_a_counter_that_is_damaged_or_deleted_never_gives_a_token_twice(ledger: Ledger, folder: Path) -> None:
    leases = Leases(ledger)
    first = leases.take(KEY, STEP, COMMIT)
    leases.end(first)
    git(folder, "update-ref", TOKEN_REF, write_blob(ledger.repository, b"5"))
    with pytest.raises(LedgerError, match=r"refs/forge/lease-token holds no counter.*git update-ref -d refs/forge/lease-token"):
        leases.take(KEY, STEP, COMMIT)
    git(folder, "update-ref", "-d", TOKEN_REF)
    second = Leases(Ledger(Repository(folder), REF)).take(KEY, STEP, COMMIT)
    assert second.token == 2


def take_all(folder: Path, remote: str | None, keys: list[str], clock_skew: float, out: str) -> None:
    ledger = Ledger(Repository(folder), REF, remote, clock=lambda: 1e9 + clock_skew)
    leases = Leases(ledger)
    won = []
    for name in keys:
        try:
            won.append((name, leases.take(make_record(name).key, f"tokenize/{name}", COMMIT).token))
        except LeaseHeldError:
            continue
    Path(out).write_text("\n".join(f"{name} {token}" for name, token in won))


@pytest.mark.parametrize("shared", [False, True], ids=["local", "remote"])
def test_of_many_who_try_to_take_a_lease_one_wins_and_no_token_is_given_twice(
    folder: Path, clone: Clone, tmp_path: Path, shared: bool
) -> None:
    folders = [clone(f"c{number}").repository.root for number in range(3)] if shared else [folder] * 3
    names = [f"n{number}" for number in range(6)]
    context = multiprocessing.get_context("spawn")
    takers = [
        context.Process(
            target=take_all, args=(place, "origin" if shared else None, names, skew, str(tmp_path / f"out{number}"))
        )
        for number, (place, skew) in enumerate(zip(folders, (-3600.0, 0.0, 3600.0), strict=True))
    ]
    for taker in takers:
        taker.start()
    for taker in takers:
        taker.join()
        assert taker.exitcode == 0
    rows = [line.split() for number in range(3) for line in (tmp_path / f"out{number}").read_text().splitlines()]
    assert sorted(name for name, _ in rows) == names
    assert sorted(int(token) for _, token in rows) == list(range(1, 7))


def test_the_holder_names_this_process(ledger: Ledger) -> None:
    assert Leases(ledger).holder.pid == os.getpid()
    assert Leases(ledger).holder.id != Leases(ledger).holder.id
