"""One flipped bit in any object of a ledger: snapshot, fetch, append and index refuse it, or are right all the same."""

import random
import shutil
import zlib
from pathlib import Path

import pytest
from tests.conftest import commit_all, git, loose_object, new_repository, unpack_objects
from tests.ledger.conftest import REF, make_record, make_release

from forge.canonical import digest_of_bytes
from forge.errors import LedgerError
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


def flip(path: Path, generator: random.Random) -> bytes:
    """Flip one bit of an object's content; returns the file as it was."""
    original = path.read_bytes()
    content = bytearray(zlib.decompress(original))
    position = generator.randrange(content.index(b"\0") + 1, len(content))
    content[position] ^= 1 << generator.randrange(8)
    path.write_bytes(zlib.compress(bytes(content)))
    return original


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
    assert [lease.step_id for lease in Leases(ledger).current().values()] == ["tokenize/held"]
    ledger.append([Draft(make_record("new"))])
    assert ledger.fetch().made(make_record("new").key) is not None


def outcomes(folder: Path, tmp_path: Path, *, shared: bool) -> list[str | None]:
    generator = random.Random(31)
    names = [line.split(" ")[0] for line in git(folder, "rev-list", "--objects", "--no-walk", REF).splitlines()]
    names += git(folder, "for-each-ref", "--format=%(objectname)", "refs/forge/leases", "refs/forge/lease-token").split()
    said: list[str | None] = []
    for number, name in enumerate(generator.sample(names, min(len(names), 14))):
        damaged = tmp_path / f"damaged{number}"
        shutil.copytree(folder, damaged)
        flip(loose_object(damaged, name), generator)
        place = damaged
        if shared:
            place = new_repository(tmp_path / f"clone{number}")
            git(place, "remote", "add", "origin", str(damaged))
        with Repository(place) as repository:
            try:
                look_at_everything(Ledger(repository, REF, "origin" if shared else None))
            except AssertionError as error:
                if "tokenize/held" not in str(error):
                    raise
                said.append("the lease is named a malformed one, and left out")
            except LedgerError as error:
                said.append(str(error))
            else:
                said.append(None)
        shutil.rmtree(damaged)
    return said


def test_a_flipped_bit_here_is_refused_or_changes_no_answer(whole: Path, tmp_path: Path) -> None:
    said = outcomes(whole, tmp_path, shared=False)
    assert sum(message is not None for message in said) > len(said) / 2, said


def test_a_flipped_bit_at_the_remote_does_not_come_in(whole: Path, tmp_path: Path) -> None:
    said = outcomes(whole, tmp_path, shared=True)
    refused = [message for message in said if message is not None]
    assert len(refused) == len(said), said
    assert all("git fetch failed" in message for message in refused), refused
