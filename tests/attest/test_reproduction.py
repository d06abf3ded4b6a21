"""What is signed for a reproduction: the record's materials and products, and a run of its own, in bytes that stay."""

import json

import pytest
from tests.attest.test_golden import FOLDER, entry

from forge.attest.reproduction import digest_of_reproduction, reproduction_payloads
from forge.attest.statements import payloads_of
from forge.canonical import digest_of_bytes
from forge.contract.kinds import StepKind
from forge.contract.manifest import Manifest
from forge.contract.messages import Continued, Hardware
from forge.contract.record import Record, Reproduction
from forge.ledger.entry import Entry, index_paths

SIGNED = {
    "train": "sha256:9b91cef961cb52cbc2581d33c009e0641c7040ebef98e7f481e7c4783e67bf10",
    "evaluate": "sha256:dfa2a351b3bd348cd1bf76875e4d86049d5438340a42213b059064f3f1f50e8f",
    "gate": "sha256:c78b16b5395d19f5d86b4cf405a815b82222dd478ba1cd969d75f2073fd62c23",
}
"""Of link and provenance together: whoever changes them has changed what is signed, and every ledger that holds one."""


def recorded(name: str) -> tuple[Entry, Record]:
    found = entry(name)
    assert isinstance(found.body, Record)
    return found, found.body


def reproduction_of(name: str) -> Reproduction:
    found, record = recorded(name)
    return Reproduction(
        record=found.digest,
        key=record.key,
        step=record.step,
        step_id=record.step_id,
        products=record.products,
        attempt=3,
        started="2026-11-27T12:00:00.000+00:00",
        finished="2026-11-27T12:00:01.000+00:00",
        environment={"forge": "0.1.0", "threads": "1"},
        lock=f"sha256:{'a' * 64}",
        hardware=Hardware(cpu="A processor", cores=2, memory_bytes=1),
    )


def payloads(name: str, record: Record | None = None) -> dict[str, bytes]:
    manifests = {
        item.digest: item for item in map(Manifest.model_validate, json.loads((FOLDER / "manifests.json").read_text()))
    }
    producers = json.loads((FOLDER / "producers.json").read_text())[name]
    return reproduction_payloads(reproduction_of(name), record or recorded(name)[1], manifests, producers)


@pytest.mark.parametrize("name", ["train", "evaluate", "gate"])
def test_the_link_has_the_materials_and_products_of_the_record(name: str) -> None:
    made, record = payloads(name), recorded(name)[1]
    assert set(made) == {"link", "provenance"}
    link, first = json.loads(made["link"]), json.loads((FOLDER / f"{name}.link.json").read_text())
    for part in ("materials", "products"):
        assert link[part] == {path: found for path, found in first[part].items() if not path.startswith("byproduct/")}
    assert link["environment"] == {"forge": "0.1.0", "threads": "1"}
    digest = digest_of_reproduction(reproduction_of(name))
    assert link["byproducts"] == {"return-value": 0, "reproduction": digest}
    provenance = json.loads(made["provenance"])
    run = provenance["predicate"]["runDetails"]
    assert run["metadata"]["startedOn"] == "2026-11-27T12:00:00.000+00:00"
    assert run["byproducts"] == [{"name": "reproduction", "digest": {"sha256": digest.removeprefix("sha256:")}}]
    assert provenance["predicate"]["buildDefinition"]["internalParameters"]["hardware"]["cpu"] == "A processor"
    assert {item["digest"]["sha256"] for item in provenance["subject"]} == {
        digest.removeprefix("sha256:") for digest in record.products.values()
    }
    assert digest_of_bytes(made["link"] + made["provenance"]) == SIGNED[name]


def test_nothing_of_the_first_run_is_said_again() -> None:
    """What it went on from, what it left, what it cost, what it measured: a reproduction is a run from the first step."""
    _, record = recorded("train")
    digest = f"sha256:{'b' * 64}"
    other = record.model_copy(
        update={
            "continued": Continued(key=digest, checkpoint=digest, tokens=1),
            "byproducts": {"checkpoint": digest},
            "metrics": {"loss": 9.0},
            "started": "2020-01-01T00:00:00.000+00:00",
            "environment": {"forge": "0.0.1"},
            "attempt": 9,
        }
    )
    assert payloads("train", other) == payloads("train")


def test_a_record_and_a_reproduction_are_never_taken_for_each_other() -> None:
    _, record = recorded("train")
    made = payloads("train")
    manifests = {
        item.digest: item for item in map(Manifest.model_validate, json.loads((FOLDER / "manifests.json").read_text()))
    }
    producers = json.loads((FOLDER / "producers.json").read_text())["train"]
    assert not set(made.values()) & set(payloads_of(record, manifests, producers, {}).values())


def test_an_entry_lies_under_the_step_key() -> None:
    body = reproduction_of("gate")
    found = Entry(sequence=7, previous=None, body=body)
    name = body.key.removeprefix("sha256:")
    assert index_paths(found) == [f"reproductions/{name[:2]}/{name[2:4]}/{name}/000000007.json"]
    assert Entry.model_validate_json(found.to_bytes()) == found
    assert body.step is StepKind.GATE
