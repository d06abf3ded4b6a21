"""Goals of the benches: each figure stands beside its goal, with the word whether it is met; the last line counts them."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Goal:
    """A bound on a figure."""

    limit: float
    unit: str = ""
    is_floor: bool = False
    """Whether the figure has to be at least the limit, not at most."""

    def __str__(self) -> str:
        return f"{'>=' if self.is_floor else '<='} {self.limit:,g}{f' {self.unit}' if self.unit else ''}"

    def is_met(self, figure: float) -> bool:
        """Judged by the figure as it was measured, not as it is rounded to be shown."""
        return figure >= self.limit if self.is_floor else figure <= self.limit


def at_most(limit: float, unit: str = "") -> Goal:
    """A figure that is better the smaller it is."""
    return Goal(limit, unit)


def at_least(limit: float, unit: str = "") -> Goal:
    """A figure that is better the larger it is."""
    return Goal(limit, unit, is_floor=True)


@dataclass
class Goals:
    """What a bench has judged so far."""

    judged: list[tuple[str, bool]] = field(default_factory=list)
    """Name of each figure with a goal, and whether it is met."""

    def judge(self, name: str, figure: float, goal: Goal | None) -> str:
        """The goal, and whether a figure meets it; nothing for a figure without one."""
        if goal is None:
            return ""
        self.judged.append((name, goal.is_met(figure)))
        return f"{goal}: {'met' if goal.is_met(figure) else 'MISSED'}"

    def summary(self) -> str:
        """The last line."""
        if not self.judged:
            return "Goals: none is set here; the peers in the same run say what a figure is worth."
        missed = [name for name, met in self.judged if not met]
        told = f"Goals: {len(self.judged) - len(missed)} of {len(self.judged)} met"
        return f"{told}; MISSED: {', '.join(missed)}." if missed else f"{told}."
