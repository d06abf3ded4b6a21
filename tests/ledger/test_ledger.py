"""The ledger: append-only, chained, moved by compare-and-swap, and never believed when it was rewritten."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.conftest import commit_all, git, loose_object, new_repository, unpack_objects

from forge.canonical import digest_of_bytes
from forge.contract.kinds import StepKind
from forge.contract.record import Record, Spent
from forge.errors import LedgerError
from forge.ledger.entry import attestation_path, sequence_path
from forge.ledger.ledger import Draft, Ledger
from forge.repo.repository import Repository

REF = "refs/forge/ledger"


def record(name: str, product: str = "p", supersedes: str | None = None) -> Record:
    return Record(
        key=digest_of_bytes(name.encode()),
        step=StepKind.TOKENIZE,
        step_version=1,
        step_id=f"tokenize/{name}",
        subject=f"Tokenizer/{name}",
        parameters={},
        inputs={},
        products={"tokens": digest_of_bytes(product.encode())},
        commit="c" * 40,
        attempt=1,
        started="2026-01-01T00:00:00.000+00:00",
        finished="2026-01-01T00:00:01.000+00:00",
        environment={},
        actual=Spent(seconds=1),
        attestations={},
        supersedes=supersedes,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = new_repository(tmp_path / "repository")
    commit_all(folder)
    return folder


@pytest.fixture
def ledger(folder: Path) -> Ledger:
    return Ledger(Repository(folder), REF)


def test_what_is_appended_is_found_again(ledger: Ledger) -> None:
    (entry,) = ledger.append([Draft(record("a"), (b"attestation",))])
    snapshot = ledger.snapshot()
    assert snapshot.record(record("a").key) == record("a") == snapshot.latest("tokenize/a")
    assert snapshot.entry(1) == entry
    assert snapshot.head == (1, entry.digest)
    assert snapshot.attestation(digest_of_bytes(b"attestation")) == b"attestation"
    assert snapshot.record(record("b").key) is None


def test_entries_name_the_one_before(ledger: Ledger) -> None:
    ledger.append([Draft(record("a")), Draft(record("b"))])
    ledger.append([Draft(record("c"))])
    entries = [ledger.snapshot().entry(number) for number in (1, 2, 3)]
    assert [entry.previous if entry else "" for entry in entries] == [None, entries[0].digest, entries[1].digest]  # type: ignore[union-attr]
    assert int(git(ledger.repository.root, "rev-list", "--count", REF)) == 2


def test_the_same_record_twice_is_recorded_once(ledger: Ledger) -> None:
    first = ledger.append([Draft(record("a"))])
    assert ledger.append([Draft(record("a"))]) == first
    assert ledger.snapshot().head[0] == 1


def test_a_figure_that_is_taken_again_for_another_commit_is_recorded(ledger: Ledger) -> None:
    """Its thresholds have to stand in that commit. One that supersedes nothing is a second writer's."""
    (first,) = ledger.append([Draft(record("a").model_copy(update={"step": StepKind.EVALUATE}))])
    assert isinstance(first.body, Record)
    later = {"commit": "d" * 40}
    assert ledger.append([Draft(first.body.model_copy(update=later))]) == [first]
    again = first.body.model_copy(update={"supersedes": first.digest})
    assert ledger.append([Draft(again)]) == [first]
    (second,) = ledger.append([Draft(again.model_copy(update=later))])
    assert (second.sequence, second.body) == (2, again.model_copy(update=later))
    assert ledger.append([Draft(again.model_copy(update=later))]) == [second]


def test_other_products_for_a_known_key_must_say_what_they_supersede(ledger: Ledger) -> None:
    (first,) = ledger.append([Draft(record("a"))])
    with pytest.raises(LedgerError, match="recorded with other products"):
        ledger.append([Draft(record("a", "other"))])
    ledger.append([Draft(record("a", "other", supersedes=first.digest))])
    assert ledger.snapshot().record(record("a").key) == record("a", "other", first.digest)


def test_a_plain_clone_sees_no_ledger_and_the_working_tree_is_untouched(ledger: Ledger, folder: Path, tmp_path: Path) -> None:
    ledger.append([Draft(record("a"))])
    assert git(folder, "status", "--porcelain") == ""
    git(tmp_path, "clone", "--quiet", str(folder), "clone")
    assert Ledger(Repository(tmp_path / "clone"), REF).snapshot().head == (0, None)


def append_many(folder: Path, writer: int, count: int) -> None:
    ledger = Ledger(Repository(folder), REF)
    for number in range(count):
        ledger.append([Draft(record(f"w{writer}-{number}"))])


def test_writers_at_the_same_time_lose_nothing(ledger: Ledger, folder: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=append_many, args=(folder, writer, 6)) for writer in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    snapshot = ledger.snapshot()
    assert snapshot.head[0] == 24
    assert {entry.body.step_id for n in range(1, 25) if (entry := snapshot.entry(n))} == {  # type: ignore[union-attr]
        f"tokenize/w{writer}-{number}" for writer in range(4) for number in range(6)
    }
    assert git(folder, "rev-list", "--min-parents=2", REF) == ""


def test_a_writer_killed_at_any_time_leaves_a_ledger_that_works(ledger: Ledger, folder: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from tests.ledger.test_ledger import append_many;"
        "append_many(Path(sys.argv[1]), 9, 200)"
    )
    for delay in (0.45, 0.55, 0.65, 0.8):
        process = subprocess.Popen([sys.executable, "-c", program, str(folder)], start_new_session=True)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(delay)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        before = ledger.snapshot().head[0]
        ledger.append([Draft(record(f"after-{delay}"))])
        assert ledger.snapshot().head[0] == before + 1
    assert git(folder, "for-each-ref", "refs/forge/tmp") == ""
    until = time.monotonic() + 30
    while (checked := fsck(folder)).returncode and time.monotonic() < until:
        time.sleep(0.2)  # git outlives its writer, and may be joining packs: what is damaged stays damaged
    assert checked.returncode == 0, checked.stderr


def fsck(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", "fsck", "--no-dangling"], cwd=folder, capture_output=True, text=True, check=False)


def test_a_ledger_that_was_rewritten_after_it_was_seen_is_refused(ledger: Ledger, folder: Path) -> None:
    ledger.append([Draft(record("a"))])
    older = git(folder, "rev-parse", REF)
    ledger.append([Draft(record("b"))])
    git(folder, "update-ref", REF, older)
    with pytest.raises(LedgerError, match="the ledger was rewritten: refs/forge/ledger is now " + older):
        ledger.snapshot()
    git(folder, "update-ref", "-d", REF)
    with pytest.raises(LedgerError, match="is now absent"):
        ledger.snapshot()


def test_a_damaged_entry_is_named_and_no_traceback(ledger: Ledger, folder: Path) -> None:
    ledger.append([Draft(record("a"), (b"att",))])
    for path, read in (
        (sequence_path(1), lambda: ledger.snapshot().entry(1)),
        (attestation_path(digest_of_bytes(b"att")), lambda: ledger.snapshot().attestation(digest_of_bytes(b"att"))),
    ):
        unpack_objects(folder)
        loose = loose_object(folder, git(folder, "rev-parse", f"{REF}:{path}"))
        original = loose.read_bytes()
        loose.write_bytes(original[:-3] + b"xyz")
        with pytest.raises(LedgerError, match=r"damaged|cannot read it"):
            Ledger(Repository(folder), REF).snapshot().entry(1) if "entries" in path else read()
        loose.write_bytes(original)
