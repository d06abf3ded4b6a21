"""JSON Schemas of the predicates that are our own, made from the types that are signed.

They lie in docs/schemas, so that a reader needs no Forge to have them; ``python -m forge.attest.schemas FOLDER`` writes
them, and a test fails where the two differ. A predicate that comes later is one more line of ``PREDICATES``.
"""

import json
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from forge.attest.approval import APPROVAL_TYPE
from forge.attest.delegation import DELEGATION_TYPE
from forge.attest.statements import RELEASE_TYPE, RETIREMENT_TYPE, WITHDRAWAL_TYPE
from forge.contract.record import Approval, Delegation, Release, Retirement, Withdrawal

PREDICATES: dict[str, type[BaseModel]] = {
    RELEASE_TYPE: Release,
    RETIREMENT_TYPE: Retirement,
    DELEGATION_TYPE: Delegation,
    APPROVAL_TYPE: Approval,
    WITHDRAWAL_TYPE: Withdrawal,
}
"""Predicate type -> the value whose JSON is the predicate, its attestations left out."""


def schema_of(predicate_type: str) -> dict[str, Any]:
    """The JSON Schema (2020-12) of a predicate."""
    schema = PREDICATES[predicate_type].model_json_schema(mode="serialization")
    schema["properties"].pop("attestations", None)
    schema["required"] = sorted({"kind", *schema["required"]} - {"attestations"})
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": predicate_type, **schema}


def file_name(predicate_type: str) -> str:
    """``urn:forge:release:v1`` -> ``release-v1.json``."""
    return predicate_type.removeprefix("urn:forge:").replace(":", "-") + ".json"


def main(folder: Path) -> None:
    """Write every schema to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for predicate_type in PREDICATES:
        text = json.dumps(schema_of(predicate_type), indent=2, sort_keys=True) + "\n"
        (folder / file_name(predicate_type)).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
