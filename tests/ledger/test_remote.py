"""One ledger behind a remote: what is shared, what is refused, and what a lost answer means."""

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import git
from tests.ledger.conftest import REF, make_record, make_release

from forge.errors import LedgerError
from forge.ledger import turn
from forge.ledger.ledger import Draft, Ledger
from forge.ledger.refs import write_blob
from forge.ledger.remote import _words
from forge.ledger.turn import TURN_REF
from forge.repo.repository import Repository
from forge.spec.settings import read_settings

Clone = Callable[[str], Ledger]


def test_what_one_clone_appends_another_fetches(clone: Clone, bare: Path) -> None:
    a, b = clone("a"), clone("b")
    assert a.fetch().head == (0, None)
    a.append([Draft(make_record("a"), (b"attestation",))])
    assert git(bare, "rev-parse", REF) == a.snapshot().commit
    assert b.snapshot().head == (0, None)
    fetched = b.fetch()
    assert fetched.record(make_record("a").key) == make_record("a")
    assert b.snapshot().commit == fetched.commit
    b.append([Draft(make_record("b")), Draft(make_release("prod", "r"))])
    a.append([Draft(make_record("c"))])  # builds on what b has appended meanwhile
    assert a.snapshot().head[0] == 4
    assert git(bare, "rev-list", "--min-parents=2", REF) == ""
    assert b.fetch().commit == a.snapshot().commit
    assert git(a.repository.root, "status", "--porcelain") == ""


def test_the_same_record_from_two_clones_is_recorded_once_and_another_is_refused(clone: Clone) -> None:
    a, b = clone("a"), clone("b")
    first = a.append([Draft(make_record("a"))])
    assert b.append([Draft(make_record("a"))]) == first
    with pytest.raises(LedgerError, match="recorded with other products"):
        b.append([Draft(make_record("a", "other")), Draft(make_record("b"))])
    assert a.fetch().head[0] == 1


def test_a_history_from_before_the_remote_is_pushed_with_the_first_append(clone: Clone, bare: Path) -> None:
    shared = clone("a")
    local = Ledger(shared.repository, REF)
    local.append([Draft(make_record("a"))])
    assert shared.fetch().head[0] == 1
    shared.append([Draft(make_record("b"))])
    assert shared.fetch().head[0] == 2
    assert git(bare, "rev-parse", REF) == local.snapshot().commit


