"""When a longer training is an earlier one continued, and why not otherwise."""

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forge.spec.extend import optimizer_steps, shared_steps, steps_before_decay, why_not_extended
from forge.spec.meaning import EXTEND, REBUILD, meaningful, meanings_of
from forge.spec.model import PretrainSpec
from forge.spec.training import Training
from forge.steps.train.schedule import learning_rate

BATCH = 16


def training(tokens: int, warmup: int = 0, decay: int = 0, batch: int = BATCH, **fields: Any) -> dict[str, Any]:
    schedule = {"name": "wsd", "warmup_tokens": warmup, "decay_tokens": decay}
    given_fields = {"tokens": tokens, "sequence_length": 8, "batch_tokens": batch, "optimizer": {"lr": 0.1}}
    return {**given_fields, "schedule": schedule, **fields}


def parameters(*arguments: Any, **fields: Any) -> dict[str, Any]:
    return {"objective": "pretrain", "architecture": {"hidden_size": 8}, "training": training(*arguments, **fields)}


def changed(path: str, value: Any, **fields: Any) -> dict[str, Any]:
    new = deepcopy(parameters(2000, 100, 400, **fields))
    *parents, last = path.split(".")
    place = new
    for name in parents:
        place = place[name]
    place[last] = value
    return new


def test_tokens_means_extend_and_stays_in_the_key(small_model: PretrainSpec) -> None:
    assert meanings_of(Training)["tokens"] is EXTEND
    assert [name for name, meaning in meanings_of(Training).items() if meaning is EXTEND] == ["tokens"]
    assert meaningful(small_model, REBUILD)["training"]["tokens"] == small_model.training.tokens


def test_a_spec_with_more_tokens_is_the_old_one_continued(small_model: PretrainSpec) -> None:
    longer = small_model.model_copy(update={"training": small_model.training.model_copy(update={"tokens": 80_000})})
    old, new = meaningful(small_model, REBUILD), meaningful(longer, REBUILD)
    assert why_not_extended(old, new) is None
    assert shared_steps(old, new) == steps_before_decay(small_model.training) == 30
    assert shared_steps(new, old) == 0


@pytest.mark.parametrize(
    ("new", "reason"),
    [
        (parameters(2000, 100, 400), "training.tokens is unchanged"),
        (parameters(1000, 100, 400), "was lowered from 2,000 to 1,000"),
        (parameters(4000, 100, 400, seed=1), "training.seed changed"),
        (parameters(4000, 100, 401), "training.schedule.decay_tokens changed"),
        (parameters(4000, 101, 400), "training.schedule.warmup_tokens changed"),
        (parameters(4000, 100, 400, batch=32), "training.batch_tokens changed"),
        (parameters(4000, 100, 400, optimizer={"lr": 0.2}), "training.optimizer.lr changed"),
        (parameters(4000, 100, 400, precision="bfloat16"), "training.precision changed"),
        (parameters(4000, 100, 400, schedule={"name": "cosine", "warmup_tokens": 100}), "training.schedule"),
        (changed("architecture.hidden_size", 16), "architecture.hidden_size changed"),
        (changed("chat_template", "x"), "chat_template changed"),
        (changed("training", None), "not a train step's"),
        ({}, "not a train step's"),
    ],
)
def test_everything_else_is_a_rebuild_and_says_why(new: dict[str, Any], reason: str) -> None:
    old = parameters(2000, 100, 400)
    assert reason in str(why_not_extended(old, new))
    assert shared_steps(old, new) == 0


def test_a_cosine_is_never_extended() -> None:
    cosine = {"name": "cosine", "warmup_tokens": 100}
    old, new = parameters(2000, schedule=cosine), parameters(4000, schedule=cosine)
    assert "cosine schedule depend on training.tokens" in str(why_not_extended(old, new))


def test_a_run_that_decays_from_its_first_step_on_leaves_nothing_to_continue() -> None:
    old, new = parameters(64, 0, 64), parameters(640, 0, 64)
    assert "decays from its first step" in str(why_not_extended(old, new))


def test_more_tokens_within_the_same_last_step_is_a_continuation_of_no_step_more() -> None:
    old, new = parameters(2000 - 7, 100, 0), parameters(2000, 100, 0)
    assert why_not_extended(old, new) is None
    assert shared_steps(old, new) == optimizer_steps(Training.model_validate(new["training"])) == 125


@st.composite
def schedules(draw: st.DrawFn) -> tuple[int, int, int, int]:
    tokens = draw(st.integers(8, 2000))
    warmup = draw(st.integers(0, tokens))
    decay = draw(st.integers(0, tokens - warmup))
    return tokens, warmup, decay, draw(st.sampled_from([8, 16, 24, 64, 1024]))


@given(schedule=schedules(), more=st.integers(1, 4000))
def test_the_shared_steps_are_those_whose_rate_no_longer_run_changes(schedule: tuple[int, int, int, int], more: int) -> None:
    tokens, warmup, decay, batch = schedule
    short = Training.model_validate(training(tokens, warmup, decay, batch))
    long = Training.model_validate(training(tokens + more, warmup, decay, batch))
    count = steps_before_decay(short)

    def rate(run: Training, step: int) -> float:
        return learning_rate(run.schedule, 0.1, step, batch, optimizer_steps(run) * batch)

    assert 0 <= count <= optimizer_steps(short)
    assert count <= steps_before_decay(long)
    assert all(rate(short, step) == rate(long, step) for step in range(count))
    if count < optimizer_steps(short) < optimizer_steps(long) and count < steps_before_decay(long):
        assert rate(short, count) != rate(long, count), "one step more is shared"
