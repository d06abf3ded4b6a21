"""When a longer training is an earlier one continued: the same bits as a run from scratch (docs/design.md, decision 3).

What has to hold, and why:
1. Only ``training.tokens`` differs, and it grew. The order of the data is a function of seed and position alone
   (``steps.train.data``, rule 2), so the longer run reads what the shorter one read, and goes on.
2. The schedule is wsd: its warm-up is absolute, and between warm-up and decay the rate does not depend on the total. A
   cosine's rate depends on the total at nearly every step.
3. The run is continued from a step before the shorter run's decay. The decay ends with the last whole optimiser step, and
   the rate of a step is the schedule's at the middle of its tokens: a step whose middle lies at or before the start of the
   decay is taken at the full rate, whatever the total.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from forge.spec.model import LargeTraining, Training, WsdSchedule


def optimizer_steps(training: Training) -> int:
    """Optimiser steps of a training: the tokens asked for, rounded up to whole steps."""
    return -(-training.tokens // training.batch_tokens)


def steps_before_decay(training: Training) -> int:
    """How many leading steps any longer training shares to the last bit; 0 where the schedule shares none.

    Step s (from 0) is among them where (s + 1/2) * batch_tokens <= total - decay_tokens.
    """
    if not isinstance(training.schedule, WsdSchedule):
        return 0
    batch = training.batch_tokens
    decay_start = optimizer_steps(training) * batch - training.schedule.decay_tokens
    return (2 * decay_start + batch) // (2 * batch)


def why_not_extended(old: Mapping[str, Any], new: Mapping[str, Any]) -> str | None:
    """Why a train step has to be rebuilt; None where the new run is the old one continued, to the last digit.

    Both are a train step's parameters, as ``meaningful(model.spec, REBUILD)`` gives them.
    """
    try:
        before, after = (LargeTraining.model_validate(parameters["training"]) for parameters in (old, new))
    except (KeyError, TypeError, ValidationError):
        return "the parameters are not a train step's"
    changed = [path for path in _differences(old, new) if path != "training.tokens"]
    if changed or new.get("objective") in ("sft", "dpo"):
        what = f"{', '.join(changed)} changed: only training.tokens may differ between a run and its continuation"
        return what if changed else "fine-tuning keeps no checkpoint that a longer run may go on from"
    if after.tokens <= before.tokens:
        how = "is unchanged" if after.tokens == before.tokens else f"was lowered from {before.tokens:,} to {after.tokens:,}"
        return f"training.tokens {how}: only a longer run continues another"
    if not isinstance(after.schedule, WsdSchedule):
        return (
            f"the rates of a {after.schedule.name} schedule depend on training.tokens from the warm-up on; those of wsd do not"
        )
    if steps_before_decay(before) == 0:
        return "the earlier run's learning rate decays from its first step on: no checkpoint from before the decay exists"
    return None


def shared_steps(old: Mapping[str, Any], new: Mapping[str, Any]) -> int:
    """The last optimiser step of the old run from which the new one may go on; 0 where it may not."""
    return 0 if why_not_extended(old, new) else steps_before_decay(LargeTraining.model_validate(old["training"]))


def kept_tokens(parameters: Mapping[str, Any]) -> int:
    """Tokens of a train step's run that a longer one need not repeat: those before its checkpoint from before the decay."""
    training = LargeTraining.model_validate(parameters["training"])
    return steps_before_decay(training) * training.batch_tokens


def _differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """Dotted paths of the fields that differ."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in sorted(old.keys() | new.keys()):
            here = f"{path}.{name}" if path else str(name)
            if name in old and name in new:
                yield from _differences(old[name], new[name], here)
            else:
                yield here
    elif old != new:
        yield path
