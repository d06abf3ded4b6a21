"""What descends from a subject, for people and for programs."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from forge.admission.impact import Impact, Made, Requests
from forge.contract.kinds import StepKind
from forge.contract.record import Withdrawal
from forge.errors import printable

_HEADINGS = {
    StepKind.TRAIN: "models",
    StepKind.EVALUATE: "evaluations",
    StepKind.SWEEP: "choices of searches",
    StepKind.GATE: "gates",
}


def to_data(impact: Impact, withdrawal: Withdrawal | None, unread: Sequence[str], faults: Sequence[str]) -> dict[str, Any]:
    """The JSON form."""
    return {
        "schema_version": 1,
        "subject": impact.subject,
        "withdrawn": withdrawal.model_dump(mode="json") if withdrawal is not None else None,
        "causes": [asdict(cause) for cause in impact.causes],
        "steps": [asdict(step) for step in impact.steps],
        **{heading: [asdict(step) for step in impact.of_kind(kind)] for kind, heading in _HEADINGS.items()},
        "releases": [asdict(served) for served in impact.served],
        "requests": [
            {**asdict(item), "num_answered": len(item.answered), "num_cut_off": len(item.cut_off)} for item in impact.requests
        ],
        "unread_artifacts": list(unread),
        "unread_lines": list(faults),
    }


def to_text(impact: Impact, withdrawal: Withdrawal | None, unread: Sequence[str], faults: Sequence[str]) -> str:
    """The list for a terminal."""
    lines = [line for part in _lines(impact, withdrawal, unread, faults) for line in part.split("\n")]
    return "\n".join(map(printable, lines)) + "\n"


def _lines(impact: Impact, withdrawal: Withdrawal | None, unread: Sequence[str], faults: Sequence[str]) -> Iterator[str]:
    yield f"{impact.subject}: {len(impact.steps)} recorded steps descend from it"
    if withdrawal is not None:
        yield f"withdrawn by commit {withdrawal.commit[:12]} ({withdrawal.serving}): {printable(withdrawal.reason)}"
    else:
        yield "not withdrawn"
    for cause in impact.causes:
        yield f"  named at {printable(cause.step_id)}: {printable(cause.place)}"
    for kind, heading in _HEADINGS.items():
        yield from _section(heading, [_made(step) for step in impact.of_kind(kind)])
    yield from _section(
        "releases", [f"{item.environment}: {item.release} from {item.since} to {item.until or 'now'}" for item in impact.served]
    )
    yield from _section("answered requests", [_asked(item) for item in impact.requests])
    lost = [f"the files of {digest}: the store has lost it" for digest in unread]
    yield from _section("not known", [*lost, *faults])


def _section(heading: str, rows: Sequence[str]) -> Iterator[str]:
    if rows:
        yield f"\n{heading}"
    yield from (f"  {printable(row)}" for row in rows)


def _made(step: Made) -> str:
    made = ", ".join(f"{name} {digest}" for name, digest in sorted(step.products.items()))
    return f"{step.step_id} at commit {step.commit[:12]} ({step.finished}): {made}"


def _asked(item: Requests) -> str:
    cut = f", {len(item.cut_off)} cut off" if item.cut_off else ""
    return f"{item.environment} {item.role}: {len(item.answered)} answered{cut}, from {item.first} to {item.last}"
