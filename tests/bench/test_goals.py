"""Benches say whether their goals are met."""

from pathlib import Path

import pytest
from tests.bench.goals import Goals, at_least, at_most

BENCHES = sorted(
    path for path in Path(__file__).parent.glob("*.py") if "__main__" in path.read_text() and not path.name.startswith("test_")
)


def test_a_figure_is_judged_as_it_was_measured() -> None:
    goals = Goals()
    assert goals.judge("ratio", 19.6, at_least(20, "times")) == ">= 20 times: MISSED"
    assert goals.judge("seconds", 1.0, at_most(1.0, "s")) == "<= 1 s: met"
    assert goals.judge("rate", 55_000.0, at_least(55_000)) == ">= 55,000: met"
    assert goals.judge("peer", 3.0, None) == ""
    assert goals.summary() == "Goals: 2 of 3 met; MISSED: ratio."
    assert Goals([("seconds", True)]).summary() == "Goals: 1 of 1 met."
    assert Goals().summary().startswith("Goals: none is set here")


@pytest.mark.parametrize("path", BENCHES, ids=lambda path: path.stem)
def test_each_bench_judges_its_figures_and_sums_that_up(path: Path) -> None:
    text = path.read_text()
    assert "from tests.bench.goals import " in text
    assert "summary()" in text
    assert "| goal |" not in text or ".judge(" in text
    assert "(goal " not in text, "a goal that nobody judges"
