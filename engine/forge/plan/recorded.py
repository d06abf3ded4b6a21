"""What planning asks of the ledger, and what of a commit it is asked about. Types only."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from forge.contract.record import Made, Pointer, Record, Release, Renamed, Subject, Withdrawal

NOW = 1 << 62
"""A place in the ledger after all its entries."""


class Span(NamedTuple):
    """A stretch of the ledger in which records of a step lie under an id."""

    step_id: str
    after: int
    """An entry of the ledger; what lies before it, and itself, are not meant."""
    until: int


class Recorded(Protocol):
    """The ledger, as far as planning asks; an immutable view of one ledger head."""

    def made(self, key: str) -> Made | None:
        """What the authoritative record of a key says of its products."""
        ...

    def made_many(self, keys: Iterable[str]) -> Mapping[str, Made]:
        """The same for many keys; those without a record are left out."""
        ...

    def latest(self, step_id: str) -> Record | None:
        """The newest record under a step id."""
        ...

    def latest_of(self, spans: Iterable[Span]) -> Record | None:
        """The newest record in several stretches of the ledger."""
        ...

    def renamings(self) -> Sequence[Renamed]:
        """Every renaming that the ledger notes, oldest first."""
        ...

    def release(self, environment: str) -> Release | None:
        """What an environment's pointer names."""
        ...

    def releases(self, environment: str) -> tuple[Release, ...]:
        """Every move of an environment's pointer, oldest first."""
        ...

    def pointers(self) -> Mapping[str, Pointer]:
        """What every environment serves, by name."""
        ...

    def charter(self) -> str | None:
        """Digest of the charter that the root signed last."""
        ...

    def subjects(self) -> Mapping[str, Subject]:
        """Every resource that the ledger knows, by address."""
        ...

    def withdrawals(self) -> Mapping[str, Withdrawal]:
        """The newest withdrawal of each subject, by subject; one that is lifted says so."""
        ...

    def signed_by(self, keyid: str) -> frozenset[str]:
        """Step keys of the authoritative records that a key signed."""
        ...


@dataclass(frozen=True)
class Scope:
    """What of the commit a plan is about."""

    target: frozenset[str] = frozenset()
    """Addresses: only the steps of these resources and what they need; empty: everything."""
    force: frozenset[str] = frozenset()
    """Step ids that run although they are recorded."""


EVERYTHING = Scope()
"""The whole commit, nothing forced."""
