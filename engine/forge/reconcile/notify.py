"""Tell the outside how resources are: Prometheus metrics on a port, and a webhook on a change of health.

Neither may stop the reconciler: what cannot be delivered is said, kept, and delivered with the next change.
"""

import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from forge.errors import UsageError, printable
from forge.plan.health import Health, ResourceHealth

_TIMEOUT_SECONDS = 10.0
_KEPT = 1000


class Metrics:
    """What a controller measures of itself; one registry each, so that two in one process do not mix."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.health = Gauge(
            "forge_resource_health", "1 for the health that a resource has now", ["resource", "health"], registry=self.registry
        )
        self.passes = Counter("forge_reconcile_passes", "Passes of the controller", ["outcome"], registry=self.registry)
        self.seconds = Histogram(
            "forge_reconcile_seconds",
            "Time that a pass took",
            buckets=(0.5, 1, 2, 5, 10, 30, 60, 300, 1800, 7200),
            registry=self.registry,
        )
        self.steps = Counter("forge_steps", "Steps by how they ended", ["kind", "outcome"], registry=self.registry)
        self.changes = Gauge("forge_plan_changes", "Actions that the last plan holds", registry=self.registry)
        self.last_success = Gauge(
            "forge_last_success_timestamp_seconds", "When a pass last ended without a failure", registry=self.registry
        )

    def listen(self, host: str, port: int) -> int:
        """Serve ``/metrics`` from a thread; returns the port, which is a free one for 0. Raises OSError."""
        server, _thread = start_http_server(port, host, self.registry)
        return int(server.server_port)

    def show(self, health: Mapping[str, ResourceHealth]) -> None:
        """One series per resource and word; a resource that is gone has none."""
        self.health.clear()
        for address, found in health.items():
            for word in Health:
                self.health.labels(address, word.value).set(1.0 if found.health is word else 0.0)


class Webhook:
    """Posts changes of health as JSON to an address."""

    def __init__(self, address: str) -> None:
        """``address`` is a URL, or names where one is found: ``env:NAME`` or ``file:PATH``. Raises UsageError."""
        self._url = _resolve(address)
        self.pending: list[dict[str, Any]] = []
        """What waits to be delivered, oldest first; what is older than the newest thousand is dropped."""

    def add(self, changes: Sequence[Mapping[str, Any]]) -> None:
        """Let changes wait for delivery."""
        self.pending = [*self.pending, *(dict(change) for change in changes)][-_KEPT:]

    def deliver(self) -> str | None:
        """Deliver what waits; returns what went wrong, None when nothing did."""
        if not self.pending:
            return None
        body = json.dumps({"schema_version": 1, "changes": self.pending}).encode()
        request = urllib.request.Request(self._url, body, {"Content-Type": "application/json"}, method="POST")  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as answer:  # noqa: S310 (scheme checked below)
                answer.read(1024)
        except (urllib.error.URLError, OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            return f"the webhook could not be reached: {printable(str(reason))}; {len(self.pending)} changes wait"
        self.pending = []
        return None


def _resolve(address: str) -> str:
    scheme, _, rest = address.partition(":")
    if scheme == "env":
        if rest not in os.environ:
            raise UsageError(f"forge.toml: notify.webhook: the environment variable {rest} is not set")
        address = os.environ[rest]
    elif scheme == "file":
        try:
            address = Path(rest).read_text("utf-8").strip()
        except OSError as error:
            raise UsageError(f"forge.toml: notify.webhook: {rest}: {error.strerror}") from error
    if not address.startswith(("https://", "http://")):
        raise UsageError("forge.toml: notify.webhook: expected an http or https URL, or env:NAME or file:PATH that holds one")
    return address
