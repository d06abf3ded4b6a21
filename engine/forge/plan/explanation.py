"""A chain of why as a value, and its two forms: text for people, JSON for programs."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Told:
    """What is said of one step, or of one resource."""

    id: str
    action: str | None
    """What is done about it; None for a resource that no step makes anything of."""
    depth: int
    """How many others lead to it, from what was asked about."""
    said: tuple[str, ...] = ()
    """One line each, those that belong to the line before them indented by two blanks."""
    is_told_above: bool = False


@dataclass(frozen=True)
class Chain:
    """One step that was asked about, and after it those that it comes from."""

    told: tuple[Told, ...]
    decided_after: tuple[str, ...] = ()
    """Ids of the steps that are decided after the first one."""


@dataclass(frozen=True)
class Explanation:
    """Why a step, or all steps of a resource, would or would not run."""

    commit: str | None
    name: str
    """What was asked about."""
    chains: tuple[Chain, ...]


def to_text(explanation: Explanation) -> str:
    """For a terminal; each step is indented by how many others lead to it."""
    return "\n".join(line for chain in explanation.chains for line in _lines(chain)) + "\n"


def to_json(explanation: Explanation) -> str:
    """Data for programs; stable keys, one trailing newline. The sentences are for people, the reasons are in the plan."""
    return json.dumps({"schema_version": SCHEMA_VERSION, **asdict(explanation)}, indent=2, sort_keys=True) + "\n"


def _lines(chain: Chain) -> Iterator[str]:
    for told in chain.told:
        indent, above = "  " * told.depth, " (told above)" if told.is_told_above else ""
        yield f"{indent}{told.id}: {told.action}{above}" if told.action is not None else f"{indent}{told.id}"
        yield from (f"{indent}  {line}" for line in told.said)
    if chain.decided_after:
        yield f"  what reads it and is decided after it: {', '.join(chain.decided_after)}"
