"""Live state as a value: what is there now, whatever the ledger says. Collected at the edge, judged by the planner."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

from forge.plan.approvals import Given
from forge.plan.reproductions import Count


@dataclass(frozen=True)
class Running:
    """A step that some runner works at, as its lease tells."""

    key: str
    step_id: str
    holder: str
    """For messages: host and process."""
    commit: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    checkpoints: tuple[str, ...] = ()
    """Those that lie on the machine that plans: paths below the run's scratch, as ``newest_checkpoint`` reads them."""
    gives_way: bool = True
    """Whether it stops where the planned commit wants another run: it is the planner's own, or of an earlier commit."""


class _Every(AbstractSet[str]):
    """The set of all digests: it can be asked, and not be listed."""

    def __contains__(self, _digest: object) -> bool:
        return True

    def __iter__(self) -> Iterator[str]:
        raise TypeError("the store was not read: its artifacts cannot be listed")

    def __len__(self) -> int:
        raise TypeError("the store was not read: its artifacts cannot be counted")


EVERY_ARTIFACT: AbstractSet[str] = _Every()
"""For a machine that cannot read the store: what the ledger records is taken to be there."""


@dataclass(frozen=True)
class Live:
    """One look at the world outside the ledger."""

    stored: AbstractSet[str] = frozenset()
    """Digests of the artifacts whose manifest is in the store."""
    corrupt: AbstractSet[str] = frozenset()
    """Digests of those that a read, a verification or a scrub found damaged."""
    running: Mapping[str, Running] = field(default_factory=dict)
    """By step key."""
    stopped: Mapping[str, tuple[Running, ...]] = field(default_factory=dict)
    """By step id: runs that ended without a result on the machine that plans, the newest first."""

    approvals: Mapping[str, tuple[Given, ...]] = field(default_factory=dict)
    """By environment, for those to which nothing is released without approvals."""

    reproductions: Mapping[str, tuple[Count, ...]] = field(default_factory=dict)
    """By environment: how often what its release rests on was carried out, where a role has a threshold and all is recorded."""

    unheld: AbstractSet[str] = frozenset()
    """Subjects whose newest withdrawal, or end of one, does not hold: unsigned, or its commit does not say so."""

    policy: Callable[[str], bytes | None] = field(default=lambda _digest: None, compare=False)
    """The policy in an artifact, so that a reason can name its fields; None where the store does not hold it any more."""

    is_elsewhere: Callable[[str], bool] = field(default=lambda _commit: False, compare=False)
    """Whether a commit is none that the planned one descends from; False where it is not here, and nobody can tell."""

    def has(self, digest: str) -> bool:
        """Whether an artifact can be used."""
        return digest in self.stored and digest not in self.corrupt

    def has_all(self, digests: Iterable[str]) -> bool:
        """Whether each of several artifacts can be used."""
        stored, corrupt = self.stored, self.corrupt  # a loop in the open: planning asks this twenty thousand times
        for digest in digests:  # noqa: SIM110
            if digest not in stored or digest in corrupt:
                return False
        return True


NOTHING_LIVE = Live()
"""An empty world: nothing stored, nothing running."""
