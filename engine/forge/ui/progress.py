"""Progress of ``forge apply`` on stderr: a live line with rich where it is a terminal, plain lines where it is not."""

import time
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from forge.contract.messages import Event
from forge.contract.record import Record, Release
from forge.contract.verdict import DIVERGED
from forge.errors import printable
from forge.plan.action import Action, ActionKind, Plan
from forge.plan.render import duration, quantity
from forge.reconcile.observer import Observer
from forge.ui.series import MFU_FORMULA, mfu

_PLAIN_EVERY_SECONDS = 10.0


class Display(Observer, Protocol):
    """An observer that draws."""

    def close(self) -> None:
        """Leave the terminal as it was."""


def display() -> Display:
    """The display that fits stderr."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    return LiveDisplay(console) if console.is_terminal else PlainDisplay(console)


def event_text(event: Event, peak_flops_per_second: float | None = None) -> str:
    """The figures of an event, in one line; MFU only where the peak is known (forge.toml)."""
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
    utilisation = mfu(event, peak_flops_per_second)
    if utilisation is not None:
        parts.append(f"MFU {utilisation:.1%}")
    if event.memory_bytes is not None:
        parts.append(f"{event.memory_bytes / 2**30:.3g} GiB of memory")
    return ", ".join(parts)


def note_text(action: Action) -> str:
    """What the ledger notes of a resource."""
    if action.kind is ActionKind.RETIRE:
        serves = f"; {action.environment} serves nothing more" if action.environment else ""
        return f"retired{serves}; nothing is deleted"
    if action.kind is ActionKind.RENAME:
        return "; ".join(str(reason) for reason in action.reasons)
    if action.withdraw is not None:
        return "no longer withdrawn" if action.withdraw.lifted else f"withdrawn: {printable(action.withdraw.reason)}"
    return "protected from now on" if action.protect else "no longer protected"


_SAID = ("verdict", DIVERGED, "trial")
"""What is shown before all figures."""


def record_text(record: Record) -> str:
    """What a finished step took and measured."""
    said = {name: record.metrics[name] for name in _SAID if name in record.metrics}
    shown = said | {name: value for name, value in record.metrics.items() if isinstance(value, float)}
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
        self._began: dict[str, float] = {}
        self._last: dict[str, float] = {}
        self._told_formula = False

    def planned(self, plan: Plan) -> None:
        """The plan itself is the command's output; nothing to add."""

    def started(self, action: Action, *, adopted: bool) -> None:
        """Say what begins."""
        self._began[action.id] = self._last[action.id] = time.monotonic()
        self._line(f"{action.id}: {'found at work, awaited' if adopted else 'started'}")

    def progressed(self, action: Action, event: Event, peak_flops_per_second: float | None = None) -> None:
        """Show figures now and then, with the time that is left."""
        now = time.monotonic()
        if now - self._last[action.id] < _PLAIN_EVERY_SECONDS:
            return
        self._last[action.id] = now
        left = ""
        if event.fraction:
            left = f"{event.fraction:.0%}, {duration((now - self._began[action.id]) * (1 / event.fraction - 1))} left, "
        self._line(f"{action.id}: {left}{event_text(event, peak_flops_per_second)}")
        if not self._told_formula and mfu(event, peak_flops_per_second) is not None:
            self._told_formula = True
            self._line(MFU_FORMULA)

    def finished(self, action: Action, record: Record) -> None:
        """Say what it took."""
        self._line(f"{action.id}: done in {record_text(record)}")

    def skipped(self, action: Action) -> None:
        """Say that nothing was needed."""
        self._line(f"{action.id}: not needed, its inputs are the same")

    def released(self, action: Action, release: Release) -> None:
        """Say that the pointer moved."""
        self._line(f"{action.id}: {release.environment} now serves {release.release}")

    def noted(self, action: Action) -> None:
        """Say what the ledger keeps of a resource now."""
        self._line(f"{action.id}: {note_text(action)}")

    def said(self, text: str) -> None:
        """Say it."""
        self._line(printable(text))

    def superseded(self, action: Action) -> None:
        """Say that a run is stopped."""
        self._line(f"{action.id}: no longer wanted, or another runner's; asked to stop, its checkpoint is kept")

    def close(self) -> None:
        """Nothing to restore."""

    def _line(self, text: str) -> None:
        self._console.print(Text(text))


class LiveDisplay:
    """A bar for the running step, and a line for each that is done."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._tasks: dict[str, TaskID] = {}
        self._told_formula = False
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
        """Start drawing, where there is something to draw."""
        if plan.changes:
            self._progress.start()

    def started(self, action: Action, *, adopted: bool) -> None:
        """Begin a bar."""
        note = "found at work, awaited" if adopted else ""
        self._tasks[action.id] = self._progress.add_task(action.id, total=None, figures=note)

    def progressed(self, action: Action, event: Event, peak_flops_per_second: float | None = None) -> None:
        """Move the bar."""
        task = self._tasks.get(action.id)
        if task is None:
            return
        if event.fraction is not None:
            self._progress.update(task, total=1.0, completed=event.fraction)
        if text := event_text(event, peak_flops_per_second):
            self._progress.update(task, figures=text)
        if not self._told_formula and mfu(event, peak_flops_per_second) is not None:
            self._told_formula = True
            self._console.print(Text(MFU_FORMULA, "dim"))

    def finished(self, action: Action, record: Record) -> None:
        """Replace the bar by a line."""
        self._remove(action)
        self._console.print(Text.assemble(("done ", "green"), f"{action.id}: {record_text(record)}"))

    def skipped(self, action: Action) -> None:
        """Say that nothing was needed."""
        self._console.print(Text.assemble(("same ", "dim"), f"{action.id}: not needed, its inputs are the same"))

    def released(self, action: Action, release: Release) -> None:
        """Say that the pointer moved."""
        self._console.print(
            Text.assemble(("done ", "green"), f"{action.id}: {release.environment} now serves {release.release}")
        )

    def noted(self, action: Action) -> None:
        """Say what the ledger keeps of a resource now."""
        self._console.print(Text.assemble(("note ", "green"), f"{action.id}: {note_text(action)}"))

    def said(self, text: str) -> None:
        """Say it above the bars."""
        self._console.print(Text.assemble(("note ", "yellow"), printable(text)))

    def superseded(self, action: Action) -> None:
        """Drop the bar of a run that is stopped."""
        self._remove(action)
        self._console.print(
            Text.assemble(("stop ", "yellow"), f"{action.id}: no longer wanted, or another runner's; its checkpoint is kept")
        )

    def close(self) -> None:
        """Stop drawing."""
        self._progress.stop()

    def _remove(self, action: Action) -> None:
        task = self._tasks.pop(action.id, None)
        if task is not None:
            self._progress.remove_task(task)
