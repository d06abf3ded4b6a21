"""Trials as values: which there are, what each knows, what they are trained with; and what an edit leaves as it was."""

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import MODEL
from tests.spec.test_continue_spec import NEXT
from tests.spec.test_dpo_spec import PREFERRING

from forge.spec.compiled import compile_resource, read_json
from forge.spec.load import load
from forge.spec.sweep import Dimension, Round
from forge.spec.training import LargeTraining
from forge.spec.trials import Trial, as_written, grid_point, points_of, trials_of, with_values, without
from forge.spec.tuning import Adapter

SPACE = {"training.optimizer.lr": {"low": 0.001, "high": 0.01}}


def tpe(trials: int, **options: int) -> Round:
    return Round.model_validate({"trials": trials, "sampler": {"name": "tpe", **options}, "space": SPACE})


def random(trials: int) -> Round:
    return Round.model_validate({"trials": trials, "sampler": {"name": "random"}, "space": SPACE})


def grid(points: int) -> Round:
    choices = [number / 1000 for number in range(1, points + 1)]
    return Round.model_validate({"sampler": {"name": "grid"}, "space": {"training.optimizer.lr": {"choices": choices}}})


def known(*rounds: Round) -> list[int]:
    """How many trials each one knows, from trial 1 on."""
    return [trial.knows for trial in trials_of(rounds)]


def test_the_first_trials_know_nothing_and_the_model_as_it_is_written_is_one_of_them() -> None:
    assert known(tpe(6, startup_trials=3)) == [0, 0, 3, 4, 5, 6]
    assert known(tpe(3, startup_trials=1)) == [1, 2, 3]
    assert known(tpe(3)) == [0, 0, 0]  # of ten by default


def test_trials_that_may_run_at_once_are_chosen_by_the_same_figures() -> None:
    assert known(tpe(8, startup_trials=2, trials_at_once=3)) == [0, 2, 2, 2, 5, 5, 5, 8]


def test_a_grid_and_draws_at_random_know_nothing() -> None:
    assert known(grid(3), random(2)) == [0] * 5


def test_a_round_that_is_added_knows_all_trials_of_the_rounds_before() -> None:
    assert known(random(4), tpe(3, startup_trials=2)) == [0, 0, 0, 0, 5, 6, 7]
    assert known(random(2), tpe(4, startup_trials=5)) == [0, 0, 0, 0, 5, 6]  # startups are counted over all rounds
    assert known(tpe(3, startup_trials=2), tpe(4, startup_trials=2, trials_at_once=2)) == [0, 2, 3, 4, 4, 6, 6]


def test_trials_are_numbered_through_all_rounds_and_in_each() -> None:
    assert list(trials_of([grid(2), random(1)])) == [Trial(1, 0, 0, 0), Trial(2, 0, 1, 0), Trial(3, 1, 0, 0)]


rounds = st.lists(
    st.one_of(
        st.builds(grid, st.integers(1, 4)),
        st.builds(random, st.integers(1, 4)),
        st.builds(
            tpe, st.integers(1, 9), startup_trials=st.integers(1, 12), trials_at_once=st.integers(1, 4), seed=st.integers(0, 1)
        ),
    ),
    min_size=1,
    max_size=4,
)


@given(rounds)
def test_a_trial_knows_those_before_it_at_most_and_of_those_all_but_who_runs_beside_it(found: list[Round]) -> None:
    trials = list(trials_of(found))
    assert [trial.number for trial in trials] == list(range(1, 1 + sum(each.num_trials for each in found)))
    for trial in trials:
        sampler = found[trial.round].sampler
        assert trial.knows <= trial.number
        if sampler.name == "tpe" and trial.number >= sampler.startup_trials:
            assert trial.number - trial.knows < sampler.trials_at_once
            assert trial.knows >= sampler.startup_trials
        else:
            assert trial.knows == 0


@given(rounds, rounds, st.integers(1, 5))
def test_a_longer_last_round_and_rounds_that_are_added_change_no_trial_that_was_there(
    found: list[Round], added: list[Round], more: int
) -> None:
    before = list(trials_of(found))
    *others, last = found
    if last.trials is not None:
        last = last.model_copy(update={"trials": last.trials + more})
    assert list(trials_of([*others, last]))[: len(before)] == before
    assert list(trials_of([*found, *added]))[: len(before)] == before


