"""What a serving agent says of itself: signed, published under ``refs/forge/status/ENVIRONMENT``, read by the controller.

Invariant: it is a claim of the agent, about this moment. Whether it still holds is for the reader to judge, by his own clock:
a living agent says it anew at least once a minute.
"""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from forge.canonical import canonical_json
from forge.spec.fields import Name

SCHEMA_VERSION = 1
LONGEST_SILENCE_SECONDS = 60.0
"""A living agent publishes at least this often."""
_Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]


class AgentState(StrEnum):
    """What the agent can do for its callers at the moment."""

    STARTING = "starting"
    """The gateway listens and answers 503; the engine has not been healthy yet."""
    READY = "ready"
    """Requests are answered by the release that the environment's pointer names."""
    SWITCHING = "switching"
    """The pointer has moved and the next release is on its way; until then the one before it serves, where one can."""
    DEGRADED = "degraded"
    """Something is at fault, which ``reason`` names: the engine is away, the next release was refused, or the pointer cannot
    be read. What can still be served is served."""
    RETIRED = "retired"
    """The environment is retired: the gateway answers 503, no engine runs, and the agent waits for a later release."""
    WITHDRAWN = "withdrawn"
    """The release that was served descends from something withdrawn: the engine has ended, the gateway answers 503, and the
    agent waits for another release, or for the withdrawal to be lifted."""
    STOPPED = "stopped"
    """The agent has ended, and with it everything that it started."""


class AgentStatus(BaseModel):
    """One agent's state."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    schema_version: Literal[1] = 1
    environment: Name
    deployment: Name
    model: Name
    release: _Digest | None
    """The release that requests are answered by, as far as the engine is up; None where nothing is served any more."""
    weights: _Digest | None
    policy: _Digest | None
    """Digest of the artifact whose limits, keys, access rules and redactions new requests meet."""
    wanted: _Digest | None
    """The release that the pointer names, as the agent last read it; another than ``release`` until the switch is made."""
    state: AgentState
    is_serving: bool
    """Whether a request would be answered now."""
    reason: Annotated[str, Field(max_length=4000)] | None = None
    time: str
    """UTC, RFC 3339, on the agent's clock: when it said so."""
    since: str
    """The same: when the state, its reason or the release last changed."""
    engine_restarts: Annotated[int, Field(ge=0)]
    agent: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    """Of this run of this agent; another one after a restart."""
    host: Annotated[str, Field(max_length=255)]
    beat: Annotated[int, Field(ge=1, lt=2**53)]
    """Counts what this run has said: one that goes back was said before."""

    def to_bytes(self) -> bytes:
        """The canonical bytes, which are signed."""
        return canonical_json(self.model_dump(mode="json"))
