"""Which trial of a search is the best.

``best_of`` is pure and is the only place where that is decided: the sweep step calls it, and so does the verifier, which must
come to the same trial from the same reports.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from forge.contract.verdict import Report


def score_of(report: Report, objective: Mapping[str, Any]) -> float | None:
    """The figure that a trial is compared by; None where the report has no finite number for it."""
    task = report.tasks.get(objective["task"])
    value = task.metrics.get(objective["metric"]) if task is not None else None
    return value if value is not None and math.isfinite(value) else None


def best_of(reports: Sequence[Report], objective: Mapping[str, Any]) -> tuple[int, float] | None:
    """Number and figure of the best trial, of equal ones the first; None where no report has a figure."""
    sign = 1 if objective["direction"] == "minimize" else -1
    scores = {number: score_of(report, objective) for number, report in enumerate(reports)}
    found = {number: score for number, score in scores.items() if score is not None}
    best = min(found, key=lambda number: (sign * found[number], number), default=None)
    return None if best is None else (best, found[best])
