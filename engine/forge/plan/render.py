"""A plan as text and as JSON: two views of the same value. The third, for pull requests, is in ``markdown``."""

import functools
import json
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from forge.errors import printable
from forge.plan.action import SETTLED, Action, ActionKind, Plan
from forge.plan.compute import ACTIVE_FLOPS_FORMULA, FLOPS_FORMULA

if TYPE_CHECKING:
    from pydantic import TypeAdapter

SCHEMA_VERSION = 2
MOST_IDLE_ROWS = 40
"""More steps in sync than these are counted in the text, not listed."""
SIGNS = {
    ActionKind.RUN: "+",
    ActionKind.EXTEND: ">",
    ActionKind.RE_EVALUATE: "*",
    ActionKind.RELEASE: "^",
    ActionKind.RELOAD: "~",
    ActionKind.ROLL_BACK: "v",
    ActionKind.RETIRE: "-",
    ActionKind.PROTECT: "#",
    ActionKind.RENAME: "&",
    ActionKind.WITHDRAW: "x",
    ActionKind.REUSE: "=",
    ActionKind.BLOCKED: "!",
    ActionKind.NOTHING: "=",
}
"""The sign of each kind in a list."""
COUNTED = {
    ActionKind.RUN: "to run",
    ActionKind.EXTEND: "to extend",
    ActionKind.RE_EVALUATE: "to re-evaluate",
    ActionKind.RELEASE: "to release",
    ActionKind.RELOAD: "to reload",
    ActionKind.ROLL_BACK: "to roll back",
    ActionKind.RETIRE: "to retire",
    ActionKind.PROTECT: "to note as protected or not",
    ActionKind.RENAME: "to note as renamed",
    ActionKind.WITHDRAW: "to withdraw or not",
    ActionKind.BLOCKED: "blocked",
    ActionKind.REUSE: "reused",
    ActionKind.NOTHING: "in sync",
}
"""How each kind is counted, in the order of a summary."""


def to_text(plan: Plan) -> str:
    """A table for a terminal, without colours; where much is in sync, that is counted and not listed."""
    idle = plan.num_unlisted + sum(action.kind in SETTLED for action in plan.actions)
    rows = [action for action in plan.actions if action.kind not in SETTLED or idle <= MOST_IDLE_ROWS]
    lines = [f"Plan for {title(plan)}: {summary(plan)}", ""]
    width = max((len(action.id) for action in rows), default=0)
    for action in rows:
        lines.append(f"  {SIGNS[action.kind]} {action.kind.value:<12}{action.id:<{width}}  {reasons(action)}")
        if action.does_something and (expected := effort(action, plan.currency)):
            lines.append(" " * (width + 18) + expected)
    lines.extend(["", *totals(plan)])
    lines.extend(needs_approval(plan))
    lines.extend(f"REFUSED: {refusal}" for refusal in plan.refusals)
    return "\n".join(map(printable, lines)).rstrip() + "\n"


def needs_approval(plan: Plan) -> Iterable[str]:
    """What has to be done before the plan may be applied, where the supply chain asks people first."""
    if plan.approvals:
        people = "1 person" if plan.approvals == 1 else f"{plan.approvals} people"
        yield f"Needs the approval of {people}: `forge plan --out FILE`, `forge approve FILE`, `forge apply FILE`."


def to_json(plan: Plan) -> str:
    """Data for programs; stable keys, one trailing newline."""
    return json.dumps(to_data(plan), indent=2, sort_keys=True) + "\n"


def to_data(plan: Plan) -> dict[str, Any]:
    """The JSON form as a value; ``from_data`` reads it back."""
    return {
        "schema_version": SCHEMA_VERSION,
        "summary": {kind.value: sum(action.kind is kind for action in plan.actions) for kind in ActionKind},
        **_adapter().dump_python(plan, mode="json"),
    }


