"""Which shape a release's chain has, by what its trainings read."""

from typing import Any

import pytest
from tests.plan.full import desired_from, full_documents

from forge.attest.layout import SHAPES, shape_of, steps_behind
from forge.plan.graph import build_graph
from forge.spec.supply_chain import Shape


def shape(model: str, **bases: Any) -> str | None:
    """Of the release of a model of tests/plan/full.py, where these models begin with other bases."""
    documents = full_documents()
    for name, base in bases.items():
        documents[f"Model/{name}"]["spec"]["base"] = {"model": f"Model/{base}"}
    documents["Deployment/a"]["spec"]["model"] = f"Model/{model}"
    graph = build_graph(desired_from(documents))
    return shape_of(steps_behind(graph["release/a"], graph))


@pytest.mark.parametrize(
    ("model", "bases", "expected"),
    [
        ("a", {}, "pretrain"),
        ("c", {}, "continue"),
        ("d", {}, "continue-imported"),
        ("e", {}, "sft"),
        ("f", {}, "sft-imported"),
        ("g", {}, "dpo"),
        ("h", {}, "dpo-imported"),
        ("g", {"g": "e"}, "dpo"),
        ("g", {"g": "f"}, "dpo-imported"),
        ("e", {"e": "g"}, "dpo"),
        ("e", {"e": "h"}, "dpo-imported"),
        ("c", {"c": "g"}, "dpo"),
    ],
)
def test_one_training_that_reads_preferences_makes_a_chain_dpo(model: str, bases: dict[str, str], expected: str) -> None:
    """Whatever was trained after it, or before: who lists sft, or continue, has not listed dpo."""
    assert shape(model, **bases) == expected


def test_preferences_behind_a_continued_folder_have_no_shape_rather_than_one_that_hides_them() -> None:
    assert shape("g", g="d") is None


def test_a_supply_chain_can_list_every_shape_and_no_other() -> None:
    assert set(SHAPES) == set(Shape.__args__)  # type: ignore[attr-defined]
