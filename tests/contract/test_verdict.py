"""The laws of a verdict."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from forge.contract.verdict import DIVERGED, Bound, Check, Decision, Report, TaskReport, Verdict, check
from forge.spec.deployment import Gate

numbers = st.floats(allow_nan=False, allow_infinity=False, width=32)


def gate(**bound: float) -> Gate:
    return Gate.model_validate({"suite": "EvalSuite/x", "thresholds": [{"task": "t", "metric": "m", **bound}]})


def report(value: float | None, metric: str = "m") -> Report:
    task = TaskReport(metrics={metric: value}, stderr={}, higher_is_better={}, items=1, task_digest="sha256:0")
    return Report(tasks={"t": task}, settings={})


@given(value=numbers, limit=numbers)
def test_a_bound_is_kept_from_its_own_side_and_inclusive(value: float, limit: float) -> None:
    assert (check([gate(min=limit)], [report(value)]).verdict is Decision.GO) == (value >= limit)
    assert (check([gate(max=limit)], [report(value)]).verdict is Decision.GO) == (value <= limit)
    assert check([gate(min=value), gate(max=value)], [report(value)] * 2).verdict is Decision.GO


@given(st.lists(st.tuples(numbers, numbers), min_size=1))
def test_go_is_that_every_check_passed(pairs: list[tuple[float, float]]) -> None:
    verdict = check([gate(min=limit) for _, limit in pairs], [report(value) for value, _ in pairs])
    assert (verdict.verdict is Decision.GO) == all(value >= limit for value, limit in pairs)
    assert Verdict.model_validate_json(verdict.to_bytes()) == verdict


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("bound", ["min", "max"])
def test_what_is_no_number_never_passes(value: float | None, bound: str) -> None:
    verdict = check([gate(**{bound: 0.0})], [report(value)])
    assert verdict.verdict is Decision.NO_GO
    assert verdict.checks[0].value is None


def test_a_model_that_diverged_in_training_passes_nothing_whatever_was_measured() -> None:
    lost = report(0.9).model_copy(update={"settings": {DIVERGED: 2}})
    assert check([gate(min=0.5)], [report(0.9)]).verdict is Decision.GO
    assert check([gate(min=0.5)], [lost]).verdict is Decision.NO_GO


def test_a_metric_or_task_that_the_report_lacks_never_passes() -> None:
    assert check([gate(min=0.0)], [report(1.0, metric="other")]).checks[0].value is None
    assert check([gate(min=0.0)], [Report(tasks={}, settings={})]).verdict is Decision.NO_GO


def test_a_threshold_of_nan_never_passes() -> None:
    assert check([gate(min=math.nan)], [report(1.0)]).verdict is Decision.NO_GO


def test_no_gate_is_no_go() -> None:
    assert check([], []).verdict is Decision.NO_GO


def test_a_gate_without_its_report_is_a_fault_of_the_caller() -> None:
    with pytest.raises(ValueError, match="1 gates but 0 reports"):
        check([gate(min=0.0)], [])


def test_values_that_contradict_themselves_cannot_be_built() -> None:
    with pytest.raises(ValidationError, match="'passed' contradicts"):
        Check(suite="s", task="t", metric="m", bound=Bound.MIN, threshold=1.0, value=0.5, passed=True)
    failed = Check(suite="s", task="t", metric="m", bound=Bound.MIN, threshold=1.0, value=0.5, passed=False)
    with pytest.raises(ValidationError, match="contradicts its checks"):
        Verdict(verdict=Decision.GO, checks=(failed,))
    with pytest.raises(ValidationError, match="contradicts its checks"):
        Verdict(verdict=Decision.GO, checks=())
