"""How fast training goes, validations and checkpoints not counted, when to say so again, and the memory that it takes."""

import math
import resource
import time

import torch

_EVENT_INTERVAL_SECONDS = 0.5


def memory_bytes(device: torch.device) -> int:
    """The most that this process has held: of the accelerator's memory, or resident where it trains on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts KiB


class Throughput:
    """Seconds and tokens of training steps, in all and since the last event."""

    def __init__(self) -> None:
        self._started = 0.0
        self._seconds = 0.0
        self._tokens = 0
        self._last_event = -math.inf
        self._seconds_at_event = 0.0
        self._tokens_at_event = 0

    def start(self) -> None:
        """Begin a step."""
        self._started = time.perf_counter()

    def stop(self, tokens: int) -> None:
        """End a step of so many tokens."""
        self._seconds += time.perf_counter() - self._started
        self._tokens += tokens

    def event_is_due(self) -> bool:
        """Whether enough time went by since the last event."""
        return time.perf_counter() - self._last_event >= _EVENT_INTERVAL_SECONDS

    def recent_tokens_per_second(self, tokens: int) -> float:
        """The rate since the last event, the running step of ``tokens`` included; notes an event."""
        now = time.perf_counter()
        seconds, done = self._seconds + now - self._started, self._tokens + tokens
        rate = (done - self._tokens_at_event) / max(1e-9, seconds - self._seconds_at_event)
        self._last_event, self._seconds_at_event, self._tokens_at_event = now, seconds, done
        return rate

    @property
    def tokens_per_second(self) -> float:
        """The rate of all steps so far."""
        return self._tokens / self._seconds if self._seconds else 0.0
