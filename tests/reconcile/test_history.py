"""Which run a name on the command line means."""

import pytest

from forge.errors import UsageError
from forge.executors.runs import Run, RunState
from forge.reconcile.history import find_runs


def run(key: str, attempt: int, step_id: str) -> Run:
    return Run("sha256:" + key.ljust(64, "0"), attempt, step_id, RunState.FINISHED, None, None)


RUNS = [run("abc1", 2, "train/b"), run("abc1", 1, "train/b"), run("abd2", 1, "train/a"), run("0ff3", 1, "train/b")]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("abc", RUNS[:2]),
        ("sha256:abc1", RUNS[:2]),
        ("abc-1", RUNS[1:2]),
        ("abd", RUNS[2:3]),
        ("train/b", RUNS[:2]),
        ("train/a", RUNS[2:3]),
    ],
)
def test_a_name_means_a_run_or_one_of_its_attempts(name: str, meant: list[Run]) -> None:
    assert find_runs(RUNS, name) == meant


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ab", "ab means several runs: abc100, abd200"),
        ("abc-3", "no run 'abc-3'"),
        ("train/c", "did you mean `train/b`"),
        ("", "no run ''"),
        ("-1", "no run '-1'"),
    ],
)
def test_a_name_that_means_none_or_several_is_refused(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find_runs(RUNS, name)


def test_a_model_that_is_one_of_its_searchs_trials_is_told_by_their_names() -> None:
    searched = [*RUNS, run("e1", 1, "train/s.0"), run("e2", 1, "train/s.1"), run("e3", 1, "evaluate/s.1.suite")]
    with pytest.raises(
        UsageError, match=r"no run 'train/s' of its own; its search has train/s.0, train/s.1: `forge plan` says"
    ):
        find_runs(searched, "train/s")
    assert find_runs(searched, "train/s.1") == searched[5:6]
