"""What the ledger keeps: records of finished steps, failed attempts, releases, protections and retirements. Values only.

A record is never rewritten, and its digest is signed: a field that was added later is left out of its bytes at its default
(``exclude_if``), so that what was written before keeps its digest. What a record says of bytes is what the control plane
hashed, not what the step claimed.
"""

from collections.abc import Mapping
from operator import not_
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from forge.contract.kinds import StepKind
from forge.contract.messages import Continued, FailureCause

_Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
_Commit = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
_Subject = Annotated[str, Field(pattern=r"^[A-Z][A-Za-z]*/[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", max_length=300)]
"""``Kind/name``; it becomes a path of the ledger's tree."""


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True, allow_inf_nan=False)


class Spent(_Value):
    """Time and money of one step."""

    seconds: float
    cost: float | None = None
    """In the currency of forge.toml; None where no price is known."""


class Record(_Value):
    """A finished step."""

    kind: Literal["record"] = "record"
    key: _Digest
    step: StepKind
    step_version: int
    step_id: str
    """``KIND/NAME``: the place in the step graph, the same for every commit."""
    subject: str
    parameters: dict[str, Any]
    inputs: dict[str, _Digest]
    """Product name -> artifact digest."""
    products: dict[str, _Digest]
    """Product name -> artifact digest."""
    sources: dict[str, dict[str, str]] = {}
    """Input name -> file in the artifact -> path in the repository at ``commit``; for inputs that no step made."""
    metrics: dict[str, float | int | str] = {}
    commit: _Commit
    attempt: int
    started: str
    finished: str
    environment: dict[str, str]
    estimate: Spent | None = None
    actual: Spent
    attestations: dict[str, _Digest]
    """``link``, ``provenance`` or ``test-result``, ``weights-signature`` -> digest of the attestation's bytes."""
    supersedes: _Digest | None = None
    """Digest of the entry whose products this record replaces (the artifact was lost and the step gave other bytes)."""
    byproducts: dict[str, _Digest] = Field(default={}, exclude_if=not_)
    """By-product name -> artifact digest. The artifact may be gone: nothing but a continuation reads it."""
    continued: Continued | None = Field(default=None, exclude_if=not_)
    """The run that this one continued; None for a run from scratch."""


class Attempt(_Value):
    """A step that failed; it made nothing, and is kept so that nobody has to guess."""

    kind: Literal["attempt"] = "attempt"
    key: _Digest
    step: StepKind
    step_id: str
    subject: str
    commit: _Commit
    attempt: int
    cause: FailureCause
    message: str
    seconds: float
    byproducts: dict[str, _Digest] = Field(default={}, exclude_if=not_)
    """By-product name -> artifact digest: the checkpoint of a run that was superseded while it trained."""


class Release(_Value):
    """A move of an environment's pointer."""

    kind: Literal["release"] = "release"
    environment: str
    deployment: str
    release: _Digest
    """Digest of the release artifact."""
    key: _Digest
    """Key of the release step that made it."""
    commit: _Commit
    moved: str
    """UTC, RFC 3339."""
    attestations: dict[str, _Digest] = {}


class Protection(_Value):
    """A resource is protected from now on, or no longer; it holds when the resource's file is gone."""

    kind: Literal["protection"] = "protection"
    subject: _Subject
    protected: bool
    commit: _Commit
    attestations: dict[str, _Digest] = {}


class Retirement(_Value):
    """A resource left the desired state; nothing is deleted. A retired Deployment's environment serves nothing."""

    kind: Literal["retirement"] = "retirement"
    subject: _Subject
    environment: str | None = None
    """The environment of a Deployment; None for every other kind."""
    commit: _Commit
    moved: str
    """UTC, RFC 3339."""
    attestations: dict[str, _Digest] = {}


class Made(NamedTuple):
    """What planning asks of a record, as the ledger's index keeps it; never evidence. A tuple: a plan reads twenty thousand."""

    key: str
    step_id: str
    subject: str
    commit: str
    step_version: int
    sequence: int
    inputs: Mapping[str, str]
    products: Mapping[str, str]
    byproducts: Mapping[str, str]
    verdict: str | None
    """What a gate said; None for other steps."""
    failed: str
    """The checks that a gate found failed, as its record words them."""
    seconds: float
    cost: float | None


class Pointer(NamedTuple):
    """What an environment serves, as the ledger's index keeps it; never evidence."""

    environment: str
    deployment: str
    release: str
    """Digest of the release artifact."""


class Subject(NamedTuple):
    """A resource that the ledger knows, whether or not a commit still asks for it."""

    address: str
    """``Kind/name``."""
    step_ids: tuple[str, ...]
    """The steps that were recorded for it, sorted."""
    protected: bool
    retired: str | None
    """The commit of a retirement that no later record or release undid."""
