"""Progress of ``forge apply`` on stderr: a live line with rich where it is a terminal, plain lines where it is not."""

import time
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from forge.contract.messages import Event
from forge.contract.record import Record, Release
from forge.plan.plan import Action, Plan
from forge.plan.render import duration, quantity, to_text
from forge.reconcile.observer import Observer

_PLAIN_EVERY_SECONDS = 10.0


class Display(Observer, Protocol):
    """An observer that draws."""

    def close(self) -> None:
        """Leave the terminal as it was."""


def display() -> Display:
    """The display that fits stderr."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    return LiveDisplay(console) if console.is_terminal else PlainDisplay(console)


def event_text(event: Event) -> str:
    """The figures of an event, in one line."""
    parts = []
    if event.message:
        parts.append(event.message)
    if event.step is not None:
        parts.append(f"step {event.step}")
    if event.tokens is not None:
        parts.append(f"{quantity(event.tokens)} tokens")
    if event.loss is not None:
        parts.append(f"loss {event.loss:.3f}")
    if event.bits_per_byte is not None:
        parts.append(f"{event.bits_per_byte:.3f} bits/byte")
    if event.tokens_per_second is not None:
        parts.append(f"{quantity(event.tokens_per_second)} tokens/s")
    return ", ".join(parts)


def record_text(record: Record) -> str:
    """What a finished step took and measured."""
    shown = {name: value for name, value in record.metrics.items() if isinstance(value, float) or name == "verdict"}
    figures = ", ".join(f"{name} {_figure(value)}" for name, value in list(shown.items())[:4])
    took = duration(record.actual.seconds)
    if record.estimate is not None:
        took += f" (estimated {duration(record.estimate.seconds)})"
    return f"{took}; {figures}" if figures else took


def _figure(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"


class PlainDisplay:
    """One line per thing that happens; figures at most every ten seconds."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last = 0.0
        self._began = 0.0

    def planned(self, plan: Plan) -> None:
        """Show the plan as ``forge plan`` does."""
        self._console.print(Text(to_text(plan)))

    def started(self, action: Action, *, adopted: bool) -> None:
        """Say what begins."""
        self._began = self._last = time.monotonic()
        self._line(f"{action.step.id}: {'found at work, awaited' if adopted else 'started'}")

    def progressed(self, action: Action, event: Event) -> None:
        """Show figures now and then, with the time that is left."""
        now = time.monotonic()
        if now - self._last < _PLAIN_EVERY_SECONDS:
            return
        self._last = now
        left = ""
        if event.fraction:
            left = f"{event.fraction:.0%}, {duration((now - self._began) * (1 / event.fraction - 1))} left, "
        self._line(f"{action.step.id}: {left}{event_text(event)}")

    def finished(self, action: Action, record: Record) -> None:
        """Say what it took."""
        self._line(f"{action.step.id}: done in {record_text(record)}")

    def skipped(self, action: Action) -> None:
        """Say that nothing was needed."""
        self._line(f"{action.step.id}: not needed, its inputs are the same")

    def released(self, action: Action, release: Release) -> None:
        """Say that the pointer moved."""
        self._line(f"{action.step.id}: {release.environment} now serves {release.release}")

    def close(self) -> None:
        """Nothing to restore."""

    def _line(self, text: str) -> None:
        self._console.print(Text(text))


class LiveDisplay:
    """A bar for the running step, and a line for each that is done."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._task: TaskID | None = None
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[figures]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )

    def planned(self, plan: Plan) -> None:
        """Show the plan as ``forge plan`` does, then start drawing."""
        self._console.print(Text(to_text(plan)))
        if plan.changes:
            self._progress.start()

    def started(self, action: Action, *, adopted: bool) -> None:
        """Begin a bar."""
        note = "found at work, awaited" if adopted else ""
        self._task = self._progress.add_task(action.step.id, total=None, figures=note)

    def progressed(self, action: Action, event: Event) -> None:  # noqa: ARG002 (the protocol's)
        """Move the bar."""
        if self._task is None:
            return
        if event.fraction is not None:
            self._progress.update(self._task, total=1.0, completed=event.fraction)
        if text := event_text(event):
            self._progress.update(self._task, figures=text)

    def finished(self, action: Action, record: Record) -> None:
        """Replace the bar by a line."""
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None
        self._console.print(Text.assemble(("done ", "green"), f"{action.step.id}: {record_text(record)}"))

    def skipped(self, action: Action) -> None:
        """Say that nothing was needed."""
        self._console.print(Text.assemble(("same ", "dim"), f"{action.step.id}: not needed, its inputs are the same"))

    def released(self, action: Action, release: Release) -> None:
        """Say that the pointer moved."""
        self._console.print(
            Text.assemble(("done ", "green"), f"{action.step.id}: {release.environment} now serves {release.release}")
        )

    def close(self) -> None:
        """Stop drawing."""
        self._progress.stop()
