"""Desired beside recorded and live state, one row a step."""

from collections.abc import Mapping
from typing import Any

from forge.admission.status import StatusReading
from forge.errors import printable
from forge.ledger.ledger import Snapshot
from forge.plan.action import Action, ActionKind
from forge.reconcile.place import Look


def to_data(now: Look, agents: Mapping[str, StatusReading]) -> dict[str, Any]:
    """The status as JSON; ``agents`` is what serving agents say, by environment."""
    recorded = now.snapshot
    steps = [action for action in now.plan.actions if action.step is not None]
    wanted = {action.environment for action in steps if action.environment is not None}
    environments = sorted({*wanted, *recorded.environments()})
    releases = {name: recorded.release(name) for name in environments}
    return {
        "schema_version": 1,
        "commit": now.plan.commit,
        "steps": [_step(action, recorded, now) for action in steps],
        "resources": [
            {"resource": action.id, "status": action.kind.value, "reasons": [str(reason) for reason in action.reasons]}
            for action in now.plan.actions
            if action.step is None
        ],
        "agents": {name: _agent(reading) for name, reading in agents.items()},
        "environments": {name: release.model_dump(mode="json") if release else None for name, release in releases.items()},
    }


def to_text(data: dict[str, Any]) -> str:
    """The status for people."""
    lines = [f"commit {str(data['commit'])[:12]}", ""]
    for step in data["steps"]:
        last = f"{step['seconds']:.1f} s at commit {step['commit'][:12]}" if step["commit"] else "never ran"
        if step["running"]:
            last = f"at work: {step['running']}"
        lines.append(f"  {step['status']:<12} {step['step']:<28} {last}")
    lines.extend(
        f"  {resource['status']:<12} {resource['resource']:<28} {'; '.join(resource['reasons'])}"
        for resource in data["resources"]
    )
    lines.append("")
    for name, release in data["environments"].items():
        served = f"{release['release']} since {release['moved']}" if release else "nothing"
        lines.append(f"  {name} serves {served}")
        agent = data["agents"].get(name)
        if agent is not None:
            lines.append(f"    {agent['said']}")
    return "\n".join(map(printable, lines))


def _agent(reading: StatusReading) -> dict[str, Any]:
    status = reading.status
    if status is None:
        return {"fault": reading.fault, "said": reading.message, "status": None}
    said = f"its agent on {status.host} is {status.state} and serves {status.release or 'nothing'} (said {status.time})"
    return {"fault": None, "said": said, "status": status.model_dump(mode="json")}


def _step(action: Action, recorded: Snapshot, now: Look) -> dict[str, Any]:
    last = (recorded.record(action.key) if action.key else None) or recorded.latest(action.id)
    lease = next((lease for lease in now.leases.values() if lease.step_id == action.id), None)
    return {
        "step": action.id,
        "subject": action.subject,
        "status": _word(action),
        "reasons": [str(reason) for reason in action.reasons],
        "key": last.key if last else None,
        "commit": last.commit if last else None,
        "seconds": last.actual.seconds if last else None,
        "metrics": last.metrics if last else {},
        "running": f"process {lease.holder.pid} on {lease.holder.host}" if lease else None,
    }


def _word(action: Action) -> str:
    if action.kind is ActionKind.BLOCKED:
        return "blocked"
    return "out of sync" if action.does_something else "in sync"
