"""The learning rate as a pure function of tokens seen: what a resumed run needs of the schedule is its position."""

import math

from forge.spec.training import CosineSchedule, WsdSchedule

Schedule = WsdSchedule | CosineSchedule


def learning_rate_fraction(schedule: Schedule, tokens: float, total_tokens: int) -> float:
    """The share of the peak learning rate at a number of tokens seen, 0..1.

    Warm-up is absolute, so a WSD run is the same up to its decay whatever its total. WSD: Hu et al. 2024 (MiniCPM);
    cosine: Loshchilov & Hutter 2017.
    """
    if tokens < schedule.warmup_tokens:
        return tokens / schedule.warmup_tokens
    final = schedule.final_lr_fraction
    if isinstance(schedule, WsdSchedule):
        decay_start = total_tokens - schedule.decay_tokens
        if tokens <= decay_start:
            return 1.0
        progress = min(1.0, (tokens - decay_start) / max(1, schedule.decay_tokens))
        return 1.0 - (1.0 - final) * progress
    progress = min(1.0, (tokens - schedule.warmup_tokens) / max(1, total_tokens - schedule.warmup_tokens))
    return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * progress))


def learning_rate(schedule: Schedule, peak: float, step: int, batch_tokens: int, total_tokens: int) -> float:
    """The rate of optimiser step ``step`` (from 0): the schedule at the middle of the tokens of that step.

    The middle, because the start would waste the first step (rate 0) and the end the last one.
    """
    return peak * learning_rate_fraction(schedule, (step + 0.5) * batch_tokens, total_tokens)
