"""The token bucket of a key, under a clock that the test moves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forge.serve.keys import Key
from forge.serve.limits import RateLimiter
from forge.serve.refusal import RefusalError
from forge.spec.inference_policy import Limits, RoleSpec


def key(name: bytes, per_minute: int) -> Key:
    return Key(name, RoleSpec(name="reader", limits=Limits(max_tokens=1, requests_per_minute=per_minute)))


def test_each_key_has_a_bucket_of_its_own() -> None:
    limiter = RateLimiter(lambda: 0.0)
    limiter.take(key(b"a", 1))
    limiter.take(key(b"b", 1))
    with pytest.raises(RefusalError) as caught:
        limiter.take(key(b"a", 1))
    assert (caught.value.status, dict(caught.value.headers)["retry-after"]) == (429, "60")


def test_a_bucket_never_holds_more_than_a_minutes_worth() -> None:
    now = [0.0]
    limiter = RateLimiter(lambda: now[0])
    limiter.take(key(b"a", 2))
    now[0] = 1e6
    assert count(limiter, key(b"a", 2), 5) == 2


@given(per_minute=st.integers(1, 50), steps=st.lists(st.floats(0, 90), max_size=40))
def test_no_window_answers_more_than_the_burst_and_the_refill(per_minute: int, steps: list[float]) -> None:
    now = [0.0]
    limiter = RateLimiter(lambda: now[0])
    answered = 0
    for step in steps:
        now[0] += step
        answered += count(limiter, key(b"a", per_minute), 3)
    assert answered <= per_minute * (1 + now[0] / 60) + 1e-6


@given(per_minute=st.integers(1, 600))
def test_who_waits_as_told_is_answered(per_minute: int) -> None:
    now = [0.0]
    limiter = RateLimiter(lambda: now[0])
    assert count(limiter, key(b"a", per_minute), per_minute + 1) == per_minute
    with pytest.raises(RefusalError) as caught:
        limiter.take(key(b"a", per_minute))
    now[0] += int(dict(caught.value.headers)["retry-after"])
    limiter.take(key(b"a", per_minute))


def count(limiter: RateLimiter, which: Key, times: int) -> int:
    answered = 0
    for _ in range(times):
        try:
            limiter.take(which)
        except RefusalError:
            continue
        answered += 1
    return answered
