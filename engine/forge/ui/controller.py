"""What the controller says: a line, with its time, for each thing that happens, and one for each resource that changed."""

import datetime

from rich.console import Console
from rich.text import Text

from forge.errors import printable
from forge.plan.health import Health, ResourceHealth
from forge.ui.progress import PlainDisplay

_COLOURS = {Health.IN_SYNC: "green", Health.PROGRESSING: "cyan", Health.DEGRADED: "red", Health.SUSPENDED: "yellow"}


class ControllerDisplay(PlainDisplay):
    """Plain lines on stderr."""

    def __init__(self, console: Console | None = None) -> None:
        super().__init__(console or Console(stderr=True, highlight=False, soft_wrap=True))

    def health_changed(self, before: ResourceHealth | None, now: ResourceHealth) -> None:
        """One status line per resource that changed."""
        was = f" (was {before.health})" if before is not None else ""
        message = f": {now.message}" if now.message else ""
        text = Text.assemble(
            _now(), "  ", (f"{now.health.value:<12}", _COLOURS[now.health]), f"{now.address}{was}{printable(message)}"
        )
        self._console.print(text)

    def pass_failed(self, error: Exception, retry_seconds: float) -> None:
        """Why a pass could not be made, and when the next one is."""
        self.said(f"this pass failed, the next is in {retry_seconds:.0f} s: {error}")

    def said(self, text: str) -> None:
        """A line of the controller itself."""
        self._line(text)

    def _line(self, text: str) -> None:
        self._console.print(Text(f"{_now()}  {text}"))


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
