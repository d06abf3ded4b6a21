"""The agent's status: one JSON file, replaced as a whole at every change, so that a reader never sees half of it."""

import json
import os
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

SCHEMA_VERSION = 1


class AgentState(StrEnum):
    """What the agent can do for its callers at the moment."""

    STARTING = "starting"
    """The gateway listens and answers 503; the engine has not been healthy yet."""
    READY = "ready"
    """Requests are answered."""
    DEGRADED = "degraded"
    """The engine died or hung and is being started again; the gateway answers 503."""
    STOPPED = "stopped"
    """The agent has ended, and with it everything that it started."""


def write_status(path: Path, state: AgentState, fields: Mapping[str, Any]) -> None:
    """Replace the status file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    content = {"schema_version": SCHEMA_VERSION, "state": state.value, **fields}
    temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)