@given(rounds, st.integers(0, 3), st.integers(1, 5))
def test_a_longer_round_changes_only_what_the_later_ones_know_and_their_numbers(
    found: list[Round], index: int, more: int
) -> None:
    index = min(index, len(found) - 1)
    longer = list(found)
    if longer[index].trials is not None:
        longer[index] = longer[index].model_copy(update={"trials": (longer[index].trials or 0) + more})
    places = {(trial.round, trial.place): trial for trial in trials_of(longer)}
    for trial in trials_of(found):
        now = places[trial.round, trial.place]
        assert now == trial if trial.round <= index else now.number >= trial.number


def space(**fields: dict[str, Any]) -> dict[str, Dimension]:
    return {name: Dimension.model_validate(each) for name, each in fields.items()}


def test_a_grid_goes_through_its_fields_by_name_and_the_last_one_changes_fastest() -> None:
    found = space(b={"choices": [3, 1]}, a={"low": 0.5, "high": 1.5, "step": 0.5})
    points = [grid_point(found, place) for place in range(6)]
    assert points == [{"a": a, "b": b} for a in (0.5, 1.0, 1.5) for b in (3, 1)]
    assert list(points[0]) == ["a", "b"]


@given(st.dictionaries(st.sampled_from("abcd"), st.lists(st.integers(0, 9), min_size=1, max_size=3, unique=True), min_size=1))
def test_a_grid_has_every_combination_once(choices: dict[str, list[int]]) -> None:
    found = space(**{name: {"choices": values} for name, values in choices.items()})
    total = len(list(itertools.product(*choices.values())))
    points = [grid_point(found, place) for place in range(total)]
    assert len({tuple(sorted(point.items())) for point in points}) == total
    assert all(point[name] in values for point in points for name, values in choices.items())


@pytest.mark.parametrize(
    ("field", "dimension", "expected"),
    [
        ("beta", {"low": 0.1, "high": 0.5, "step": 0.1}, [0.1, 0.2, 0.3, 0.4, 0.5]),  # not 0.30000000000000004
        ("beta", {"low": 0.1, "high": 0.55, "step": 0.2}, [0.1, 0.3, 0.5]),
        ("beta", {"low": 0, "high": 0.3, "step": 0.1}, [0.0, 0.1, 0.2, 0.3]),
        ("beta", {"low": 1e-4, "high": 3e-4, "step": 1e-4}, [1e-4, 2e-4, 3e-4]),
        ("beta", {"low": 0.1, "high": 0.2, "step": 5}, [0.1]),
        ("training.seed", {"low": 3, "high": 6}, [3, 4, 5, 6]),
        ("training.seed", {"low": 0, "high": 7, "step": 3}, [0, 3, 6]),
        ("training.seed", {"choices": [4, 2]}, [4, 2]),
    ],
)
def test_steps_are_counted_as_they_are_written(field: str, dimension: dict[str, Any], expected: list[float]) -> None:
    found = space(**{field: dimension})
    assert points_of(found) == [expected]
    assert [type(value) for value in points_of(found)[0]] == [type(value) for value in expected]
    assert found[field].num_points == len(expected)


@given(st.integers(-1000, 1000), st.integers(1, 200), st.integers(0, 300), st.sampled_from([1, 10, 1000, 10**6]))
def test_a_range_ends_with_its_last_whole_step(low: int, step: int, steps: int, scale: int) -> None:
    """Decimal fractions, whose sums floats would not give."""
    high = low + step * steps + (step - 1)
    if low == high:
        return
    dimension = Dimension(low=low / scale, high=high / scale, step=step / scale)
    assert points_of({"beta": dimension}) == [[(low + number * step) / scale for number in range(steps + 1)]]


def test_a_grid_is_counted_without_being_walked() -> None:
    written = {"sampler": {"name": "grid"}, "space": {"training.seed": {"low": 0, "high": 10**12}, "beta": {"choices": [1, 2]}}}
    assert Round.model_validate(written).num_trials == 2 * (10**12 + 1)


