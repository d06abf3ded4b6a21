"""A lease: who is at a step now. One blob under ``refs/forge/leases/<step key>``, in canonical JSON.

The token is the fence: it comes from a counter that only grows. A successor's is higher; whoever holds a lower one is stale.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from rfc8785 import CanonicalizationError

from forge.canonical import canonical_json, hex_of
from forge.errors import LedgerError, RefusedError, printable
from forge.ledger.refs import LEASE_REFS
from forge.repo.repository import object_id

TOKEN_REF = "refs/forge/lease-token"  # noqa: S105 (a counter, not a secret)
SCHEMA_VERSION = 1


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class Holder(_Value):
    """Who holds a lease."""

    id: str
    """Of this run; a process number is used again, this is not."""
    host: str
    pid: int


class Lease(_Value):
    """A lease as it stood at one beat; its bytes, and so its object id, differ from every other beat's."""

    schema_version: Literal[1] = 1
    key: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
    step_id: str
    commit: str
    holder: Holder
    token: Annotated[int, Field(ge=1, lt=10**15)]
    beat: Annotated[int, Field(ge=0)] = 0
    recorded: Annotated[int, Field(ge=0)] = 0
    """Number of the entry that recorded the key when the lease was taken, 0 for none: only a later one overrides the lease."""
    handle: dict[str, str] = {}
    """What the executor finds its job again by."""
    superseded_by: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = None
    """A commit that asks for another run in this one's place: its runner asks the holder to stop. Absent where nobody does."""

    @property
    def ref(self) -> str:
        """Where it lies."""
        return lease_ref(self.key)

    def to_bytes(self) -> bytes:
        """Canonical bytes."""
        left_out = {"superseded_by"} if self.superseded_by is None else None
        return canonical_json(self.model_dump(mode="json", exclude=left_out))

    @property
    def object_id(self) -> str:
        """The name that Git gives these bytes; what a compare-and-swap compares."""
        return object_id("blob", self.to_bytes())

    def is_of(self, other: "Lease") -> bool:
        """Whether both are beats of one holding."""
        return (self.token, self.holder.id) == (other.token, other.holder.id)

    def __str__(self) -> str:
        who = printable(f"process {self.holder.pid} on {self.holder.host}")
        return f"{printable(self.step_id)}, held by {who} (token {self.token}, beat {self.beat})"


class Counter(_Value):
    """The last token that was given out."""

    schema_version: Literal[1] = 1
    draw: str
    """Of this drawing alone: two who draw the same number must not write the same bytes, for a push of what is there already is
    no conflict to git."""
    token: Annotated[int, Field(ge=0, lt=10**15)]

    def to_bytes(self) -> bytes:
        """Canonical bytes."""
        return canonical_json(self.model_dump(mode="json"))


class LeaseHeldError(RefusedError):
    """Somebody else holds the lease."""

    def __init__(self, lease: Lease) -> None:
        self.lease = lease
        super().__init__(
            f"the lease is taken: {lease}. Wait for it, or take it over once it has not moved for its time to live"
        )


class LeaseLostError(RefusedError):
    """A lease is not ours any more."""


class AlreadyRecordedError(RefusedError):
    """A step for which a lease is asked was recorded since the plan was made."""


class StaleLeaseError(RefusedError):
    """A result comes from a holder whose lease has ended or was taken over; it is not recorded."""


class MalformedLeaseError(LedgerError):
    """What lies under a lease's ref is no lease that this engine reads."""


def lease_ref(key: str) -> str:
    """Where the lease of a step key lies."""
    return LEASE_REFS + hex_of(key)


def parse_lease(ref: str, data: bytes, removal: str) -> Lease:
    """A lease from its blob; raises MalformedLeaseError, which says how to remove it (``removal``)."""
    try:
        lease = Lease.model_validate_json(data)
        fault = None if lease.to_bytes() == data else "it is not in its canonical form"
        if lease.ref != ref:
            fault = f"it is the lease of {lease.key}"
    except ValidationError as error:
        found = error.errors()[0]
        place = ".".join(str(part) for part in found["loc"])
        fault = f"{place}: {found['msg']}" if place else found["msg"]
    except CanonicalizationError as error:
        fault = str(error)
    if fault is not None:
        raise malformed(ref, fault, removal)
    return lease


def malformed(ref: str, fault: str, removal: str) -> MalformedLeaseError:
    """The error for a lease ref that holds something else."""
    return MalformedLeaseError(
        f"{ref} holds no lease that this engine reads: {printable(fault)}. Another engine version may hold it; "
        f"when nobody does, remove it: {removal}"
    )
