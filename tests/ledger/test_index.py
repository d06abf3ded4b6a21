"""The index: it answers like the ledger itself, for the head that was asked, whatever happened to its file."""

import multiprocessing
import random
import sqlite3
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.conftest import commit_all, git, new_repository
from tests.ledger.conftest import REF, make_record, make_release

from forge.contract.record import Record, Spent
from forge.errors import LedgerError
from forge.ledger.entry import sequence_path
from forge.ledger.ledger import Draft, Ledger, Snapshot
from forge.repo.repository import Repository


def index_file(folder: Path) -> Path:
    (found,) = (folder / ".git" / "forge").glob("ledger-index.*.sqlite")
    return found


def truth(snapshot: Snapshot) -> dict[str, tuple[int, Record]]:
    """The authoritative records, read entry by entry."""
    found = {}
    for number in range(1, snapshot.head[0] + 1):
        body = snapshot.entry_at(sequence_path(number)).body
        if isinstance(body, Record):
            found[body.key] = (number, body)
    return found


def agrees(snapshot: Snapshot) -> bool:
    expected = truth(snapshot)
    made = snapshot.made_many(expected)
    assert {key: (item.sequence, dict(item.products)) for key, item in made.items()} == {
        key: (number, record.products) for key, (number, record) in expected.items()
    }
    for number, record in expected.values():
        newest = max(n for n, other in expected.values() if other.step_id == record.step_id)
        latest = snapshot.latest_made(record.step_id)
        assert latest is not None
        assert latest.sequence == newest >= number
        assert snapshot.latest(record.step_id) == expected[latest.key][1]
    return True


def test_what_planning_asks_of_a_record_is_what_the_record_says(ledger: Ledger) -> None:
    gate = make_record("g", metrics={"verdict": "NO-GO", "failed": "bpb"}, inputs={"report": make_record("x").key},
                       actual=Spent(seconds=2.5, cost=0.25))  # fmt: skip
    ledger.append([Draft(make_record("a")), Draft(gate)])
    snapshot = ledger.snapshot()
    made = snapshot.made(gate.key)
    assert made is not None
    assert (made.key, made.step_id, made.subject, made.commit, made.step_version, made.sequence) == (
        gate.key, gate.step_id, gate.subject, gate.commit, gate.step_version, 2,
    )  # fmt: skip
    assert (made.inputs, made.products, made.byproducts) == (gate.inputs, gate.products, {})
    assert (made.verdict, made.failed, made.seconds, made.cost) == ("NO-GO", "bpb", 2.5, 0.25)
    plain = snapshot.made(make_record("a").key)
    assert plain is not None
    assert (plain.verdict, plain.failed, plain.cost) == (None, "", None)
    assert snapshot.made(make_record("absent").key) is None
    assert snapshot.made("no digest") is None
    assert snapshot.latest_made("tokenize/absent") is None


def test_an_earlier_snapshot_never_sees_what_came_later(ledger: Ledger) -> None:
    (first,) = ledger.append([Draft(make_record("a"))])
    early = ledger.snapshot()
    ledger.append([Draft(make_record("a", "other", first.digest)), Draft(make_record("b")), Draft(make_release("prod", "r"))])
    late = ledger.snapshot()
    for _ in range(2):  # the index is at the later head by then
        assert late.made(make_record("a").key).products == make_record("a", "other").products  # type: ignore[union-attr]
        assert early.made(make_record("a").key).products == make_record("a").products  # type: ignore[union-attr]
        assert early.made(make_record("b").key) is None
        assert early.latest_made("tokenize/b") is None
        assert early.release("prod") is None
        assert early.environments() == ()
        assert list(early.subjects()) == ["Tokenizer/a"]
    assert agrees(early)
    assert agrees(late)


def test_only_what_is_new_is_read(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger.append([Draft(make_record(f"a{number}")) for number in range(20)])
    ledger.snapshot().check()
    ledger.append([Draft(make_record("b")), Draft(make_record("c"))])
    asked: list[int] = []
    plain = Repository.read_objects
    monkeypatch.setattr(Repository, "read_objects", lambda self, names: asked.append(len(names)) or plain(self, names))
    ledger.snapshot().check()
    ledger.snapshot().check()
    assert asked == [2]


def test_a_ledger_that_is_not_the_one_that_was_indexed_is_indexed_anew(ledger: Ledger, folder: Path, tmp_path: Path) -> None:
    ledger.append([Draft(make_record("a")), Draft(make_record("b"))])
    assert agrees(ledger.snapshot())
    other = new_repository(tmp_path / "other")
    commit_all(other)
    foreign = Ledger(Repository(other), REF)
    foreign.append([Draft(make_record("c")), Draft(make_record("d")), Draft(make_record("e"))])
    git(folder, "fetch", "--quiet", str(other), f"+{REF}:{REF}")
    (folder / ".git" / "forge" / "ledger-head").unlink()  # an operator who accepts the other ledger
    snapshot = Ledger(Repository(folder), REF).snapshot()
    assert snapshot.head[0] == 3
    assert agrees(snapshot)
    assert snapshot.made(make_record("a").key) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"no database"),
        lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
        lambda path: path.write_bytes(b"SQLite format 3\0" + bytes(4080)),
        lambda path: (path.unlink(), path.mkdir()),
        lambda path: run(path, "DROP TABLE records"),
        lambda path: run(path, "PRAGMA user_version = 99"),
        lambda path: run(path, "UPDATE records SET document = replace(document, 'Tokenizer', 'tokenizer')"),
        lambda path: run(path, "UPDATE records SET document = 5"),
        lambda path: run(path, "UPDATE entries SET digest = zeroblob(32)"),
        lambda path: run(path, "UPDATE head SET digest = 'x', commit_id = 'y', sequence = 1"),
    ],
    ids=["empty", "text", "cut", "zeros", "folder", "table", "version", "row", "type", "digest", "head"],
)
def test_a_damaged_index_is_replaced(ledger: Ledger, folder: Path, damage: object) -> None:
    ledger.append([Draft(make_record("a")), Draft(make_record("b"))])
    ledger.snapshot().check()
    ledger._index.close()
    damage(index_file(folder))  # type: ignore[operator]
    again = Ledger(Repository(folder), REF)
    again.append([Draft(make_record("c"))])
    assert agrees(again.snapshot())
    assert agrees(Ledger(Repository(folder), REF).snapshot())


