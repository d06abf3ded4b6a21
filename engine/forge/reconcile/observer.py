"""What a reconciler tells whoever watches it: the command line's displays, a test."""

from typing import Protocol

from forge.contract.messages import Event
from forge.contract.record import Record, Release
from forge.plan.action import Action, Plan


class Observer(Protocol):
    """One method for each thing that happens, in the order in which it happens."""

    def planned(self, plan: Plan) -> None:
        """The plan at the start."""

    def started(self, action: Action, *, adopted: bool) -> None:
        """A step begins; ``adopted`` when its process was already running."""

    def progressed(self, action: Action, event: Event, peak_flops_per_second: float | None = None) -> None:
        """A step said something; the peak is that of all it runs on, None where forge.toml names none."""

    def finished(self, action: Action, record: Record) -> None:
        """A step is recorded."""

    def skipped(self, action: Action) -> None:
        """A step that might have run need not: its inputs turned out the same."""

    def released(self, action: Action, release: Release) -> None:
        """An environment's pointer has moved."""

    def noted(self, action: Action) -> None:
        """The ledger notes that a resource left the commit, or whether it is protected."""

    def said(self, text: str) -> None:
        """Something that is worth a line."""

    def superseded(self, action: Action) -> None:
        """A run is asked to stop: the commit no longer asks for it, or another runner has it now."""
