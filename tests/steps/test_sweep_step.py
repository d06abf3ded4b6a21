"""The sweep step: what it chooses follows from the figures of the trials before, and from nothing else."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.steps.conftest import NO_DIGEST, MakeRun, RunStep, manifest_of_folder
from tests.steps.test_golden import GOLDEN

from forge.canonical import digest_of_json
from forge.contract.hyperparameters import HYPERPARAMETERS_FILE, Hyperparameters
from forge.contract.kinds import STEPS, StepKind
from forge.errors import StepError
from forge.steps import sweep

LR, DECAY, BATCH = "training.optimizer.lr", "training.optimizer.weight_decay", "training.batch_tokens"
OBJECTIVE = {"task": "t", "metric": "bits_per_byte", "direction": "minimize"}
SPACE = {LR: {"low": 1e-4, "high": 1e-1, "log": True}, DECAY: {"choices": [0.0, 0.1]}}
TPE = {"name": "tpe", "seed": 3, "startup_trials": 4}


def report(folder: Path, value: float | None) -> Path:
    folder.mkdir(parents=True)
    task = {"metrics": {"bits_per_byte": value}, "stderr": {}, "higher_is_better": {}, "items": 1, "task_digest": NO_DIGEST}
    (folder / "report.json").write_text(json.dumps({"schema_version": 1, "tasks": {"t": task}, "settings": {}}))
    return folder


def chosen(folder: Path, **values: float) -> Path:
    folder.mkdir(parents=True)
    names = {"lr": LR, "decay": DECAY}
    made = Hyperparameters(values={names[name]: value for name, value in values.items()})
    (folder / HYPERPARAMETERS_FILE).write_bytes(made.to_bytes())
    return folder


def trials(folder: Path, *rows: tuple[dict[str, float], float | None]) -> dict[str, Path | None]:
    """Trials with their values and figures, as inputs."""
    inputs: dict[str, Path | None] = {}
    for number, (values, figure) in enumerate(rows):
        inputs[f"hyperparameters-{number}"] = chosen(folder / f"h{number}", **values)
        inputs[f"report-{number}"] = report(folder / f"r{number}", figure)
    return inputs


def following(number: int, sampler: dict[str, Any], space: dict[str, Any] = SPACE, **more: Any) -> dict[str, Any]:
    return {"pick": "next", "round": 0, "number": number, "sampler": sampler, "space": space, **more}


def values_of(folder: Path) -> dict[str, float]:
    return Hyperparameters.model_validate_json((folder / HYPERPARAMETERS_FILE).read_bytes()).values


def choose(make_run: MakeRun, parameters: dict[str, Any], inputs: dict[str, Path | None] | None = None) -> dict[str, float]:
    run = make_run("sweep", parameters, inputs or {})
    sweep.run(run)
    return values_of(run.product("hyperparameters"))


def test_the_first_trial_has_the_values_that_are_written(make_run: MakeRun) -> None:
    assert choose(make_run, {"pick": "written", "values": {LR: 0.005, BATCH: 1024}}) == {LR: 0.005, BATCH: 1024}


def test_two_processes_choose_the_same(run_step: RunStep, tmp_path: Path) -> None:
    known = trials(tmp_path, *(({"lr": 10.0**-k, "decay": 0.1}, 2.0 + k) for k in (1, 2, 3, 4)))
    parameters = following(4, TPE, objective=OBJECTIVE)
    one, other = (run_step("sweep", parameters, known, attempt=number) for number in (1, 2))
    assert one.digests() == other.digests()
    assert json.loads((one.folder / "result.json").read_text())["environment"]["optuna"]
    assert one.metrics == values_of(one.product("hyperparameters"))


def test_values_lie_in_the_space_and_differ_from_trial_to_trial_and_round_to_round(make_run: MakeRun) -> None:
    random = {"name": "random", "seed": 3}
    found = [choose(make_run, following(number, random)) for number in range(8)]
    found += [choose(make_run, {**following(number, random), "round": 1}) for number in range(8)]
    assert len({each[LR] for each in found}) == 16
    assert {each[DECAY] for each in found} == {0.0, 0.1}
    assert all(1e-4 <= each[LR] <= 1e-1 for each in found)
    assert sum(each[LR] < 10**-2.5 for each in found) in range(4, 13), "evenly on a logarithmic scale"


@pytest.mark.parametrize("sampler", [{"name": "random"}, {"name": "tpe", "startup_trials": 1}])
def test_whole_numbers_and_steps_are_kept(make_run: MakeRun, sampler: dict[str, Any]) -> None:
    space = {BATCH: {"low": 1024, "high": 4000, "step": 1024}, LR: {"low": 0.1, "high": 0.35, "step": 0.1}}
    for number in range(6):
        found = choose(make_run, following(number, sampler, space))
        assert found[BATCH] in (1024, 2048, 3072)
        assert isinstance(found[BATCH], int)
        assert found[LR] in (pytest.approx(0.1), pytest.approx(0.2), pytest.approx(0.3))


def test_a_grid_has_every_combination_once(make_run: MakeRun) -> None:
    space = {LR: {"choices": [0.1, 0.2, 0.3]}, DECAY: {"low": 0.0, "high": 0.1, "step": 0.1}}
    found = [tuple(choose(make_run, following(number, {"name": "grid"}, space)).values()) for number in range(6)]
    assert sorted(found) == [(lr, decay) for lr in (0.1, 0.2, 0.3) for decay in (0.0, 0.1)]


def draws(make_run: MakeRun, known: dict[str, Path | None], direction: str = "minimize") -> list[float]:
    """Where an adaptive search looks for the rate, over many seeds."""
    objective = {**OBJECTIVE, "direction": direction}
    space = {LR: SPACE[LR]}
    return [choose(make_run, following(20, {**TPE, "seed": seed}, space, objective=objective), known)[LR] for seed in range(12)]


def test_an_adaptive_search_looks_where_the_better_trials_were(make_run: MakeRun, tmp_path: Path) -> None:
    figures = [({"lr": 10 ** (-1 - k / 6)}, float(abs(k - 12))) for k in range(18)]  # the best at 1e-3
    near = [abs(lr) for lr in draws(make_run, trials(tmp_path / "a", *figures))]
    assert sum(10**-3.5 <= lr <= 10**-2.5 for lr in near) >= 9
    far = draws(make_run, trials(tmp_path / "b", *figures), "maximize")
    assert sum(10**-3.5 <= lr <= 10**-2.5 for lr in far) <= 3


def test_a_trial_without_a_figure_counts_as_the_worst(make_run: MakeRun, tmp_path: Path) -> None:
    """Rates above 1e-2 diverge: an adaptive search leaves them alone, as if they had been measured and were bad."""
    figures: list[tuple[dict[str, float], float | None]] = [
        ({"lr": 10 ** (-1 - k / 6)}, None if k < 6 else 3.0 - k / 100) for k in range(18)
    ]
    found = draws(make_run, trials(tmp_path, *figures))
    assert sum(lr > 1e-2 for lr in found) <= 2


def test_trials_at_work_are_known_by_their_values_alone(make_run: MakeRun, tmp_path: Path) -> None:
    """Of those that are chosen together none has a figure yet: a draw next to one of them is not worth much."""
    figures = [({"lr": 10 ** (-1 - k / 6)}, float(abs(k - 12))) for k in range(18)]
    known = trials(tmp_path, *figures)
    sampler = {**TPE, "trials_at_once": 4}
    alone = choose(make_run, following(18, sampler, {LR: SPACE[LR]}, objective=OBJECTIVE), known)
    at_work = {f"hyperparameters-{18 + n}": chosen(tmp_path / f"w{n}", lr=alone[LR] * (1 + n / 100)) for n in range(3)}
    others = choose(make_run, following(18, sampler, {LR: SPACE[LR]}, objective=OBJECTIVE), {**known, **at_work})
    assert others != alone


def test_trials_outside_of_the_space_say_nothing_of_it(make_run: MakeRun, tmp_path: Path) -> None:
    """A later round looks elsewhere: what lies there is not known, and what was found before is no hindrance."""
    space = {LR: {"low": 1.0, "high": 2.0}}
    known = trials(tmp_path, *(({"lr": 10.0**-k}, 1.0) for k in (1, 2, 3, 4)))
    found = choose(make_run, following(0, TPE, space, objective=OBJECTIVE), known)
    assert found == choose(make_run, following(0, TPE, space))


def test_a_trial_between_the_steps_of_the_space_says_nothing_of_it(make_run: MakeRun, tmp_path: Path) -> None:
    """The values that are written need not be a step: an adaptive search goes on without them."""
    space = {LR: {"low": 1e-3, "high": 1e-2, "step": 3e-3}}
    known = trials(tmp_path, ({"lr": 5e-3}, 1.0), ({"lr": 4e-3}, 2.0))
    found = choose(make_run, following(1, {**TPE, "startup_trials": 1}, space, objective=OBJECTIVE), known)
    assert found[LR] in (0.001, 0.004, 0.007, 0.01)


def test_a_drawn_step_is_the_number_that_a_grid_has_there(make_run: MakeRun) -> None:
    """0.05 three times is 0.15: another last digit would be another training."""
    space = {LR: {"low": 0.05, "high": 1.0, "step": 0.05}}
    points = {choose(make_run, following(number, {"name": "grid"}, space))[LR] for number in range(20)}
    drawn = {choose(make_run, following(number, {"name": "random"}, space))[LR] for number in range(30)}
    assert len(drawn) > 8
    assert drawn <= points


def test_a_metric_that_the_suite_does_not_measure_is_named(make_run: MakeRun, tmp_path: Path) -> None:
    known = trials(tmp_path, ({"lr": 0.1}, 1.0))
    with pytest.raises(StepError, match=r"the suite measures bits_per_byte of the task t, and no acc: name one of those"):
        choose(make_run, {"pick": "best", "objective": {**OBJECTIVE, "metric": "acc"}}, known)


def test_the_best_trial_is_the_one_with_the_best_figure_and_of_equal_ones_the_first(make_run: MakeRun, tmp_path: Path) -> None:
    rows = [({"lr": 0.1}, 3.0), ({"lr": 0.2}, None), ({"lr": 0.3}, 2.0), ({"lr": 0.4}, 2.0), ({"lr": 0.5}, 4.0)]

    def best(direction: str, name: str) -> tuple[dict[str, float], Any]:
        objective = {**OBJECTIVE, "direction": direction}
        run = make_run("sweep", {"pick": "best", "objective": objective}, trials(tmp_path / name, *rows))
        metrics = sweep.run(run)
        return values_of(run.product("hyperparameters")), metrics

    values, metrics = best("minimize", "a")
    assert values == {LR: 0.3}
    assert metrics == {"trials": 5, "trial": 2, "value": 2.0, "as_written": 3.0, LR: 0.3}
    assert best("maximize", "b")[0] == {LR: 0.5}


@pytest.mark.parametrize("figures", [[None, None], [None]])
def test_a_search_without_any_figure_has_no_best(make_run: MakeRun, tmp_path: Path, figures: Sequence[None]) -> None:
    known = trials(tmp_path, *(({"lr": 0.1}, figure) for figure in figures))
    with pytest.raises(StepError, match=r"none of the \d trials has a finite bits_per_byte of the task t: they diverged"):
        choose(make_run, {"pick": "best", "objective": OBJECTIVE}, known)


def test_what_is_no_report_and_no_choice_is_refused(make_run: MakeRun, tmp_path: Path) -> None:
    known = trials(tmp_path, ({"lr": 0.1}, 1.0))
    (tmp_path / "r0" / "report.json").write_text("{}")
    with pytest.raises(StepError, match=r"expected the product of an evaluate step, report.json"):
        choose(make_run, {"pick": "best", "objective": OBJECTIVE}, known)
    known = trials(tmp_path / "second", ({"lr": 0.1}, 1.0))
    (tmp_path / "second" / "h0" / HYPERPARAMETERS_FILE).write_text('{"schema_version": 2, "values": {}}')
    with pytest.raises(StepError, match=r"expected the product of a sweep step, hyperparameters.json"):
        choose(make_run, {"pick": "best", "objective": OBJECTIVE}, known)


def test_a_change_of_products_raises_the_step_version(make_run: MakeRun, tmp_path: Path) -> None:
    """Of what a step decides by itself. What Optuna draws may differ in another version of it: a draw that is recorded stays.

    If this fails: was the change meant? Raise the version in contract/kinds.py; golden.json takes what is said.
    """
    runs = [
        make_run("sweep", {"pick": "written", "values": {LR: 0.005, BATCH: 1024}}, {}),
        make_run("sweep", following(2, {"name": "grid"}, {LR: {"low": 0.1, "high": 0.3, "step": 0.1}}), {}),
        make_run("sweep", {"pick": "best", "objective": OBJECTIVE}, trials(tmp_path, ({"lr": 0.1}, 3.0), ({"lr": 0.2}, 2.0))),
    ]
    for run in runs:
        sweep.run(run)
    found = str(digest_of_json([manifest_of_folder(run.product("hyperparameters")).digest for run in runs]))
    version = f"sweep v{STEPS[StepKind.SWEEP].version}"
    assert json.loads(GOLDEN.read_text()).get(version) == found, f'"{version}": "{found}"'
