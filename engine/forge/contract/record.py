"""What the ledger keeps: records of finished steps, failed attempts, and releases. Values only.

A record is never rewritten. What it says of bytes is what the control plane hashed, not what the step claimed.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from forge.contract.kinds import StepKind
from forge.contract.messages import FailureCause


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Spent(_Value):
    """Time and money of one step."""

    seconds: float
    cost: float | None = None
    """In the currency of forge.toml; None where no price is known."""


class Record(_Value):
    """A finished step."""

    kind: Literal["record"] = "record"
    key: str
    step: StepKind
    step_version: int
    step_id: str
    """``KIND/NAME``: the place in the step graph, the same for every commit."""
    subject: str
    parameters: dict[str, Any]
    inputs: dict[str, str]
    """Product name -> artifact digest."""
    products: dict[str, str]
    """Product name -> artifact digest."""
    sources: dict[str, dict[str, str]] = {}
    """Input name -> file in the artifact -> path in the repository at ``commit``; for inputs that no step made."""
    metrics: dict[str, float | int | str] = {}
    commit: str
    attempt: int
    started: str
    finished: str
    environment: dict[str, str]
    estimate: Spent | None = None
    actual: Spent
    attestations: dict[str, str]
    """``link``, ``provenance`` or ``test-result``, ``weights-signature`` -> digest of the attestation's bytes."""
    supersedes: str | None = None
    """Digest of the entry whose products this record replaces (the artifact was lost and the step gave other bytes)."""


class Attempt(_Value):
    """A step that failed; it made nothing, and is kept so that nobody has to guess."""

    kind: Literal["attempt"] = "attempt"
    key: str
    step: StepKind
    step_id: str
    subject: str
    commit: str
    attempt: int
    cause: FailureCause
    message: str
    seconds: float


class Release(_Value):
    """A move of an environment's pointer."""

    kind: Literal["release"] = "release"
    environment: str
    deployment: str
    release: str
    """Digest of the release artifact."""
    key: str
    """Key of the release step that made it."""
    commit: str
    moved: str
    """UTC, RFC 3339."""
    attestations: dict[str, str] = {}
