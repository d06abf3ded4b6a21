"""A plan as text, as Markdown for a pull request, and as JSON: three views of the same value."""

import json
from collections.abc import Iterable
from typing import Any

from forge.plan.compute import FLOPS_FORMULA
from forge.plan.plan import Action, ActionKind, Plan

SCHEMA_VERSION = 1
_SIGNS = {
    ActionKind.RUN: "+",
    ActionKind.RELEASE: "^",
    ActionKind.RELOAD: "~",
    ActionKind.BLOCKED: "!",
    ActionKind.NOTHING: "=",
}


def to_text(plan: Plan) -> str:
    """A table for a terminal, without colours."""
    lines = [f"Plan for {_of(plan)}: {_summary(plan)}", ""]
    width = max((len(action.step.id) for action in plan.actions), default=0)
    for action in plan.actions:
        lines.append(f"  {_SIGNS[action.kind]} {action.kind.value:<8}{action.step.id:<{width}}  {_reasons(action)}")
        if action.kind is not ActionKind.NOTHING and (effort := _effort(action, plan.currency)):
            lines.append(" " * (width + 14) + effort)
    lines.extend(["", *_totals(plan)])
    return "\n".join(lines).rstrip() + "\n"


def to_markdown(plan: Plan) -> str:
    """A comment for a pull request; text that users wrote stands in code spans."""
    lines = [f"### Forge plan for {_of(plan)}", "", _summary(plan), ""]
    lines += ["| | action | step | effort | why |", "|---|---|---|---|---|"]
    for action in plan.actions:
        if action.kind is not ActionKind.NOTHING:
            cells = (
                _SIGNS[action.kind],
                action.kind.value,
                action.step.id,
                _effort(action, plan.currency),
                _code(_reasons(action)),
            )
            lines.append("| " + " | ".join(cells) + " |")
    lines += ["", *(line.replace("*", "\\*") for line in _totals(plan))]
    return "\n".join(lines).rstrip() + "\n"


def to_json(plan: Plan) -> str:
    """Data for programs; stable keys, one trailing newline."""
    return json.dumps(to_data(plan), indent=2, sort_keys=True) + "\n"


def to_data(plan: Plan) -> dict[str, Any]:
    """The JSON form as a value."""
    return {
        "schema_version": SCHEMA_VERSION,
        "commit": plan.commit,
        "currency": plan.currency,
        "summary": {kind.value: sum(action.kind is kind for action in plan.actions) for kind in ActionKind},
        "actions": [_action_data(action) for action in plan.actions],
    }


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
    return f"{cost:.4f} {currency}" if cost >= 0.0001 else f"<0.0001 {currency}"


def quantity(number: float) -> str:
    """A count for people: ``1.05 M``."""
    for limit, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.3g} {suffix}"
    return f"{number:.0f}"


def _action_data(action: Action) -> dict[str, Any]:
    estimate = action.estimate
    return {
        "action": action.kind.value,
        "step": action.step.id,
        "subject": action.step.subject,
        "key": action.key,
        "reasons": [{"kind": reason.kind.value, "detail": reason.detail} for reason in action.reasons],
        "inputs": dict(action.inputs),
        "products": dict(action.products),
        "estimate": {
            "seconds": estimate.seconds,
            "cost": estimate.cost,
            "parameters": estimate.parameters,
            "tokens": estimate.tokens,
            "flops": estimate.flops,
        },
    }


def _of(plan: Plan) -> str:
    return f"commit {plan.commit[:12]}" if plan.commit else "the working tree (a preview: only a commit can be applied)"


def _summary(plan: Plan) -> str:
    counts = [
        (sum(action.kind is kind for action in plan.actions), word)
        for kind, word in (
            (ActionKind.RUN, "to run"),
            (ActionKind.RELEASE, "to release"),
            (ActionKind.RELOAD, "to reload"),
            (ActionKind.BLOCKED, "blocked"),
            (ActionKind.NOTHING, "in sync"),
        )
    ]
    parts = [f"{count} {word}" for count, word in counts if count]
    return ", ".join(parts) if parts else "no steps"


def _reasons(action: Action) -> str:
    return "; ".join(str(reason) for reason in action.reasons)


def _effort(action: Action, currency: str) -> str:
    estimate = action.estimate
    parts = []
    if estimate.parameters is not None and estimate.tokens is not None and estimate.flops is not None:
        parts.append(
            f"{quantity(estimate.parameters)} parameters, {quantity(estimate.tokens)} tokens, {estimate.flops:.2e} FLOPs"
        )
    if estimate.seconds is not None:
        parts.append(f"~{duration(estimate.seconds)}")
    if estimate.cost is not None:
        parts.append(money(estimate.cost, currency))
    return ", ".join(parts)


def _totals(plan: Plan) -> Iterable[str]:
    estimates = [action.estimate for action in plan.changes]
    if not estimates:
        return
    seconds = [estimate.seconds for estimate in estimates if estimate.seconds is not None]
    costs = [estimate.cost for estimate in estimates if estimate.cost is not None]
    unknown = len(estimates) - len(seconds)
    if seconds:
        line = f"Estimated, at most: {duration(sum(seconds))}"
        line += f", {money(sum(costs), plan.currency)}" if costs else ", no price known"
        yield line + (f"; {unknown} steps never ran here and have no estimate yet." if unknown else ".")
    else:
        yield "No estimate: none of these steps ran here before."
    if any(estimate.flops is not None for estimate in estimates):
        yield f"FLOPs: {FLOPS_FORMULA}."


def _code(text: str) -> str:
    """Text that users wrote, as a code span in a table cell: no markup, no mention and no link comes alive in one."""
    return "`" + " ".join(text.replace("`", "'").replace("|", "\\|").split()) + "`"
