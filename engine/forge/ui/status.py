"""Desired beside recorded state, one row a step."""

from typing import Any

from forge.plan.plan import Action, ActionKind, Plan, Recorded

_WORDS = {
    ActionKind.RUN: "out of sync",
    ActionKind.RELEASE: "out of sync",
    ActionKind.RELOAD: "out of sync",
    ActionKind.BLOCKED: "blocked",
    ActionKind.NOTHING: "in sync",
}


def to_data(plan: Plan, recorded: Recorded) -> dict[str, Any]:
    """The status as JSON."""
    environments = sorted(
        {str(action.step.parameters["environment"]) for action in plan.actions if "environment" in action.step.parameters}
    )
    releases = {name: recorded.release(name) for name in environments}
    return {
        "schema_version": 1,
        "commit": plan.commit,
        "steps": [_step(action, recorded) for action in plan.actions],
        "environments": {name: release.model_dump(mode="json") if release else None for name, release in releases.items()},
    }


def to_text(data: dict[str, Any]) -> str:
    """The status for people."""
    lines = [f"commit {str(data['commit'])[:12]}", ""]
    for step in data["steps"]:
        last = f"{step['seconds']:.1f} s at commit {step['commit'][:12]}" if step["commit"] else "never ran"
        lines.append(f"  {step['status']:<12} {step['step']:<28} {last}")
    lines.append("")
    for name, release in data["environments"].items():
        served = f"{release['release']} since {release['moved']}" if release else "nothing"
        lines.append(f"  {name} serves {served}")
    return "\n".join(lines)


def _step(action: Action, recorded: Recorded) -> dict[str, Any]:
    last = recorded.record(action.key) if action.key else recorded.latest(action.step.id)
    return {
        "step": action.step.id,
        "subject": action.step.subject,
        "status": _WORDS[action.kind],
        "reasons": [str(reason) for reason in action.reasons],
        "key": last.key if last else None,
        "commit": last.commit if last else None,
        "seconds": last.actual.seconds if last else None,
        "metrics": last.metrics if last else {},
    }
