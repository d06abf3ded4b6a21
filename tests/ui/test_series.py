"""A run's figures over its tokens, put together from its attempts."""

from hypothesis import given
from hypothesis import strategies as st

from forge.contract.messages import Event
from forge.ui.series import series_of


def event(tokens: int, loss: float, **more: float) -> Event:
    return Event(time=float(tokens), tokens=tokens, loss=loss, **more)


def test_what_a_killed_attempt_did_after_its_last_checkpoint_is_left_out() -> None:
    first = [event(8, 9.0), event(16, 8.0), event(24, 7.0), event(32, 6.5)]
    second = [Event(time=40.0, tokens=16, message="resumed from checkpoint"), event(24, 7.5)]
    series = series_of([first, second], None)
    assert list(zip(series["loss"].tokens, series["loss"].values, strict=True)) == [(8, 9.0), (16, 8.0), (24, 7.5)]


def test_an_attempt_that_died_before_its_first_step_changes_nothing() -> None:
    first = [event(8, 9.0), event(16, 8.0)]
    assert series_of([first, [Event(time=20.0, message="failed")]], None) == series_of([first], None)


def test_validation_is_another_curve_than_training() -> None:
    series = series_of([[event(8, 9.0), Event(time=9.0, tokens=8, loss=9.5, bits_per_byte=3.1, message="validation")]], None)
    assert (series["loss"].values, series["validation_loss"].values, series["bits_per_byte"].values) == ((9.0,), (9.5,), (3.1,))


def test_replayed_data_has_curves_of_its_own_and_a_base_is_no_point_of_any() -> None:
    base = Event(time=1.0, loss=4.0, bits_per_byte=2.0, message="validation of the base")
    first = [base, event(8, 9.0), event(16, 8.0)]
    replayed = Event(time=9.0, tokens=24, loss=5.0, bits_per_byte=1.5, message="validation, replayed data")
    second = [base, Event(time=20.0, tokens=16, message="resumed from checkpoint"), event(24, 7.0), replayed]
    series = series_of([first, second], None)
    assert series["loss"].values == (9.0, 8.0, 7.0)
    assert (series["replay_validation_loss"].values, series["replay_bits_per_byte"].values) == ((5.0,), (1.5,))
    assert "validation_loss" not in series
    assert "bits_per_byte" not in series


def test_mfu_is_a_share_of_the_peak_and_absent_without_one() -> None:
    events = [event(8, 9.0, flops_per_second=5e10)]
    assert series_of([events], 2e11)["mfu"].values == (0.25,)
    assert "mfu" not in series_of([events], None)


@given(st.lists(st.lists(st.integers(0, 50).map(lambda at: event(8 * at, 1.0)), max_size=6), max_size=4))
def test_tokens_of_a_series_only_grow(attempts: list[list[Event]]) -> None:
    for series in series_of(attempts, None).values():
        assert list(series.tokens) == sorted(set(series.tokens))