def run(path: Path, statement: str) -> None:
    with sqlite3.connect(path) as db:
        db.execute(statement)
    db.close()


def test_flipped_bytes_of_the_index_give_the_truth_or_a_ledger_error(ledger: Ledger, folder: Path) -> None:
    ledger.append([Draft(make_record(f"a{number}")) for number in range(30)] + [Draft(make_release("prod", "r"))])
    ledger.snapshot().check()
    ledger._index.close()
    generator = random.Random(23)
    path = index_file(folder)
    original = path.read_bytes()
    expected = truth(ledger.snapshot())
    for _ in range(60):
        for stray in (folder / ".git" / "forge").glob("ledger-index.*"):
            stray.unlink()
        content = bytearray(original)
        content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        path.write_bytes(content)
        opened = Ledger(Repository(folder), REF)
        try:
            made = opened.snapshot().made_many(expected)
            opened.snapshot().latest("tokenize/a1")
            opened.snapshot().release("prod")
            opened.snapshot().subjects()
        except LedgerError:
            continue
        finally:
            opened._index.close()
        for key, item in made.items():  # a hidden row is possible, a wrong one is not
            assert (item.sequence, item.products) == (expected[key][0], expected[key][1].products)


def test_where_no_file_can_be_written_the_index_lies_in_memory(ledger: Ledger, folder: Path) -> None:
    ledger.append([Draft(make_record("a"))])
    ledger._index.close()
    for path in (folder / ".git" / "forge").glob("ledger-index.*"):
        path.unlink()
    (folder / ".git" / "forge" / "ledger-index.v1.0.sqlite").symlink_to("/nowhere/at/all.sqlite")
    assert agrees(Ledger(Repository(folder), REF).snapshot())


def ask_again_and_again(folder: Path, rounds: int) -> None:
    for _ in range(rounds):
        ledger = Ledger(Repository(folder), REF)
        assert agrees(ledger.snapshot())
        ledger._index.close()


def test_processes_share_one_index(ledger: Ledger, folder: Path) -> None:
    ledger.append([Draft(make_record("first"))])
    context = multiprocessing.get_context("spawn")
    readers = [context.Process(target=ask_again_and_again, args=(folder, 8)) for _ in range(3)]
    for reader in readers:
        reader.start()
    for number in range(15):
        ledger.append([Draft(make_record(f"a{number}"))])
    for reader in readers:
        reader.join()
        assert reader.exitcode == 0
    assert agrees(ledger.snapshot())


def test_an_entry_that_does_not_follow_or_is_not_listed_is_named(ledger: Ledger, folder: Path) -> None:
    ledger.append([Draft(make_record("a")), Draft(make_record("b"))])
    head = git(folder, "log", "-1", "--format=%B", REF)
    name = git(folder, "rev-parse", f"{REF}:{sequence_path(1)}")

    def forged(*rows: str) -> Ledger:
        stream = "\n".join(
            [f"commit {REF}", "committer A <a@b> 1 +0000", f"data {len(head)}", head, f"from {REF}^0", *rows, ""]
        )
        git_in(folder, stream)
        for path in (folder / ".git" / "forge").iterdir():
            if path.is_file():
                path.unlink()
        return Ledger(Repository(folder), REF)

    listing = git(folder, "ls-tree", "-r", "--name-only", REF, "keys").split()[0]
    for rows, message in (
        ((f"D {listing}",), "is not listed as"),
        ((f"D {sequence_path(2)}",), f"has no {sequence_path(2)}"),
        ((f"M 100644 {name} {sequence_path(2)}",), "does not follow entry 1"),
    ):
        before = git(folder, "rev-parse", REF)
        with pytest.raises(LedgerError, match=message):
            forged(*rows).snapshot().check()
        git(folder, "update-ref", REF, before)


def git_in(folder: Path, stream: str) -> None:
    subprocess.run(["git", "fast-import", "--quiet", "--force"], cwd=folder, input=stream.encode(), check=True)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=4), min_size=1, max_size=6), st.randoms())
def test_every_head_is_answered_as_the_ledger_itself_answers(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[int]], generator: random.Random
) -> None:
    folder = new_repository(tmp_path_factory.mktemp("law"))
    ledger = Ledger(Repository(folder), REF)
    heads = []
    for number, batch in enumerate(batches):
        for name in batch:
            known = ledger.snapshot().record_entry(make_record(f"k{name}").key)
            record = make_record(
                f"k{name}", f"{number} {name}", known.digest if known else None, step_id=f"tokenize/{name % 3}"
            )
            ledger.append([Draft(record)])
        heads.append(ledger.snapshot())
        if generator.random() < 0.5:
            heads[-1].check()
    generator.shuffle(heads)
    for snapshot in heads:
        assert agrees(snapshot)