def test_an_acknowledgement_that_got_lost_is_a_success(clone: Clone, bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = clone("a")
    ledger.append([Draft(make_record("a"))])
    plain, lost = Repository.program, []

    def program(self: Repository, arguments: list[str], *rest: object, **named: object) -> subprocess.CompletedProcess[bytes]:
        done = plain(self, arguments, *rest, **named)  # type: ignore[arg-type]
        if "push" in arguments and not lost:
            lost.append(done.returncode)
            return subprocess.CompletedProcess(done.args, 128, b"", b"fatal: the remote end hung up unexpectedly")
        return done

    monkeypatch.setattr(Repository, "program", program)
    for body in (make_record("b"), make_release("prod", "r")):
        lost.clear()
        (entry,) = ledger.append([Draft(body)])
        assert lost == [0]
        assert ledger.fetch().entry(entry.sequence) == entry
    assert ledger.fetch().head[0] == 3


def test_an_answer_that_got_lost_while_others_append_is_a_success(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = clone("a"), clone("b")
    ours.append([Draft(make_release("prod", "zero", 1))])
    plain, lost = Repository.program, []

    def program(self: Repository, arguments: list[str], *rest: object, **named: object) -> subprocess.CompletedProcess[bytes]:
        done = plain(self, arguments, *rest, **named)  # type: ignore[arg-type]
        if "push" in arguments and not lost:
            lost.append(done.returncode)
            theirs.append([Draft(make_release("prod", "theirs", 3))])
            return subprocess.CompletedProcess(done.args, 128, b"", b"fatal: the remote end hung up unexpectedly")
        return done

    monkeypatch.setattr(Repository, "program", program)
    (entry,) = ours.append([Draft(make_release("prod", "ours", 2))])
    assert [release.moved[17:19] for release in ours.fetch().releases("prod")] == ["01", "02", "03"]
    assert entry.sequence == 2


def restored(message: str, folder: Path) -> None:
    """Run the command that a refusal ends with."""
    command = message.partition("To restore it: ")[2]
    assert command.startswith("git push")
    subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)


def test_a_forced_overwrite_is_refused_and_the_message_restores_it(clone: Clone, bare: Path) -> None:
    a, b = clone("a"), clone("b")
    a.append([Draft(make_record("a"))])
    older = git(bare, "rev-parse", REF)
    a.append([Draft(make_record("b"))])
    head = b.fetch().commit
    git(bare, "update-ref", REF, older)
    with pytest.raises(LedgerError, match=rf"rewritten: {REF} of remote 'origin' is now {older}.*000/000/002.json") as refusal:
        b.fetch()
    with pytest.raises(LedgerError, match="rewritten"):
        b.append([Draft(make_record("c"))])
    assert b.snapshot().commit == head
    restored(str(refusal.value), b.repository.root)
    assert b.fetch().commit == head


def test_a_ledger_that_was_deleted_is_refused(clone: Clone, bare: Path) -> None:
    ledger = clone("a")
    ledger.append([Draft(make_record("a"))])
    git(bare, "update-ref", "-d", REF)
    with pytest.raises(LedgerError, match="is now absent") as refusal:
        ledger.append([Draft(make_record("b"))])
    restored(str(refusal.value), ledger.repository.root)
    ledger.append([Draft(make_record("b"))])


def fast_forward(bare: Path, *rows: str) -> None:
    """A commit on top of the ledger that does what it likes."""
    stream = "\n".join([f"commit {REF}", "committer A <a@b> 1 +0000", "data <<E", git(bare, "log", "-1", "--format=%B", REF),
                        "E", f"from {REF}^0", *rows, ""])  # fmt: skip
    subprocess.run(["git", "fast-import", "--quiet"], cwd=bare, input=stream.encode(), check=True)


@pytest.mark.parametrize("rows", [("deleteall",), ("D steps",), ("M 100644 inline entries/000/000/001.json", "data 1", "x")])
def test_a_legal_fast_forward_that_deletes_or_changes_records_is_refused(
    clone: Clone, bare: Path, rows: tuple[str, ...]
) -> None:
    ledger = clone("a")
    ledger.append([Draft(make_record("a"))])
    head = ledger.snapshot().commit
    fast_forward(bare, *rows)
    with pytest.raises(LedgerError, match=r"removes or changes .*/000") as refusal:
        ledger.fetch()
    assert ledger.snapshot().commit == head
    restored(str(refusal.value), ledger.repository.root)
    assert ledger.fetch().commit == head


def test_a_legal_fast_forward_that_deletes_records_here_is_refused(ledger: Ledger, folder: Path) -> None:
    ledger.append([Draft(make_record("a"))])
    fast_forward(folder, "deleteall")
    with pytest.raises(LedgerError, match=r"removes or changes attestations|removes or changes entries"):
        ledger.snapshot()


def test_a_fast_forward_with_entries_that_do_not_follow_is_refused(clone: Clone, bare: Path) -> None:
    ledger = clone("a")
    ledger.append([Draft(make_record("a"))])
    head = ledger.snapshot().commit
    message = f"forge\n\nForge-Head: 2 {make_record('a').key}\n"
    stream = f"commit {REF}\ncommitter A <a@b> 1 +0000\ndata {len(message)}\n{message}\nfrom {REF}^0\n"
    stream += "M 100644 inline entries/000/000/002.json\ndata 2\n{}\n"
    subprocess.run(["git", "fast-import", "--quiet"], cwd=bare, input=stream.encode(), check=True)
    with pytest.raises(LedgerError, match="is not one this engine reads"):
        ledger.fetch()
    assert ledger.snapshot().commit == head


def test_a_remote_that_cannot_be_reached_is_named_without_its_password(clone: Clone) -> None:
    ledger = clone("a")
    git(ledger.repository.root, "remote", "set-url", "origin", "http://user:secret@localhost:1/x.git")
    with pytest.raises(LedgerError, match=r"remote 'origin': git fetch failed: .*git ls-remote origin") as refusal:
        ledger.append([Draft(make_record("a"))])
    assert "secret" not in str(refusal.value)
    assert ledger.snapshot().head == (0, None)
    assert (
        _words(b"fatal: unable to access 'https://bob:p%40ss@host/x': no") == "fatal: unable to access 'https://***@host/x': no"
    )


def test_connecting_adds_the_refspecs_once_and_a_plain_fetch_brings_the_ledger(clone: Clone, bare: Path) -> None:
    a, b = clone("a"), clone("b")
    a.connect()
    a.connect()
    specs = git(a.repository.root, "config", "--get-all", "remote.origin.fetch").split()
    assert len(specs) == len(set(specs)) == 4  # git has one of its own
    assert git(bare, "for-each-ref", "refs/forge/probe") == ""
    b.append([Draft(make_record("a"))])
    git(a.repository.root, "fetch", "--quiet")
    assert git(a.repository.root, "rev-parse", "refs/forge/remotes/origin/ledger") == b.snapshot().commit
    assert a.fetch().commit == b.snapshot().commit


def test_a_remote_without_atomic_pushes_is_refused_when_connecting(clone: Clone, bare: Path) -> None:
    git(bare, "config", "receive.advertiseAtomic", "false")
    with pytest.raises(LedgerError, match="'origin' does not support atomic pushes"):
        clone("a").connect()


def test_a_remote_that_does_not_exist_or_does_not_accept_is_refused_when_connecting(clone: Clone, bare: Path) -> None:
    ledger = clone("a")
    hook = bare / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\necho read-only >&2\nexit 1\n")
    hook.chmod(0o755)
    with pytest.raises(LedgerError, match=r"does not accept refs below refs/forge/: .*read-only"):
        ledger.connect()
    with pytest.raises(LedgerError, match=r"git push failed: .*read-only"):
        ledger.append([Draft(make_record("a"))])
    assert ledger.snapshot().head == (0, None)
    git(ledger.repository.root, "remote", "remove", "origin")
    with pytest.raises(LedgerError, match=r"no remote 'origin'.*git remote add origin URL"):
        ledger.connect()


def test_a_hook_of_the_users_own_does_not_run(clone: Clone) -> None:
    ledger = clone("a")
    hook = ledger.repository.common_dir / "hooks" / "pre-push"
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    ledger.append([Draft(make_record("a"))])


def test_inside_a_git_hook_the_ledgers_own_repository_is_meant(
    clone: Clone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = clone("a").repository.root
    for name in ("GIT_DIR", "GIT_INDEX_FILE"):
        monkeypatch.setitem(os.environ, name, str(tmp_path / "elsewhere"))
    ledger = Ledger(Repository(folder), REF, "origin")
    ledger.append([Draft(make_record("a"))])
    assert ledger.fetch().made(make_record("a").key) is not None


def test_the_settings_name_the_remote() -> None:
    assert read_settings(b"[ledger]\nremote = 'origin'\n", "0.1.0").ledger.remote == "origin"
    assert read_settings(b"", "0.1.0").ledger.remote is None


def test_a_turn_whose_holder_died_is_passed_over(clone: Clone, bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = clone("a")
    dead = write_blob(ledger.repository, b"dead\n")
    git(ledger.repository.root, "push", "--quiet", "origin", f"{dead}:{TURN_REF}")
    monkeypatch.setattr(turn, "PATIENCE_SECONDS", 0.5)
    began = time.monotonic()
    ledger.append([Draft(make_record("a"))])
    assert time.monotonic() - began > 0.5
    assert git(bare, "for-each-ref", TURN_REF) == ""


def test_who_lost_often_has_the_turn_and_gives_it_back(clone: Clone, bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turn, "LOST_OFTEN", 0)
    ledger = clone("a")
    ledger.append([Draft(make_record("a"))])
    assert ledger.fetch().head[0] == 1
    with pytest.raises(LedgerError, match="recorded with other products"):
        ledger.append([Draft(make_record("a", "other"))])
    assert git(bare, "for-each-ref", TURN_REF) == ""
