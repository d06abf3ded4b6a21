"""The learning rate as a function of tokens."""

from hypothesis import given
from hypothesis import strategies as st

from forge.spec.training import CosineSchedule, WsdSchedule
from forge.steps.train.schedule import learning_rate, learning_rate_fraction

WSD = WsdSchedule(name="wsd", warmup_tokens=100, decay_tokens=400, final_lr_fraction=0.1)
COSINE = CosineSchedule(name="cosine", warmup_tokens=100, final_lr_fraction=0.1)


def test_wsd_rises_stays_and_falls_to_its_final_fraction() -> None:
    fractions = [learning_rate_fraction(WSD, tokens, 1000) for tokens in (0, 50, 100, 600, 800, 1000)]
    assert [round(fraction, 12) for fraction in fractions] == [0.0, 0.5, 1.0, 1.0, 0.55, 0.1]


def test_cosine_is_half_way_in_the_middle_and_final_at_the_end() -> None:
    fractions = [learning_rate_fraction(COSINE, tokens, 1100) for tokens in (50, 100, 600, 1100)]
    assert [round(fraction, 12) for fraction in fractions] == [0.5, 1.0, 0.55, 0.1]


@given(tokens=st.integers(0, 600), longer=st.integers(1000, 10**9))
def test_wsd_before_its_decay_does_not_depend_on_the_total(tokens: int, longer: int) -> None:
    assert learning_rate_fraction(WSD, tokens, 1000) == learning_rate_fraction(WSD, tokens, longer)


@given(
    schedule=st.sampled_from([WSD, COSINE, WsdSchedule(name="wsd", warmup_tokens=0, decay_tokens=0)]),
    tokens=st.floats(0, 2000),
)
def test_no_schedule_leaves_zero_to_one(schedule: WsdSchedule | CosineSchedule, tokens: float) -> None:
    assert 0.0 <= learning_rate_fraction(schedule, tokens, 1000) <= 1.0


def test_neither_the_first_nor_the_last_step_is_wasted() -> None:
    to_zero = WsdSchedule(name="wsd", warmup_tokens=100, decay_tokens=400)
    rates = [learning_rate(to_zero, 1.0, step, 50, 1000) for step in (0, 19)]
    assert rates == [0.25, 0.0625]
