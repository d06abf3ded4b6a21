"""What the trials of a search are trained with, as pure functions of a model's and a sweep's parameters.

Trial 0 is the model as it is written: so the best trial is never worse than that, and what is written is not lost. The others
follow round by round. Invariants:
1. The fields that are searched are no part of a training's parameters: their values come as an input, by its digest. So a
   trial, and the model itself, are the same training where all else is the same, and nothing is trained twice.
2. A trial of a round is told by the round's space and sampler, its number in the round, and the figures that it was chosen by:
   a round that is longer, or that is added, changes none of those that were there.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from pydantic import ValidationError

from forge.spec.sweep import WHOLE, Dimension, Round, TpeSampler

SWEEP = "sweep"
"""The parameter of a training that lists the fields whose values come as an input."""
Value = int | float
_MOST_CORNERS = 64


class Trial(NamedTuple):
    """One trial of a search, beside the first."""

    number: int
    """From 1: the first, 0, is the model as it is written."""
    round: int
    """The number of its round, from 0."""
    place: int
    """Its number in the round, from 0."""
    knows: int
    """How many trials it was chosen after: the figures of trials 0 to ``knows - 1``; 0 where it was chosen by itself."""


def trials_of(rounds: Sequence[Round]) -> Iterator[Trial]:
    """All trials of all rounds, in order."""
    number = 1
    for index, each in enumerate(rounds):
        first = number
        for place in range(num_trials(each)):
            yield Trial(number, index, place, _known_to(number, first, each))
            number += 1


def num_trials(each: Round) -> int:
    """How many trials a round has."""
    if each.trials is not None:
        return each.trials
    count = 1
    for points in points_of(dict(each.space.items())):
        count *= len(points)
    return count


def _known_to(number: int, first: int, each: Round) -> int:
    """How many trials a trial is chosen after, by the sampler of its round, which begins with trial ``first``."""
    sampler = each.sampler
    if not isinstance(sampler, TpeSampler) or number < sampler.startup_trials:
        return 0
    begin = max(first, sampler.startup_trials)
    return begin + (number - begin) // sampler.trials_at_once * sampler.trials_at_once


def points_of(space: Mapping[str, Dimension]) -> list[list[Value]]:
    """The points of each field of a grid, the fields in the order of their names. The grid is finite."""
    return [_points(space[field], whole=field in WHOLE) for field in sorted(space)]


def grid_point(space: Mapping[str, Dimension], place: int) -> dict[str, Value]:
    """The combination of a grid at a place."""
    combination = next(itertools.islice(itertools.product(*points_of(space)), place, None))
    return dict(zip(sorted(space), combination, strict=True))


def _points(dimension: Dimension, *, whole: bool) -> list[Value]:
    """Steps are counted as they are written: three times 0.1 is 0.3."""
    if dimension.choices is not None:
        return list(dimension.choices)
    low, high = Decimal(repr(dimension.low)), Decimal(repr(dimension.high))
    step = Decimal(repr(dimension.step if dimension.step is not None else 1))
    values = (low + number * step for number in range(int((high - low) / step) + 1))
    return [int(value) if whole else float(value) for value in values]


def without(parameters: Mapping[str, Any], fields: Sequence[str]) -> dict[str, Any]:
    """A training's parameters without the values of some fields."""
    found = _copy(parameters)
    for field in fields:
        *path, name = field.split(".")
        at: dict[str, Any] | None = found
        for part in path:
            at = at.get(part) if at is not None else None
        if at is not None:
            at.pop(name, None)
    return found


def with_values(parameters: Mapping[str, Any], values: Mapping[str, Value]) -> dict[str, Any]:
    """A training's parameters with other values of some fields."""
    found = _copy(parameters)
    for field, value in values.items():
        *path, name = field.split(".")
        at = found
        for part in path:
            at = at.setdefault(part, {})
        at[name] = value
    return found


def as_written(parameters: Mapping[str, Any], fields: Sequence[str]) -> dict[str, Value]:
    """The values that fields have in a model, those at their default too; raises KeyError for a field that it has not."""
    from forge.spec.training import LargeTraining
    from forge.spec.tuning import Adapter, DpoSpec

    whole: dict[str, Any] = {"training": LargeTraining.model_validate(parameters["training"]).model_dump()}
    if parameters.get("adapter") is not None:
        whole["adapter"] = Adapter.model_validate(parameters["adapter"]).model_dump()
    if parameters.get("replay") is not None:
        whole["replay"] = parameters["replay"]
    if parameters["objective"] == "dpo":
        whole["beta"] = parameters.get("beta", DpoSpec.model_fields["beta"].default)
    found = {}
    for field in fields:
        at = whole
        for part in field.split("."):
            at = at[part]
        if at is None:
            raise KeyError(field)
        found[field] = at
    return found  # type: ignore[return-value]


def why_not_searched(
    parameters: Mapping[str, Any], settings: Mapping[str, Any], rounds: Sequence[Round], trial: Mapping[str, Value]
) -> str | None:
    """Why a model cannot be trained as some trial of a sweep would have it; None where all can.

    The ends of every range and all choices are tried, together as far as they are few; what lies between them is not.
    """
    fields = sorted(map(str, rounds[0].space))
    for field in (*fields, *trial):
        try:
            as_written(parameters, [field])
        except KeyError:
            return f"it has no {field}, or none is set"
    for each in rounds:
        space: Mapping[str, Dimension] = dict(each.space.items())
        ends = [_ends(space[field]) for field in fields]
        for values in itertools.islice(itertools.product(*ends), _MOST_CORNERS):
            chosen = dict(zip(fields, values, strict=True))
            fault = _fault(with_values(parameters, {**trial, **chosen}), settings)
            if fault is not None:
                told = ", ".join(f"{field} {value:g}" for field, value in {**trial, **chosen}.items())
                return f"with {told}: {fault}"
    return None


def _ends(dimension: Dimension) -> list[Value]:
    if dimension.choices is not None:
        return list(dimension.choices)
    return [end for end in (dimension.low, dimension.high) if end is not None]


def _fault(parameters: Mapping[str, Any], settings: Mapping[str, Any]) -> str | None:
    """What is wrong with the parameters of a training, as far as its fields say."""
    from forge.spec.model import Replay
    from forge.spec.training import LargeTraining
    from forge.spec.tuning import Adapter

    try:
        LargeTraining.model_validate({**parameters["training"], **settings.get("training", {})})
        if parameters.get("adapter") is not None:
            Adapter.model_validate(parameters["adapter"])
        if parameters.get("replay") is not None:
            Replay.model_validate({"data": "DataRecipe/any", **parameters["replay"]})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        return f"{place}: {first['msg']}" if place else str(first["msg"]).removeprefix("Value error, ")
    return "beta is not above 0" if parameters.get("beta", 1) <= 0 else None


def _copy(value: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _copy(each) if isinstance(each, Mapping) else each for name, each in value.items()}