def from_data(data: dict[str, Any]) -> Plan:
    """A plan from its JSON form; raises ``ValueError`` for another schema version, ``ValidationError`` for another shape."""
    if data.get("schema_version") != SCHEMA_VERSION:
        raise ValueError(f"a plan of schema version {data.get('schema_version')!r}; this engine reads {SCHEMA_VERSION}")
    return _adapter().validate_python({name: data[name] for name in data if name not in ("schema_version", "summary")})


def duration(seconds: float) -> str:
    """A length of time for people: ``0.4 s``, ``45 s``, ``3 min 20 s``, ``5 h 2 min``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def money(cost: float, currency: str) -> str:
    """A price for people, in the currency's main unit."""
    return f"{cost:.4f} {currency}" if cost >= 0.0001 or cost == 0 else f"<0.0001 {currency}"


def quantity(number: float) -> str:
    """A count for people: ``1.05 M``."""
    for limit, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.3g} {suffix}"
    return f"{number:.0f}"


def title(plan: Plan) -> str:
    """What the plan is for, in words."""
    if plan.commit and plan.base:
        return f"commit {plan.commit[:12]}, without what commit {plan.base[:12]} needs as well"
    return f"commit {plan.commit[:12]}" if plan.commit else "the working tree (a preview: only a commit can be applied)"


def summary(plan: Plan) -> str:
    """How many actions of each kind, on one line."""
    found = Counter(action.kind for action in plan.actions)
    found[ActionKind.NOTHING] += plan.num_unlisted - plan.num_reused
    found[ActionKind.REUSE] += plan.num_reused
    counts = [(found[kind], word) for kind, word in COUNTED.items()]
    parts = [f"{count} {word}" for count, word in counts if count]
    return ", ".join(parts) if parts else "no steps"


def reasons(action: Action) -> str:
    """All reasons on one line."""
    return "; ".join(str(reason) for reason in action.reasons)


def effort(action: Action, currency: str) -> str:
    """What the action is expected to take, as far as it is known."""
    estimate = action.estimate
    parts = []
    if estimate.parameters is not None and estimate.tokens is not None and estimate.flops is not None:
        active = "" if estimate.active_parameters is None else f" ({quantity(estimate.active_parameters)} active)"
        parts.append(f"{quantity(estimate.parameters)} parameters{active}")
        parts.append(f"{quantity(estimate.tokens)} tokens, {estimate.flops:.2e} FLOPs")
    if estimate.seconds is not None:
        parts.append(f"~{duration(estimate.seconds)}")
    if estimate.cost is not None:
        parts.append(money(estimate.cost, currency))
    return ", ".join(parts)


def totals(plan: Plan) -> Iterable[str]:
    """Time and money of the whole plan, and the formula that FLOPs rest on; nothing where no step is to be done."""
    estimates = [action.estimate for action in plan.changes if action.step is not None]
    if not estimates:
        return
    seconds = [estimate.seconds for estimate in estimates if estimate.seconds is not None]
    costs = [estimate.cost for estimate in estimates if estimate.cost is not None]
    unknown = len(estimates) - len(seconds)
    if seconds:
        line = f"Estimated, at most: {duration(sum(seconds))}"
        line += f", {money(sum(costs), plan.currency)}" if costs else ", no price known"
        if costs and 0 < plan.at_least < plan.at_most:
            line += f" (at least {money(plan.at_least, plan.currency)}: the rest is decided after what runs first)"
        yield line + (f"; {unknown} steps never ran here and have no estimate yet." if unknown else ".")
    else:
        yield "No estimate: none of these steps ran here before."
    if any(estimate.flops is not None for estimate in estimates):
        routed = any(estimate.active_parameters is not None for estimate in estimates)
        yield f"FLOPs: {ACTIVE_FLOPS_FORMULA if routed else FLOPS_FORMULA}."


@functools.cache
def _adapter() -> "TypeAdapter[Plan]":
    """Made when a plan is first turned into data: text needs none."""
    from pydantic import TypeAdapter

    return TypeAdapter(Plan)
