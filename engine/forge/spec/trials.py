"""What the trials of a search are trained with, as pure functions of a model's and a sweep's parameters.

Trial 0 is the model as it is written: so the best trial is never worse than that, and what is written is not lost. The others
follow round by round. Invariants:
1. The fields that are searched are no part of a training's parameters: their values come as an input, by its digest. So a
   trial, and the model itself, are the same training where all else is the same, and nothing is trained twice.
2. A trial of a round is told by the round's space and sampler, its number in the round, and the figures that it was chosen by:
   a round that is longer, or that is added, changes none of those that were there.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError

from forge.spec.sweep import WHOLE, Dimension, Round, TpeSampler

SWEEP = "sweep"
"""The parameter of a training that lists the fields whose values come as an input."""
Value = int | float
_MOST_CORNERS, _MOST_BETWEEN = 64, 32


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
        for place in range(each.num_trials):
            yield Trial(number, index, place, _known_to(number, first, each))
            number += 1


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
    return dimension.choices or [point_of(dimension, place, whole=whole) for place in range(dimension.num_points)]


def point_of(dimension: Dimension, place: int, *, whole: bool) -> Value:
    """A value of a range with steps, by its number from 0."""
    low, step = (Decimal(repr(value)) for value in (dimension.low, 1 if dimension.step is None else dimension.step))
    value = low + place * step
    return int(value) if whole else float(value)


def contains(dimension: Dimension, field: str, value: Value) -> bool:
    """Whether a value may be drawn for a field."""
    if dimension.choices is not None:
        return value in dimension.choices
    if dimension.low is None or dimension.high is None or not dimension.low <= value <= dimension.high:
        return False
    whole = field in WHOLE
    if dimension.step is None and not whole:
        return True
    if dimension.log:
        return value == int(value)
    return value == nearest_point(dimension, value, whole=whole)


def nearest_point(dimension: Dimension, value: Value, *, whole: bool) -> Value:
    """The value of a range with steps that a number is nearest to: a sampler's own arithmetic may miss it by a digit."""
    low, step = (Decimal(repr(each)) for each in (dimension.low, 1 if dimension.step is None else dimension.step))
    place = int(((Decimal(repr(value)) - low) / step).to_integral_value())
    return point_of(dimension, min(max(place, 0), dimension.num_points - 1), whole=whole)


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


def with_values(parameters: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
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
    parameters: Mapping[str, Any],
    settings: Mapping[str, Any],
    processes: int,
    rounds: Sequence[Round],
    trial: Mapping[str, Value],
) -> str | None:
    """Why a model cannot be trained as a sweep would have it, or some trial of it; None where all can.

    The ends of every range and all choices are tried, together as far as they are few; of what lies between the ends, all
    where those are few, too, else the first. The values that are written are tried as the first trial has them, and all others
    without what is for trials alone, too.
    """
    fields = sorted(map(str, rounds[0].space))
    for field in (*fields, *trial):
        try:
            as_written(parameters, [field])
        except KeyError:
            return f"it has no {field}, or none is set"
    combinations = [as_written(parameters, fields)]
    for each in rounds:
        space: Mapping[str, Dimension] = dict(each.space.items())
        corners = _corners([_ends(space[field], whole=field in WHOLE) for field in fields])
        combinations += [dict(zip(fields, values, strict=True)) for values in corners]
    for chosen in combinations:
        for values in ({**trial, **chosen}, chosen) if trial else (chosen,):
            fault = _fault(with_values(parameters, values), settings, processes)
            if fault is not None:
                return f"with {', '.join(f'{field} {value:g}' for field, value in values.items())}: {fault}"
    return None


def _ends(dimension: Dimension, *, whole: bool) -> list[Value]:
    """The lowest value first, the highest last; of a range with steps all that are between, or the second one of many."""
    if dimension.choices is not None:
        return sorted(dimension.choices)
    if whole or dimension.step is not None:
        last = dimension.num_points - 1
        places = range(last + 1) if last < _MOST_BETWEEN else sorted({0, min(1, last), last})
        return [point_of(dimension, place, whole=whole) for place in places]
    return [end for end in (dimension.low, dimension.high) if end is not None]


def _corners(ends: Sequence[Sequence[Value]]) -> Iterator[Sequence[Value]]:
    """All combinations where they are few; else those where all fields but one are at their lowest, or all at their highest."""
    if math.prod(map(len, ends)) <= _MOST_CORNERS:
        yield from itertools.product(*ends)
        return
    for end in (0, -1):
        others = [values[end] for values in ends]
        for place, values in enumerate(ends):
            yield from ((*others[:place], value, *others[place + 1 :]) for value in values)


def _fault(parameters: Mapping[str, Any], settings: Mapping[str, Any], processes: int) -> str | None:
    """What would be wrong with a model that had these parameters."""
    from forge.spec.model import ContinueSpec, PretrainSpec
    from forge.spec.tuning import DpoSpec, SftSpec

    bodies: dict[str, type[BaseModel]] = {"pretrain": PretrainSpec, "continue": ContinueSpec, "sft": SftSpec, "dpo": DpoSpec}
    body = _as_spec(parameters, settings, processes)
    try:
        bodies[parameters["objective"]].model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["type"] == "value_error":  # in words of its own, which name the fields
            return str(first["msg"]).removeprefix("Value error, ")
        return f"{'.'.join(_within(body, first['loc']))}: {first['msg']}"
    return None


def _as_spec(parameters: Mapping[str, Any], settings: Mapping[str, Any], processes: int) -> dict[str, Any]:
    """A model's body again: what it names is no parameter, and anything stands in its place."""
    body = {**parameters, **settings, "training": {**parameters["training"], **settings.get("training", {})}}
    body["resources"] = {"count": processes}
    if parameters["objective"] == "pretrain":
        mixture = [{"data": f"DataRecipe/any-{number}", **part} for number, part in enumerate(parameters.get("mixture", ()))]
        return {**body, "data": "DataRecipe/any", "tokenizer": "Tokenizer/any", "mixture": mixture}
    body["base"] = {"model": "Model/any"}
    if parameters["objective"] == "continue":
        replay = parameters.get("replay")
        return {**body, "data": "DataRecipe/any", "replay": replay and {"data": "DataRecipe/another", **replay}}
    chats = "conversations" if parameters["objective"] == "sft" else "preferences"
    return {**body, chats: {**parameters.get(chats, {}), "path": "any", "license": "any", "origin": "any"}}


def _within(value: Any, location: Sequence[int | str]) -> Iterator[str]:
    """A fault's place, without the names of a union's branches, which pydantic puts in."""
    for part in location:
        if isinstance(value, Mapping) and part in value:
            value = value[part]
            yield str(part)


def _copy(value: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _copy(each) if isinstance(each, Mapping) else each for name, each in value.items()}
