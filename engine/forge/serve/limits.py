"""Limits of a role: how often its keys may ask, and how much one request may ask for. Pure but for the clock it is given."""

import math
from collections.abc import Callable

from forge.serve.keys import Key
from forge.serve.refusal import RefusalError, bad_request
from forge.serve.request import GenerationRequest
from forge.spec.inference_policy import RoleSpec

DEFAULT_TEMPERATURE = 1.0


class RateLimiter:
    """A token bucket per key: ``requests_per_minute`` at once, refilled evenly at that rate."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        """Monotonic seconds."""
        self._buckets: dict[bytes, tuple[float, float]] = {}
        """Digest of the key -> (requests left, time of the count)."""

    def take(self, key: Key) -> None:
        """Count one request; raises RefusalError (429) with the seconds until the next would be answered."""
        capacity = key.role.limits.requests_per_minute
        rate = capacity / 60
        now = self._clock()
        left, then = self._buckets.get(key.digest, (float(capacity), now))
        left = min(float(capacity), left + max(0.0, now - then) * rate)
        if left < 1:
            self._buckets[key.digest] = (left, now)
            raise RefusalError(
                429,
                f"role {key.role.name!r} may ask {capacity} times a minute with one key",
                code="rate_limit_exceeded",
                retry_after=max(1, math.ceil((1 - left) / rate)),
            )
        self._buckets[key.digest] = (left - 1, now)


def check_limits(request: GenerationRequest, role: RoleSpec) -> None:
    """Hold a request against its role's limits; raises RefusalError (400) that names parameter, limit and value."""
    limits = role.limits
    for parameter in sorted(request.named - set(role.parameters)):
        raise bad_request(
            f"role {role.name!r} may not use the parameter {parameter!r}", code="parameter_not_allowed", param=parameter
        )
    for parameter, found, most in (
        ("max_tokens", request.max_tokens, limits.max_tokens),
        ("n", request.n, limits.max_n),
        ("temperature", request.parameters.get("temperature"), limits.max_temperature),
    ):
        if found is not None and found > most:
            raise _over_limit(role, parameter, found, most)
    if request.prompt_characters > limits.max_prompt_characters:
        raise _over_limit(role, request.prompt_field, request.prompt_characters, limits.max_prompt_characters)


def max_tokens_of(request: GenerationRequest, role: RoleSpec) -> int:
    """The bound that the engine is given: what the request names, else the role's limit."""
    return role.limits.max_tokens if request.max_tokens is None else request.max_tokens


def temperature_of(request: GenerationRequest, role: RoleSpec) -> float:
    """The temperature that the engine is given; one is always set, or its default could pass the role's limit."""
    named = request.parameters.get("temperature")
    return min(DEFAULT_TEMPERATURE, role.limits.max_temperature) if named is None else float(named)


def _over_limit(role: RoleSpec, parameter: str, found: float, most: float) -> RefusalError:
    unit = " characters" if parameter in {"prompt", "messages"} else ""
    return bad_request(
        f"{parameter} is {found:g}{unit}, and role {role.name!r} may ask for at most {most:g}{unit}",
        code="limit_exceeded",
        param=parameter,
    )
