"""When a training is an earlier one continued: the same bits as a run from scratch (docs/design.md, decision 3).

A longer training continues a shorter one. What has to hold, and why:
1. Only ``training.tokens`` differs, and it grew. The order of the data is a function of seed and position alone
   (``steps.train.data``, rule 2), so the longer run reads what the shorter one read, and goes on.
2. The schedule is wsd: its warm-up is absolute, and between warm-up and decay the rate does not depend on the total. A
   cosine's rate depends on the total at nearly every step.
3. The run is continued from a step before the shorter run's decay. The decay ends with the last whole optimiser step, and
   the rate of a step is the schedule's at the middle of its tokens: a step whose middle lies at or before the start of the
   decay is taken at the full rate, whatever the total.

A branch (``from: {model, step}``) continues the training that it leaves. What is trained is the identity, not what it is
called: a branch's parameters hold, as ``trunk``, how each of its first steps was taken: stretches of optimiser and schedule,
each up to a step. So the branch of a renamed model is the same training, a trunk that is trained for longer leaves its
branches as they are, and where no checkpoint of the trunk is left the branch is trained from its first step on.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from forge.spec.training import LargeTraining, Training, WsdSchedule
from forge.spec.trials import SWEEP

TRUNK = "trunk"
"""The parameter: stretches in order, each {"steps", "optimizer", "schedule"}, and {"tokens"} where the rates depend on the
total."""


def with_trunk(parameters: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """A branch's parameters as its step has them: ``trunk`` in the place of ``from``.

    ``other`` are those of the model that it branches from, its own trunk among them. A branch at a step before that model's
    own branch leaves the same trunk earlier.
    """
    steps: int = parameters["from"]["step"]
    stretches: list[Mapping[str, Any]] = other.get(TRUNK, [])
    inside = next((each for each in stretches if each["steps"] >= steps), None)
    way = other["training"] if inside is None else inside
    last = {"steps": steps, "optimizer": way["optimizer"], "schedule": way["schedule"]}
    if "tokens" in way:
        taken = {name: way[name] for name in ("tokens", "optimizer", "schedule")}
        whole = LargeTraining.model_validate({**other["training"], **taken})
        if steps > steps_before_decay(whole):
            last["tokens"] = whole.tokens
    before = [each for each in stretches if each["steps"] < steps]
    return {**{name: value for name, value in parameters.items() if name != "from"}, TRUNK: [*before, last]}


def earlier_runs(parameters: Mapping[str, Any], tokens: int) -> Iterator[dict[str, Any]]:
    """The parameters of the runs of so many tokens that a run may be the continuation of.

    The first is the same run with another budget; the others are those that it branches from, the farthest first.
    """
    training = {**parameters["training"], "tokens": tokens}
    yield {**parameters, "training": training}
    stretches = parameters.get(TRUNK, [])
    for number, stretch in enumerate(stretches):
        way = {name: stretch[name] for name in ("optimizer", "schedule")}
        rest = {name: value for name, value in parameters.items() if name != TRUNK}
        yield {**rest, "training": {**training, **way}, **({TRUNK: stretches[:number]} if number else {})}


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

    Both are a train step's parameters, as ``meaningful(model.spec, REBUILD)`` gives them, with the trunk of a branch.
    """
    if SWEEP in old or SWEEP in new:
        return "some of its fields are a sweep's choice, which a longer training may have otherwise"
    try:
        before, after = (LargeTraining.model_validate(parameters["training"]) for parameters in (old, new))
    except (KeyError, TypeError, ValidationError):
        return "the parameters are not a train step's"
    stretch = _stretch_of(old, new)
    if stretch is not None:
        return None if _shared_with_trunk(before, stretch) else "the earlier run's rates were others from its first step on"
    return _why_not_longer(old, new, before, after)


def _why_not_longer(old: Mapping[str, Any], new: Mapping[str, Any], before: LargeTraining, after: LargeTraining) -> str | None:
    changed = [path for path in differences(old, new) if path != "training.tokens"]
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
    if why_not_extended(old, new):
        return 0
    before, stretch = LargeTraining.model_validate(old["training"]), _stretch_of(old, new)
    return steps_before_decay(before) if stretch is None else _shared_with_trunk(before, stretch)


def _stretch_of(old: Mapping[str, Any], new: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The stretch of a branch's trunk that an earlier run is of; None where it is of none."""
    if TRUNK not in new:
        return None
    _, *others = earlier_runs(new, old["training"]["tokens"])
    return next((stretch for stretch, other in zip(new[TRUNK], others, strict=True) if other == old), None)


def _shared_with_trunk(before: LargeTraining, stretch: Mapping[str, Any]) -> int:
    """The leading steps of a run whose rates are those of a stretch of a trunk."""
    steps: int = stretch["steps"]
    total = stretch.get("tokens")
    if total == before.tokens:
        return steps
    shared = steps_before_decay(before)
    if total is not None:
        shared = min(shared, steps_before_decay(before.model_copy(update={"tokens": total})))
    return min(steps, shared)


def differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """Dotted paths of the fields in which two values differ."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in sorted(old.keys() | new.keys()):
            here = f"{path}.{name}" if path else str(name)
            if name in old and name in new:
                yield from differences(old[name], new[name], here)
            else:
                yield here
    elif old != new:
        yield path
