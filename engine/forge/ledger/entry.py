"""One entry of the ledger, and the paths under which it lies in the ledger's tree.

An entry is stored once as an object and listed twice: by sequence number, and by what one looks it up with. Both
listings name the same object id, which the verifier checks.
"""

from functools import cached_property
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from forge.canonical import Digest, canonical_json, digest_of_bytes, hex_of
from forge.contract.record import (
    Approval,
    Attempt,
    Delegation,
    Links,
    Protection,
    Record,
    Release,
    Renaming,
    Reproduction,
    Retirement,
    RootChange,
    Withdrawal,
)

Body = Annotated[
    Record
    | Reproduction
    | Attempt
    | Links
    | Release
    | Protection
    | Renaming
    | Retirement
    | Delegation
    | RootChange
    | Approval
    | Withdrawal,
    Field(discriminator="kind"),
]


class Entry(BaseModel):
    """A body with its place in the chain."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    schema_version: Literal[1] = 1
    sequence: int = Field(ge=1)
    previous: str | None
    """Digest of the bytes of the entry before; None for the first."""
    body: Body

    def to_bytes(self) -> bytes:
        """Canonical bytes; what the next entry's ``previous`` is the digest of."""
        return canonical_json(self.model_dump(mode="json"))

    @cached_property
    def digest(self) -> Digest:
        """The entry's name."""
        return digest_of_bytes(self.to_bytes())


DELEGATIONS = "trust/delegations"
ROOTS = "trust/roots"
APPROVALS = "approvals"
RELEASES = "releases"
FOLDERS = (
    APPROVALS,
    "attempts",
    "entries",
    "keys",
    "links",
    RELEASES,
    "reproductions",
    "steps",
    "subjects",
    "trust",
    "withdrawals",
)
"""Where entries lie and are listed; attestations lie beside them."""


def sequence_path(sequence: int) -> str:
    """``entries/000/000/042.json``."""
    digits = f"{sequence:09d}"
    return f"entries/{digits[:3]}/{digits[3:6]}/{digits[6:]}.json"


def key_folder(key: str) -> str:
    """Where the records of a step key lie."""
    name = hex_of(key)
    return f"keys/{name[:2]}/{name[2:4]}/{name}"


def reproduction_folder(key: str) -> str:
    """Where the reproductions of the records of a step key lie."""
    return f"reproductions/{key_folder(key).removeprefix('keys/')}"


def links_folder(deployment: str) -> str:
    """Where the links lie that roles signed for the releases of a deployment."""
    return f"links/{deployment}"


def attestation_path(digest: str) -> str:
    """Where an attestation's bytes lie."""
    name = hex_of(digest)
    return f"attestations/{name[:2]}/{name}.json"


def withdrawal_folder(subject: str) -> str:
    """Where the withdrawals of a subject lie; by a digest, because a subject is no path."""
    return f"withdrawals/{hex_of(digest_of_bytes(subject.encode()))}"


def index_paths(entry: Entry) -> list[str]:  # noqa: PLR0911 (one per kind of body)
    """The look-up paths of an entry, besides its sequence path."""
    name = f"{entry.sequence:09d}.json"
    match entry.body:
        case Record() as record:
            return [f"{key_folder(record.key)}/{name}", f"steps/{record.step_id}/{name}"]
        case Reproduction() as reproduction:
            return [f"{reproduction_folder(reproduction.key)}/{name}"]
        case Attempt() as attempt:
            return [f"attempts/{attempt.step_id}/{name}"]
        case Links() as links:
            return [f"{links_folder(links.deployment)}/{name}"]
        case Release() as release:
            return [f"{RELEASES}/{release.environment}/{name}"]
        case Protection() | Renaming() | Retirement() as note:
            return [f"subjects/{note.subject}/{name}"]
        case Delegation():
            return [f"{DELEGATIONS}/{name}"]
        case RootChange():
            return [f"{ROOTS}/{name}"]
        case Approval() as approval:
            return [f"{APPROVALS}/{approval.subject}/{name}"]
        case Withdrawal() as withdrawal:
            return [f"{withdrawal_folder(withdrawal.subject)}/{name}"]
