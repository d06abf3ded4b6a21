"""What is signed is what the formats say: read by in-toto's own libraries, not by ours."""

import base64
import json
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from in_toto.models.link import Link
from in_toto.models.metadata import Metadata
from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import Provenance
from in_toto_attestation.v1.statement import Statement
from in_toto_attestation.v1.statement_pb2 import Statement as StatementMessage

from forge.attest.trust import read_trust_root
from forge.contract.kinds import STEPS
from forge.contract.record import Record
from forge.ledger.ledger import Ledger
from forge.repo.repository import Repository


def attestations(folder: Path, name: str) -> list[tuple[Record, bytes]]:
    with Repository(folder) as repository:
        snapshot = Ledger(repository, "refs/forge/ledger").snapshot()
        entries = [snapshot.entry(number) for number in range(1, snapshot.head[0] + 1)]
        records = [entry.body for entry in entries if entry and isinstance(entry.body, Record)]
        return [(r, snapshot.attestation(r.attestations[name])) for r in records if name in r.attestations]


def payload(envelope: bytes) -> dict[str, Any]:
    return dict(json.loads(base64.b64decode(json.loads(envelope)["payload"])))


def test_in_toto_reads_and_verifies_every_link(applied: Path, config_home: Path, tmp_path: Path) -> None:
    root = read_trust_root(config_home)
    links = attestations(applied, "link")
    assert len(links) == 7
    for record, envelope in links:
        file = tmp_path / "step.link"
        file.write_bytes(envelope)
        metadata = Metadata.load(str(file))
        (key,) = root.roles[STEPS[record.step].role]
        public = {"keyid": key.keyid, "keytype": key.keytype, "scheme": key.scheme, "keyval": {"public": key.public}}
        metadata.verify_signature(public)
        link = metadata.get_payload()
        assert isinstance(link, Link)
        assert link.name == record.step_id
        assert link.products


def test_products_and_materials_have_the_same_path_wherever_they_are_named(applied: Path) -> None:
    """What a layout's MATCH rules rest on."""
    links = [payload(envelope) for _, envelope in attestations(applied, "link")]
    products = {path: digest for link in links for path, digest in link["products"].items()}
    for link in links:
        for path, digest in link["materials"].items():
            assert path.startswith("commit/") or products[path] == digest, path


def test_in_toto_attestation_reads_every_statement(applied: Path) -> None:
    provenances, results = attestations(applied, "provenance"), attestations(applied, "test-result")
    assert (len(provenances), len(results)) == (6, 1)
    for _, envelope in [*provenances, *results]:
        statement = Statement.copy_from_pb(json_format.ParseDict(payload(envelope), StatementMessage()))
        statement.validate()
    for _, envelope in provenances:
        predicate = json_format.ParseDict(payload(envelope)["predicate"], Provenance())  # refuses an unknown field
        assert predicate.build_definition.build_type.startswith("urn:forge:step:")
