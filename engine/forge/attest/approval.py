"""What an approver signs, and the form in which it is kept: the statement, and the person's SSH signature over its bytes."""

import base64
import json
from typing import Any

from forge.attest.ssh import APPROVAL_NAMESPACE, ssh_signer
from forge.attest.statements import STATEMENT_TYPE
from forge.canonical import canonical_json, hex_of
from forge.contract.record import Approval
from forge.errors import TrustError

APPROVAL_TYPE = "urn:forge:approval:v1"
APPROVED_PLAN = "plan"
"""The name under which an approval of a plan lists the plan file."""


def approval_statement(approval: Approval) -> bytes:
    """The bytes that the person signs: an in-toto statement about the weights, or about the plan."""
    return canonical_json(
        {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": approval.subject, "digest": {"sha256": hex_of(approval.digest)}}],
            "predicateType": APPROVAL_TYPE,
            "predicate": approval.model_dump(mode="json", exclude={"attestations"}),
        }
    )


def pack(statement: bytes, signature: str) -> bytes:
    """Statement and signature as one attestation."""
    return canonical_json(
        {
            "schema_version": 1,
            "statement": base64.b64encode(statement).decode(),
            "namespace": APPROVAL_NAMESPACE,
            "sshsig": signature,
        }
    )


def unpack(data: bytes) -> tuple[bytes, str]:
    """The inverse of ``pack``; raises TrustError for anything else."""
    try:
        document: dict[str, Any] = json.loads(data)
        statement = base64.b64decode(document["statement"], validate=True)
        signature = str(document["sshsig"])
    except (ValueError, KeyError, TypeError) as error:
        raise TrustError(f"not a signed approval: {error!r}") from error
    if pack(statement, signature) != data:
        raise TrustError("a signed approval that is not in its canonical form")
    return statement, signature


def approved_by(approval: Approval, data: bytes) -> str:
    """``TYPE BASE64`` of the SSH key that signed exactly this approval; raises TrustError where none did."""
    statement, signature = unpack(data)
    if statement != approval_statement(approval):
        raise TrustError("what was signed is not what the ledger's approval says")
    return ssh_signer(statement, signature, APPROVAL_NAMESPACE)
