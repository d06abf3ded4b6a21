"""Which trial is the best, and what a sweep step may choose."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.contract.test_verdict import report

from forge.contract.search import best_of, why_not_chosen
from forge.contract.verdict import DIVERGED

OBJECTIVE = {"task": "t", "metric": "m", "direction": "minimize"}
LR, BATCH = "training.optimizer.lr", "training.batch_tokens"
figures = st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6)), max_size=8)


@given(figures)
def test_the_best_trial_has_the_best_figure_and_is_the_first_of_its_kind(values: list[float | None]) -> None:
    known = [value for value in values if value is not None]
    reports = [report(value) for value in values]
    for direction, choose in (("minimize", min), ("maximize", max)):
        found = best_of(reports, {**OBJECTIVE, "direction": direction})
        assert found == ((values.index(choose(known)), choose(known)) if known else None)


def test_a_trial_that_diverged_is_never_the_best() -> None:
    lost = report(0.1).model_copy(update={"settings": {DIVERGED: 2}})
    assert best_of([report(0.5), lost], OBJECTIVE) == (0, 0.5)
    assert best_of([lost], OBJECTIVE) is None


def drawn(space: dict[str, Any], sampler: str = "random", number: int = 0) -> dict[str, Any]:
    return {"pick": "next", "round": 0, "number": number, "sampler": {"name": sampler}, "space": space}


@pytest.mark.parametrize(
    ("values", "parameters", "fault"),
    [
        ({LR: 0.1}, {"pick": "written", "values": {LR: 0.1}}, None),
        ({LR: 0.2}, {"pick": "written", "values": {LR: 0.1}}, "it is to take the values that are written"),
        ({LR: 0.2}, drawn({LR: {"choices": [0.1, 0.2]}}, "grid", 1), None),
        ({LR: 0.1}, drawn({LR: {"choices": [0.1, 0.2]}}, "grid", 1), "it chose another point than that of its grid"),
        ({LR: 0.2}, drawn({LR: {"choices": [0.1, 0.2]}}), None),
        ({LR: 0.3}, drawn({LR: {"choices": [0.1, 0.2]}}), "it chose training.optimizer.lr 0.3, which is not in its space"),
        ({LR: 0.15}, drawn({LR: {"low": 0.1, "high": 0.2}}, "tpe"), None),
        ({LR: 0.25}, drawn({LR: {"low": 0.1, "high": 0.2}}, "tpe"), "which is not in its space"),
        ({LR: 0.15}, drawn({LR: {"low": 0.05, "high": 1.0, "step": 0.05}}), None),
        ({LR: 0.15000000000000002}, drawn({LR: {"low": 0.05, "high": 1.0, "step": 0.05}}), "which is not in its space"),
        ({BATCH: 1024}, drawn({BATCH: {"low": 512, "high": 2048, "log": True}}), None),
        ({BATCH: 1024.5}, drawn({BATCH: {"low": 512, "high": 2048, "log": True}}), "which is not in its space"),
        ({BATCH: 1500}, drawn({BATCH: {"low": 512, "high": 2048, "step": 512}}), "which is not in its space"),
        ({}, drawn({LR: {"choices": [0.1]}}), "it chose nothing, and is to choose training.optimizer.lr"),
        ({LR: 0.1, BATCH: 8}, drawn({LR: {"choices": [0.1]}}), "it chose training.batch_tokens, training.optimizer.lr, and is"),
    ],
)
def test_a_choice_is_what_its_parameters_allow(values: dict[str, Any], parameters: dict[str, Any], fault: str | None) -> None:
    found = why_not_chosen(values, parameters)
    assert found is None if fault is None else fault in str(found)
