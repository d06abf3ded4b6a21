"""When a loss has risen: not for noise, a bad batch or a warm start's bump; for what does not come back."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forge.steps.train.rise import STEPS_REMEMBERED, Losses, has_risen, is_calm

LIMIT = 1.0


def after(values: list[float]) -> Losses:
    losses = Losses()
    for value in values:
        losses = losses.then(value)
    return losses


def first_rise(values: list[float], limit: float | None = LIMIT) -> int | None:
    """The step, from 1, at which a training with these losses would end."""
    losses = Losses()
    for step, value in enumerate(values, 1):
        losses = losses.then(value)
        if has_risen(losses, limit):
            return step
    return None


def noisy(level: float, scatter: float, steps: int, seed: int = 1) -> list[float]:
    generator = random.Random(seed)
    return [level + generator.gauss(0.0, scatter) for _ in range(steps)]


@pytest.mark.parametrize("scatter", [0.02, 0.2, 0.5, 1.0, 2.0])
def test_noise_alone_is_no_rise_and_mostly_calm(scatter: float) -> None:
    """Of batches of a few answers a step's loss may scatter by a nat; the lowest of many means lies far below the rest."""
    losses, calm = Losses(), 0
    values = noisy(4.0, scatter, 20_000)
    for value in values:
        losses = losses.then(value)
        assert not has_risen(losses, LIMIT)
        calm += is_calm(losses, LIMIT)
    assert calm > len(values) / 2


@given(st.lists(st.floats(0.0, 1e6), max_size=3), st.integers(10, 60))
def test_a_few_bad_batches_are_no_rise_however_bad(bad: list[float], at: int) -> None:
    values = noisy(2.0, 0.1, 80)
    values[at : at + len(bad)] = bad
    assert first_rise(values[: at + len(bad) + 8]) is None or min(bad, default=9.0) < 2.0


def test_a_model_that_is_lost_ends_within_a_few_steps() -> None:
    assert first_rise([*noisy(2.0, 0.1, 40), *noisy(3000.0, 900.0, 8)]) in range(44, 47)


def test_a_slow_climb_ends_too() -> None:
    climb = [value + step * 0.02 for step, value in enumerate(noisy(2.0, 0.1, 100))]
    found = first_rise([*noisy(2.0, 0.1, 40), *climb])
    assert found is not None
    assert 85 < found < 110


def test_the_bump_of_a_warm_start_is_no_rise() -> None:
    """A base under a new rate: the loss rises by half a nat, and falls below where it began."""
    bump = [2.0 + 0.5 * min(step / 10, 1.0) - 0.01 * max(0, step - 30) for step in range(120)]
    assert first_rise([value + noise for value, noise in zip(bump, noisy(0.0, 0.15, 120), strict=True)]) is None


def test_a_single_wild_loss_keeps_a_checkpoint_from_being_called_good() -> None:
    values = noisy(2.0, 0.1, 40)
    assert is_calm(after(values), LIMIT)
    assert not is_calm(after([*values, 6.0]), LIMIT)
    assert is_calm(after([*values, 6.0, 2.0]), LIMIT)


def test_what_is_remembered_is_bounded_and_decides_alone() -> None:
    values = noisy(2.0, 0.3, 200)
    losses = after(values)
    assert losses.recent == tuple(values[-STEPS_REMEMBERED:])
    assert Losses(losses.recent, losses.lowest_mean).then(2.5) == after([*values, 2.5])


def test_a_limit_of_none_lets_every_loss_pass() -> None:
    values = [*noisy(2.0, 0.1, 40), *noisy(3000.0, 900.0, 20)]
    assert first_rise(values, None) is None
    assert is_calm(after(values), None)


def test_before_there_are_enough_steps_nothing_is_judged() -> None:
    assert first_rise([2.0, 9.0, 20.0, 40.0, 80.0, 160.0, 320.0]) is None
    assert is_calm(after([2.0, 9.0, 900.0]), LIMIT)
    assert is_calm(Losses((), 2.0).then(2.5), LIMIT)
    assert not is_calm(Losses((), 2.0).then(9.0), LIMIT)
