"""May a serving agent's status be believed? The signature, the place and the form are checked; nothing raises.

A status that is signed by another role's key, or that was said of another environment and put here, is a fault, and so is one
that this engine cannot read. A fault is a value: a controller goes on with the other environments. That an agent is dead no
signature shows: ``StatusWatch`` tells it by the reader's own clock.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from pydantic import ValidationError

from forge.attest.authority import Signers
from forge.attest.envelope import unseal
from forge.attest.statements import STATUS_PAYLOAD_TYPE
from forge.contract.status import LONGEST_SILENCE_SECONDS, SCHEMA_VERSION, AgentStatus
from forge.errors import LedgerError, TrustError, printable
from forge.ledger.refs import Refs
from forge.ledger.status import published, status_ref
from forge.repo.repository import Repository

SILENT_SECONDS = 3 * LONGEST_SILENCE_SECONDS
"""A status that stood still for so long is a dead agent's: one beat may be late, and one may be lost."""
_MOST_BYTES = 65_536


class StatusFault(StrEnum):
    """Why there is no status to go by."""

    ABSENT = "absent"
    """No agent of this environment has ever published here."""
    UNREADABLE = "unreadable"
    """The object cannot be read, or is no status."""
    UNTRUSTED = "untrusted"
    """No key that the trust root gives to the role agent signed it."""
    MISPLACED = "misplaced"
    """It was said of another environment."""
    NEWER = "newer"
    """It has a schema version that this engine does not know."""


@dataclass(frozen=True)
class StatusReading:
    """What was found for one environment: a status, or why there is none."""

    environment: str
    status: AgentStatus | None = None
    fault: StatusFault | None = None
    message: str = ""
    """The fault for people: names the ref, what was found and what to do. One printable line."""


def read_status(refs: Refs, repository: Repository, environment: str, signers: Signers) -> StatusReading:
    """The status of an environment's agent, as last learnt (``refs.refresh()`` asks a remote first).

    ``signers``: the agents' keys as of now (``Authority.signers``).
    """
    try:
        found = published(refs, repository, environment)
    except LedgerError as error:
        return _fault(environment, StatusFault.UNREADABLE, f"{error}. A living agent replaces it within a minute")
    ref = status_ref(environment)
    if found is None:
        return _fault(environment, StatusFault.ABSENT, f"{ref}: no agent has published: is `forge serve` running?")
    return judge_status(environment, found[1], signers)


def judge_status(environment: str, data: bytes, signers: Signers) -> StatusReading:
    """Judge the bytes that lie under an environment's ref."""
    ref = status_ref(environment)
    if len(data) > _MOST_BYTES:
        return _fault(environment, StatusFault.UNREADABLE, f"{ref}: no status: {len(data)} bytes, at most {_MOST_BYTES}")
    try:
        payload = unseal(data, signers, ref, STATUS_PAYLOAD_TYPE)
    except TrustError as error:
        remedy = "pin the root that lists the agent's key, or run `forge keys init` where the agent runs, for development"
        return _fault(environment, StatusFault.UNTRUSTED, f"{error}. If that is the agent's key: {remedy}")
    try:
        version = _version(payload)
        if version > SCHEMA_VERSION:
            message = f"{ref}: schema version {version}; this engine reads up to {SCHEMA_VERSION}: upgrade it"
            return _fault(environment, StatusFault.NEWER, message)
        status = AgentStatus.model_validate_json(payload)
        if status.to_bytes() != payload:
            raise ValueError("it is not in its canonical form")
    except (ValueError, TypeError, RecursionError) as error:
        return _fault(
            environment, StatusFault.UNREADABLE, f"{ref}: signed, but no status that this engine reads: {_first(error)}"
        )
    if status.environment != environment:
        message = f"{ref}: it is the status of {status.environment!r}, put here by somebody else than its agent"
        return _fault(environment, StatusFault.MISPLACED, message)
    return StatusReading(environment, status)


class StatusWatch:
    """Tells a dead agent from a living one: a status that does not change for a time, on the reader's own clock.

    It also remembers what an agent said last: a run's beats only grow, so an older status that somebody put back does not count
    as a sign of life.
    """

    def __init__(self, silent_seconds: float = SILENT_SECONDS, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._silent_seconds = silent_seconds
        self._monotonic = monotonic
        self._seen: dict[str, tuple[dict[str, int], float]] = {}
        """By environment: the highest beat of each run that was seen, and when one last grew."""

    def is_silent(self, status: AgentStatus) -> bool:
        """Look at a status as it is now; the first look never finds an agent silent, and a stopped one has said so itself."""
        now = self._monotonic()
        beats, since = self._seen.get(status.environment, ({}, now))
        if status.beat > beats.get(status.agent, 0):
            self._seen[status.environment] = {**beats, status.agent: status.beat}, now
            return False
        return now - since >= self._silent_seconds


def _version(payload: bytes) -> int:
    document = json.loads(payload)
    version = document.get("schema_version") if isinstance(document, dict) else None
    if type(version) is not int:
        raise ValueError("it says no schema_version")
    return version


def _first(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    found = error.errors()[0]
    return f"{'.'.join(str(part) for part in found['loc'])}: {found['msg']}"


def _fault(environment: str, fault: StatusFault, message: str) -> StatusReading:
    return StatusReading(environment, None, fault, printable(message)[:2000])
