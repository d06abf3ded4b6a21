"""What a person is told about actions that are blocked, or left to others."""

from collections import defaultdict

from forge.contract.kinds import StepKind
from forge.contract.verdict import VERDICT_FILE, Verdict
from forge.plan.action import Plan
from forge.plan.reason import ReasonKind
from forge.reconcile.place import Place


def no_go_table(place: Place, plan: Plan) -> str:
    """Why actions are blocked: for a gate, metric, threshold and value of every check, the failed ones marked."""
    lines = []
    for action in plan.blocked:
        if not any(reason.kind is ReasonKind.GATE for reason in action.reasons):
            lines.append(f"{action.id} is blocked: {'; '.join(str(reason) for reason in action.reasons)}")
            continue
        name = action.id.split("/", 1)[1]
        gate = next(other for other in plan.actions if other.id == f"{StepKind.GATE}/{name}")
        verdict = Verdict.model_validate_json(place.store.read_file(gate.products["verdict"], VERDICT_FILE))
        lines.append(f"{action.id} is blocked: {gate.id} says {verdict.verdict}")
        rows = [("", "task", "metric", "threshold", "value")]
        for check in verdict.checks:
            value = "absent" if check.value is None else f"{check.value:.4g}"
            sign = ">=" if check.bound == "min" else "<="
            rows.append(("ok" if check.passed else "FAIL", check.task, check.metric, f"{sign} {check.threshold:g}", value))
        widths = [max(len(row[column]) for row in rows) for column in range(5)]
        lines += ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        lines.append("Nothing was released. Change the model, its data or the gate, commit, and apply again.")
    return "\n".join(lines)


def left_to_others(place: Place, plan: Plan) -> str:
    """What a plan still holds for roles that this machine does not act as, or holds back; empty where there is nothing."""
    left: dict[str, list[str]] = defaultdict(list)
    for action in plan.changes:
        if not place.acts_on(action):
            left[place.role_of(action.step or StepKind.RELEASE)].append(action.id)
    rows = [f"{role} {', '.join(names)}" for role, names in sorted(left.items())]
    blocked = [f"{action.id} ({action.reasons[0]})" for action in plan.blocked if not place.acts_on(action)]
    told = [f"Left to others: {'; '.join(rows)}"] if rows else []
    told += [f"Blocked for others: {'; '.join(blocked)}"] if blocked else []
    return ". ".join(told)
