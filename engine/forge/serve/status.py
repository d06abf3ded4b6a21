"""The agent's status for this machine: one JSON file, replaced as a whole at every change, so that a reader never sees half.

It is neither signed nor believed by anyone; ``forge.serve.publish`` tells others.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from forge.contract.status import AgentState

SCHEMA_VERSION = 1


def write_status(path: Path, state: AgentState, fields: Mapping[str, Any]) -> None:
    """Replace the status file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    content = {"schema_version": SCHEMA_VERSION, "state": state.value, **fields}
    temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)
