"""What was signed keeps its bytes: entries and statements of an engine that had one set of statements, and of today's."""

import json
from pathlib import Path

import pytest

from forge.attest.statements import payloads_of, release_statement, retirement_statement
from forge.canonical import digest_of_bytes
from forge.contract.manifest import Manifest
from forge.contract.record import Record, Release, Retirement
from forge.ledger.entry import Entry

FOLDER = Path(__file__).parent / "golden"
DIGEST = "sha256:8e12730dcae796d9df9fd0cdf80c7cca283ed9b69ee9083726a7c9ff6e0a724f"


def entry(name: str) -> Entry:
    return Entry.model_validate_json((FOLDER / f"{name}.entry.json").read_bytes())


@pytest.mark.parametrize("name", ["train", "evaluate", "gate", "release", "retirement"])
def test_an_old_entry_keeps_its_bytes(name: str) -> None:
    assert entry(name).to_bytes() == (FOLDER / f"{name}.entry.json").read_bytes()


@pytest.mark.parametrize("name", ["train", "evaluate", "gate"])
def test_an_old_record_keeps_its_link_and_its_one_statement(name: str) -> None:
    record = entry(name).body
    assert isinstance(record, Record)
    manifests = {
        item.digest: item for item in map(Manifest.model_validate, json.loads((FOLDER / "manifests.json").read_text()))
    }
    producers = json.loads((FOLDER / "producers.json").read_text())[name]
    payloads = payloads_of(record, manifests, producers, {record.products.get("verdict", ""): b"no verdict"})
    assert payloads.pop("link") == (FOLDER / f"{name}.link.json").read_bytes()
    assert list(payloads.values()) == [(FOLDER / f"{name}.statement.json").read_bytes()]


def test_old_moves_keep_their_statements() -> None:
    release, retirement = entry("release").body, entry("retirement").body
    assert isinstance(release, Release)
    assert isinstance(retirement, Retirement)
    assert release_statement(release) == (FOLDER / "release.statement.json").read_bytes()
    assert retirement_statement(retirement) == (FOLDER / "retirement.statement.json").read_bytes()


def test_the_golden_files_are_those_that_were_committed_first() -> None:
    """Whoever changes one here has changed what is signed, and every ledger that holds it."""
    files = sorted(FOLDER.glob("*.json"))
    assert digest_of_bytes(b"".join(path.read_bytes() for path in files)) == DIGEST