def parameters(text: str) -> dict[str, Any]:
    """Those of a model, as planning has them."""
    (located,) = load([("m.yaml", text.encode())]).resources
    found: dict[str, Any] = read_json(compile_resource(located.resource).parameters)
    return found


MODELS = [parameters(text) for text in (MODEL, NEXT, PREFERRING, PREFERRING.replace("  beta: 0.2\n", ""))]
IN_EACH = (
    "training.optimizer.lr",
    "training.optimizer.eps",
    "training.optimizer.weight_decay",
    "training.optimizer.gradient_clip_norm",
    "training.schedule.warmup_tokens",
    "training.schedule.decay_tokens",
    "training.schedule.final_lr_fraction",
    "training.batch_tokens",
    "training.seed",
)
OWN = {
    "pretrain": (),
    "continue": ("replay.fraction",),
    "dpo": ("beta", "adapter.lora.rank", "adapter.lora.alpha", "adapter.lora.dropout"),
}
models_and_fields = st.sampled_from(MODELS).flatmap(
    lambda found: st.tuples(
        st.just(found), st.lists(st.sampled_from((*IN_EACH, *OWN[found["objective"]])), min_size=1, unique=True)
    )
)


def meaning(found: dict[str, Any]) -> list[Any]:
    """What a training is, wherever its values stand at their default."""
    adapter = found.get("adapter")
    rest = {name: value for name, value in found.items() if name not in ("training", "adapter", "beta")}
    return [
        LargeTraining.model_validate(found["training"]),
        None if adapter is None else Adapter.model_validate(adapter),
        found.get("beta", 0.1),
        rest,
    ]


@given(models_and_fields)
def test_a_training_with_the_values_that_are_written_is_the_model_itself(case: tuple[dict[str, Any], list[str]]) -> None:
    found, fields = case
    assert meaning(with_values(without(found, fields), as_written(found, fields))) == meaning(found)


@given(models_and_fields, st.floats(0.01, 0.9))
def test_what_is_searched_is_no_part_of_a_training_whatever_is_written(
    case: tuple[dict[str, Any], list[str]], value: float
) -> None:
    found, fields = case
    other = with_values(found, dict.fromkeys(fields, value))
    assert as_written_in(other, fields) == dict.fromkeys(fields, value)
    assert without(other, fields) == without(found, fields)
    assert without(without(found, fields), fields) == without(found, fields)


def as_written_in(found: dict[str, Any], fields: list[str]) -> dict[str, Any]:
    """The values at some places."""
    values = {}
    for field in fields:
        at: Any = found
        for part in field.split("."):
            at = at[part]
        values[field] = at
    return values


def test_parameters_that_were_given_stay_as_they_were() -> None:
    found = parameters(MODEL)
    with_values(found, {"training.optimizer.eps": 1e-6, "adapter.lora.rank": 2})
    without(found, ["training.optimizer.lr", "beta"])
    assert found == parameters(MODEL)


def test_values_at_their_default_are_written_too() -> None:
    found = as_written(parameters(MODEL), ["training.optimizer.weight_decay", "training.seed", "training.optimizer.lr"])
    assert found == {"training.optimizer.weight_decay": 0.1, "training.seed": 5, "training.optimizer.lr": 0.005}
    assert as_written(parameters(PREFERRING.replace("  beta: 0.2\n", "")), ["beta"]) == {"beta": 0.1}
    assert as_written(parameters(PREFERRING), ["adapter.lora.dropout", "beta"]) == {"adapter.lora.dropout": 0.0, "beta": 0.2}


@pytest.mark.parametrize(
    ("text", "field"),
    [
        (MODEL, "beta"),
        (MODEL, "adapter.lora.rank"),
        (MODEL, "replay.fraction"),
        (MODEL.replace("{lr: 5.0e-3}", "{lr: 5.0e-3, gradient_clip_norm: null}"), "training.optimizer.gradient_clip_norm"),
        (
            MODEL.replace("name: wsd, warmup_tokens: 2k, decay_tokens: 10k", "name: cosine, warmup_tokens: 2k"),
            "training.schedule.decay_tokens",
        ),
    ],
)
def test_a_field_that_a_model_has_not_has_no_value(text: str, field: str) -> None:
    with pytest.raises(KeyError):
        as_written(parameters(text), [field])
