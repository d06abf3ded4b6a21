"""Which trial of a search is the best, and which values a sweep step may choose.

Pure. ``best_of`` is the only place where the best trial is decided: the sweep step calls it, and so does the verifier, which
must come to the same trial from the same reports. A model that diverged in training has no figure, whatever was measured of it.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from forge.contract.hyperparameters import Pick
from forge.contract.verdict import Report
from forge.spec.sweep import Dimension
from forge.spec.trials import Value, contains, grid_point


def score_of(report: Report, objective: Mapping[str, Any]) -> float | None:
    """The figure that a trial is compared by; None where the report has no finite number for it, or is of one that diverged."""
    if report.diverged_at_step is not None:
        return None
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


def why_not_chosen(values: Mapping[str, Value], parameters: Mapping[str, Any]) -> str | None:
    """Why a sweep step of these parameters does not choose these values; None where it may. Of the best, ``best_of`` says."""
    match Pick(parameters["pick"]):
        case Pick.WRITTEN:
            return None if values == parameters["values"] else "it is to take the values that are written, and took others"
        case Pick.NEXT:
            space = {field: Dimension.model_validate(each) for field, each in parameters["space"].items()}
            if values.keys() != space.keys():
                return f"it chose {', '.join(sorted(values)) or 'nothing'}, and is to choose {', '.join(sorted(space))}"
            if parameters["sampler"]["name"] == "grid" and values != grid_point(space, parameters["number"]):
                return "it chose another point than that of its grid"
            outside = [field for field, value in sorted(values.items()) if not contains(space[field], field, value)]
            return f"it chose {outside[0]} {values[outside[0]]:g}, which is not in its space" if outside else None
    return None
