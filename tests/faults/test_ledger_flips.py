"""One flipped bit in any object of a ledger: snapshot, fetch, append and index refuse it, but for the modes in its trees."""

import random
import shutil
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.conftest import commit_all, git, loose_object, new_repository, unpack_objects
from tests.ledger.conftest import REF, make_record, make_release

from forge.canonical import digest_of_bytes
from forge.errors import LedgerError, RepoError
from forge.ledger.leases import Leases
from forge.ledger.ledger import Draft, Ledger
from forge.repo.repository import Repository

NAMES = ("a", "b", "c")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = new_repository(tmp_path_factory.mktemp("whole") / "r")
    commit_all(folder)
    with Repository(folder) as repository:
        ledger = Ledger(repository, REF)
        for number, name in enumerate(NAMES, 1):
            ledger.append([Draft(make_record(name), (name.encode(),)), Draft(make_release("prod", name, number))])
        Leases(ledger).take(make_record("held").key, "tokenize/held", "c" * 40)
    unpack_objects(folder)
    for path in (folder / ".git" / "forge").iterdir():
        path.unlink()
    return folder


@dataclass(frozen=True)
class Object:
    """A Git object of the ledger, a lease or the counter of tokens."""

    name: str
    kind: str

    def places(self, folder: Path) -> tuple[list[int], list[int]]:
        """Where its bytes lie in the file that git compresses: those of modes in a tree, and all others after the header."""
        content = zlib.decompress(loose_object(folder, self.name).read_bytes())
        place = content.index(b"\0") + 1
        everything, modes = set(range(place, len(content))), set[int]()
        while self.kind == "tree" and place < len(content):
            modes.update(range(place, content.index(b" ", place)))
            place = content.index(b"\0", place) + 21  # the name, then twenty bytes of an object id
        return sorted(modes), sorted(everything - modes)


def objects_of(folder: Path) -> list[Object]:
    names = [line.split(" ")[0] for line in git(folder, "rev-list", "--objects", "--no-walk", REF).splitlines()]
    names += git(folder, "for-each-ref", "--format=%(objectname)", "refs/forge/leases", "refs/forge/lease-token").split()
    return [Object(name, git(folder, "cat-file", "-t", name)) for name in names]


def flip(path: Path, place: int, bit: int) -> None:
    """Flip one bit of an object's content, as a disk would that keeps its own checksum right."""
    content = bytearray(zlib.decompress(path.read_bytes()))
    content[place] ^= 1 << bit
    path.write_bytes(zlib.compress(bytes(content)))


def flip_file(path: Path, generator: random.Random) -> None:
    """Flip one bit of the file itself."""
    data = bytearray(path.read_bytes())
    data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
    path.write_bytes(bytes(data))


def look_at_everything(ledger: Ledger) -> None:
    """Ask all that planning and applying ask; every answer has to be the truth."""
    snapshot = ledger.fetch()
    made = snapshot.made_many(make_record(name).key for name in NAMES)
    assert {key: item.products for key, item in made.items()} == {
        make_record(name).key: make_record(name).products for name in NAMES
    }
    assert snapshot.releases("prod") == tuple(make_release("prod", name, number) for number, name in enumerate(NAMES, 1))
    assert sorted(snapshot.subjects()) == ["Deployment/docs-prod", *(f"Tokenizer/{name}" for name in NAMES)]
    for name in NAMES:
        assert snapshot.record(make_record(name).key) == make_record(name)
        assert snapshot.latest(f"tokenize/{name}") == make_record(name)
        assert snapshot.attestation(digest_of_bytes(name.encode())) == name.encode()
    found = Leases(ledger).read()
    if found.faults:  # named, and no other lease is hidden by it; its step is not taken
        raise found.faults[0]
    assert [lease.step_id for lease in found.leases.values()] == ["tokenize/held"]
    Leases(ledger).take(make_record("next").key, "tokenize/next", "c" * 40)
    ledger.append([Draft(make_record("new"))])
    assert ledger.fetch().made(make_record("new").key) is not None


def answer(folder: Path, remote: str | None = None) -> str | None:
    """What is said to whoever asks everything; None where every answer was given, and was true."""
    with Repository(folder) as repository:
        try:
            look_at_everything(Ledger(repository, REF, remote))
        except LedgerError as error:
            return str(error)
    return None


@pytest.fixture
def damaged(whole: Path, tmp_path: Path) -> Iterator[Callable[[], Path]]:
    """A fresh copy of the whole ledger, each time it is called."""

    def make() -> Path:
        folder = tmp_path / "damaged"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, folder)
        return folder

    return make


def test_a_flipped_bit_in_any_object_here_is_refused(whole: Path, damaged: Callable[[], Path]) -> None:
    """Any byte but that of a mode; in its content, and in its file."""
    generator = random.Random(31)
    objects = objects_of(whole)
    assert Counter(each.kind for each in objects) == {"commit": 1, "tree": 22, "blob": 11}
    for each in objects:
        folder = damaged()
        place, bit = generator.choice(each.places(folder)[1]), generator.randrange(8)
        flip(loose_object(folder, each.name), place, bit)
        assert answer(folder) is not None, (each, place, bit)
        folder = damaged()
        flip_file(loose_object(folder, each.name), generator)
        assert answer(folder) is not None or is_whole(folder, whole, each), each


def is_whole(folder: Path, whole: Path, each: Object) -> bool:
    """Whether the file gives the same content all the same: a few bits of a zlib stream mean nothing."""
    files = (loose_object(place, each.name).read_bytes() for place in (folder, whole))
    try:
        one, other = (zlib.decompress(data) for data in files)
    except zlib.error:
        return False
    return one == other


def test_a_flipped_bit_in_a_mode_changes_no_answer_and_verification_refuses_it(
    whole: Path, damaged: Callable[[], Path]
) -> None:
    """The one kind of flip that reading may pass over: an entry is found by its path, and its own bytes are hashed.

    The mode of a path says nothing of them. Who verifies hashes every folder; an append writes a folder anew, whole.
    """
    generator = random.Random(32)
    passed = 0
    for each in objects_of(whole):
        if each.kind != "tree":
            continue
        folder = damaged()
        flip(loose_object(folder, each.name), generator.choice(each.places(folder)[0]), generator.randrange(8))
        with Repository(folder) as repository, pytest.raises(RepoError, match="is damaged: its bytes hash to"):
            Ledger(repository, REF).snapshot().paths()
        if answer(folder) is None:
            passed += 1
            assert modes_in(folder) in (None, {"100644"}), each
    assert passed, "then the rule of the other test holds for modes as well: say so there"


def modes_in(folder: Path) -> set[str] | None:
    """The modes of the ledger's files, once something was appended; None where verification refuses the tree still."""
    with Repository(folder) as repository:
        try:
            return {row.mode for row in repository.tree_entries(REF)}
        except RepoError:
            return None


def test_a_flipped_bit_at_the_remote_does_not_come_in(whole: Path, damaged: Callable[[], Path], tmp_path: Path) -> None:
    generator = random.Random(33)
    for number, each in enumerate(generator.sample(objects_of(whole), 14)):
        folder = damaged()
        modes, others = each.places(folder)
        flip(loose_object(folder, each.name), generator.choice([*modes, *others]), generator.randrange(8))
        place = new_repository(tmp_path / f"clone{number}")
        git(place, "remote", "add", "origin", str(folder))
        assert "git fetch failed" in (answer(place, "origin") or "accepted"), each
