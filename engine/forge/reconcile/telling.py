"""Tell how resources are, when that changes: a line, a metric, a webhook. None of them can stop a pass.

What the webhook heard last, and what still waits for it, is kept in a file: a controller that is started again tells what
changed since, and neither tells everything anew nor loses what could not be delivered.
"""

import datetime
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from forge.plan.health import Health, ResourceHealth
from forge.reconcile.notify import Metrics, Webhook


class HealthReporter(Protocol):
    """Who shows people how resources are."""

    def health_changed(self, before: ResourceHealth | None, now: ResourceHealth) -> None:
        """A resource is otherwise than it was."""

    def said(self, text: str) -> None:
        """Something that is worth a line."""


@dataclass
class Teller:
    """What was told, and to whom."""

    reporter: HealthReporter
    metrics: Metrics
    webhook: Webhook | None
    memory: Path
    """Where it is kept what the webhook knows."""
    health: dict[str, ResourceHealth] = field(default_factory=dict)
    """By address, as this process told it last."""
    _heard: dict[str, str] | None = None
    """Address -> health, as the webhook heard it last, in this process or an earlier one."""

    def tell(
        self,
        found: Mapping[str, ResourceHealth],
        commit: str | None,
        now: datetime.datetime,
        keep: Callable[[str], bool] = lambda _address: False,
    ) -> None:
        """Tell what is otherwise than it was told last.

        What ``found`` lacks is gone, unless ``keep`` says by address that nothing new is known about it.
        """
        shown = {**{address: health for address, health in self.health.items() if keep(address)}, **found}
        for address, health in sorted(found.items()):
            before = self.health.get(address)
            if before is None or before.health is not health.health:
                self.reporter.health_changed(before, health)
        self.health = shown
        self.metrics.show(shown)
        if self.webhook is not None:
            heard = {address: word for address, word in self._known().items() if keep(address)}
            self._post(self.webhook, found, heard, commit, now)

    def _known(self) -> dict[str, str]:
        """What the webhook heard last."""
        if self._heard is None:
            self._heard, pending = _read(self.memory)
            if self.webhook is not None:
                self.webhook.pending = pending
        return self._heard

    def _post(
        self,
        webhook: Webhook,
        found: Mapping[str, ResourceHealth],
        kept: Mapping[str, str],
        commit: str | None,
        now: datetime.datetime,
    ) -> None:
        before = self._known()
        changes = [
            {
                "resource": address,
                "from": before.get(address),
                "to": health.health.value,
                "message": health.message,
                "commit": commit,
                "time": now.isoformat(timespec="milliseconds"),
            }
            for address, health in sorted(found.items())
            if before.get(address, Health.IN_SYNC.value) != health.health.value
        ]
        heard = {**kept, **{address: health.health.value for address, health in found.items()}}
        if heard == before and not webhook.pending:
            return
        self._heard = heard
        webhook.add(changes)
        troubles = [_write(self.memory, heard, webhook)]  # before it is delivered: a kill in between tells twice, not never
        if webhook.pending:
            troubles.append(webhook.deliver())
            troubles.append(_write(self.memory, heard, webhook))
        for trouble in dict.fromkeys(troubles):
            if trouble is not None:
                self.reporter.said(trouble)


def memory_of(state_folder: Path, branch: str) -> Path:
    """Where a clone keeps what was told about a branch."""
    return state_folder / f"health-{quote(branch, safe='')}.json"


def _read(memory: Path) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """Nothing where nothing was told yet, or where the file is none of ours: then all that is not in sync is told."""
    try:
        kept = json.loads(memory.read_bytes())
        heard = {str(address): str(word) for address, word in kept["heard"].items()}
        return heard, [dict(change) for change in kept["pending"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}, []


def _write(memory: Path, heard: Mapping[str, str], webhook: Webhook) -> str | None:
    """Keep it; returns what went wrong, None when nothing did."""
    temporary = memory.with_name(f"{memory.name}.{os.getpid()}")
    try:
        temporary.write_text(json.dumps({"schema_version": 1, "heard": heard, "pending": webhook.pending}))
        temporary.replace(memory)
    except OSError as error:
        return f"what the webhook was told cannot be kept in {memory}: {error.strerror}"
    return None
