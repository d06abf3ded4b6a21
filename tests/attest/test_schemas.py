"""The schemas that lie in docs/schemas are those of what is signed."""

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from tests.attest.test_formats import payload
from tests.conftest import ROOT, new_repository, run_forge
from tests.governed import commit_as, make_governed, write_approved

from forge.attest.approval import unpack
from forge.attest.schemas import PREDICATES, file_name, main
from forge.ledger.ledger import Ledger
from forge.repo.repository import Repository

FOLDER = ROOT / "docs" / "schemas"
GOLDEN = Path(__file__).parent / "golden"


def schema(predicate_type: str) -> Draft202012Validator:
    document = json.loads((FOLDER / file_name(predicate_type)).read_text())
    Draft202012Validator.check_schema(document)
    return Draft202012Validator(document)


def test_they_are_the_ones_that_the_types_give(tmp_path: Path) -> None:
    """Remedy: python -m forge.attest.schemas docs/schemas"""
    main(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in FOLDER.glob("*-v*.json"))
    for path in tmp_path.iterdir():
        assert path.read_text() == (FOLDER / path.name).read_text()


def opened(name: str, signed: bytes) -> dict[str, Any]:
    """The statement inside an envelope, or inside what a person's SSH key signed."""
    return dict(json.loads(unpack(signed)[0])) if name == "approval" else payload(signed)


def statements_of_ours(folder: Path) -> list[dict[str, Any]]:
    with Repository(folder) as repository:
        snapshot = Ledger(repository, "refs/forge/ledger").snapshot()
        found = [
            opened(name, snapshot.attestation(digest))
            for number in range(1, snapshot.head[0] + 1)
            for name, digest in getattr(snapshot.entry(number).body, "attestations", {}).items()  # type: ignore[union-attr]
            if name != "weights-signature" and not name.startswith("layout-")
        ]
    return [statement for statement in found if statement.get("predicateType") in PREDICATES]


def test_what_a_real_chain_signed_fits(applied: Path) -> None:
    found = statements_of_ours(applied)
    assert [statement["predicateType"] for statement in found] == ["urn:forge:release:v1"]
    for statement in found:
        schema(statement["predicateType"]).validate(statement["predicate"])
        assert statement["predicate"]["statements"] == 2


def test_what_people_the_root_and_a_withdrawal_signed_fits(tmp_path: Path, applied: Path) -> None:
    governed = make_governed(tmp_path)
    folder = new_repository(tmp_path / "repository")
    write_approved(folder, governed, applied)
    withdrawn = {"withdrawn": [{"subject": "Model/elsewhere", "reason": "why", "serving": "stop"}]}
    document = {"apiVersion": "forge/v1", "kind": "Withdrawals", "metadata": {"name": "withdrawn"}, "spec": withdrawn}
    (folder / "policies" / "withdrawn.yaml").write_text(json.dumps(document))
    commit_as(folder, governed, "cleo", "withdraw")
    run_forge(folder, governed.config, "apply", code=None)
    found = statements_of_ours(folder)
    kinds = {statement["predicate"]["kind"] for statement in found}
    assert {"delegation", "approval", "withdrawal"} <= kinds
    for statement in found:
        schema(statement["predicateType"]).validate(statement["predicate"])
        with pytest.raises(ValidationError):
            schema(statement["predicateType"]).validate({**statement["predicate"], "extra": 1})


@pytest.mark.parametrize("name", ["release", "retirement"])
def test_what_was_signed_before_fits_too(name: str) -> None:
    statement = json.loads((GOLDEN / f"{name}.statement.json").read_bytes())
    schema(statement["predicateType"]).validate(statement["predicate"])


@pytest.mark.parametrize(
    "change", [{"extra": 1}, {"release": "sha256:no"}, {"statements": 3}, {"kind": "record"}, {"commit": None}]
)
def test_what_was_not_meant_does_not_fit(change: dict[str, object]) -> None:
    statement = json.loads((GOLDEN / "release.statement.json").read_bytes())
    with pytest.raises(ValidationError):
        schema(statement["predicateType"]).validate({**statement["predicate"], **change})
