"""Evaluation reports, and the verdict that follows from them and a deployment's gates.

``check`` is pure and is the only place where a gate is decided: the gate step calls it, and so does the verifier, which
must come to the same verdict from the same reports. Invariants:
  1. What is not there does not pass: a task or metric that a report lacks, NaN, infinity, no gate at all: NO-GO. A model that
     diverged in training (a trial of a search, which is measured all the same) has nothing that passes.
  2. A bound is inclusive: a metric equal to its threshold passes.
  3. A Verdict value whose parts contradict each other cannot be built.
"""

import math
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from forge.canonical import canonical_json
from forge.spec.deployment import Gate, Threshold

REPORT_FILE = "report.json"
VERDICT_FILE = "verdict.json"
DIVERGED = "diverged_at_step"
"""What a record, a report's settings and the file beside diverged weights call the step that a training did not take."""
DIVERGED_FILE = "diverged.json"


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class TaskReport(_Value):
    """What one task measured."""

    metrics: dict[str, float | None]
    """None: the metric is not a finite number."""
    stderr: dict[str, float]
    higher_is_better: dict[str, bool]
    items: int = Field(ge=0)
    task_digest: str
    """Identity of the task's configuration and data."""


class Report(_Value):
    """The ``report.json`` of an evaluate step."""

    schema_version: Literal[1] = 1
    tasks: dict[str, TaskReport]
    settings: dict[str, Any]

    @property
    def diverged_at_step(self) -> int | None:
        """Where the training of what was measured ended because it diverged; None for one that came to its end."""
        step: int | None = self.settings.get(DIVERGED)
        return step


class Decision(StrEnum):
    """What a gate says."""

    GO = "GO"
    """Every bound is kept: the model may be released."""
    NO_GO = "NO-GO"
    """A bound is broken or cannot be judged: it may not."""


class Bound(StrEnum):
    """Which side of the threshold is allowed."""

    MIN = "min"
    """The value may not be smaller."""
    MAX = "max"
    """The value may not be larger."""


class Check(_Value):
    """One threshold, held against what was measured."""

    suite: str
    task: str
    metric: str
    bound: Bound
    threshold: float
    value: float | None
    """None: the report holds no finite number for it."""
    passed: bool

    @model_validator(mode="after")
    def _follows(self) -> Self:
        if self.passed != _keeps(self.bound, self.threshold, self.value):
            raise ValueError(f"{self.task} {self.metric}: 'passed' contradicts value and threshold")
        return self


class Verdict(_Value):
    """The ``verdict.json`` of a gate step."""

    schema_version: Literal[1] = 1
    verdict: Decision
    checks: tuple[Check, ...]

    @model_validator(mode="after")
    def _follows(self) -> Self:
        if (self.verdict is Decision.GO) != (bool(self.checks) and all(check.passed for check in self.checks)):
            raise ValueError("the verdict contradicts its checks")
        return self

    def to_bytes(self) -> bytes:
        """The canonical bytes of the file."""
        return canonical_json(self.model_dump(mode="json")) + b"\n"


def check(gates: Sequence[Gate], reports: Sequence[Report]) -> Verdict:
    """Hold each gate's thresholds against the report at the same place; raises ``ValueError`` where one is missing."""
    if len(gates) != len(reports):
        raise ValueError(f"{len(gates)} gates but {len(reports)} reports: each gate needs the report of its suite")
    checks = tuple(
        _check(gate.suite, threshold, report)
        for gate, report in zip(gates, reports, strict=True)
        for threshold in gate.thresholds
    )
    passed = bool(checks) and all(each.passed for each in checks)
    return Verdict(verdict=Decision.GO if passed else Decision.NO_GO, checks=checks)


def _check(suite: str, threshold: Threshold, report: Report) -> Check:
    bound, limit = (Bound.MIN, threshold.min) if threshold.min is not None else (Bound.MAX, threshold.max)
    if limit is None:
        raise ValueError(f"{suite}: the threshold of {threshold.task} {threshold.metric} has no bound")
    task = report.tasks.get(threshold.task) if report.diverged_at_step is None else None
    value = task.metrics.get(threshold.metric) if task is not None else None
    if value is not None and not math.isfinite(value):
        value = None
    return Check(
        suite=suite,
        task=threshold.task,
        metric=threshold.metric,
        bound=bound,
        threshold=limit,
        value=value,
        passed=_keeps(bound, limit, value),
    )


def _keeps(bound: Bound, threshold: float, value: float | None) -> bool:
    """Written so that a NaN on either side is a failure."""
    if value is None:
        return False
    return value >= threshold if bound is Bound.MIN else value <= threshold
