"""Sweep: which fields of a model are searched, where, how often, and by which figure the best trial is told.

A sweep says nothing of the model: a model names the sweep that chooses some of its fields, and every model that names it is
searched on its own. What a trial is trained with, and that the best one is the model, is decided in ``forge.spec.trials``.
"""

import math
from decimal import Decimal
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from forge.canonical import MAX_INTEGER
from forge.spec.fields import COUNT, EvalSuiteRef, Part, parse_count
from forge.spec.meaning import REBUILD

Searched = Literal[
    "training.optimizer.lr",
    "training.optimizer.eps",
    "training.optimizer.weight_decay",
    "training.optimizer.gradient_clip_norm",
    "training.schedule.warmup_tokens",
    "training.schedule.decay_tokens",
    "training.schedule.final_lr_fraction",
    "training.batch_tokens",
    "training.seed",
    "replay.fraction",
    "adapter.lora.rank",
    "adapter.lora.alpha",
    "adapter.lora.dropout",
    "beta",
]
"""Fields of a Model's body that can be searched: numbers that only the training itself reads."""
SetForTrials = Literal[Searched, "training.tokens"]
"""Fields that a trial can have another value of than the model."""
WHOLE: frozenset[str] = frozenset(
    {
        "training.schedule.warmup_tokens",
        "training.schedule.decay_tokens",
        "training.batch_tokens",
        "training.seed",
        "training.tokens",
        "adapter.lora.rank",
    }
)
"""Those of them that hold whole numbers."""
MOST_TRIALS = 500
"""Of all rounds together: each is three steps, and the newest of an adaptive search reads all before it."""


def _number(value: Any) -> Any:
    """A number that is whole is one, however it is written: 1024.0 is 1024."""
    found = parse_count(value)
    return int(found) if isinstance(found, float) and found.is_integer() and abs(found) <= MAX_INTEGER else found


Number = Annotated[
    int | float,
    BeforeValidator(_number),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "string", "pattern": f"^{COUNT.pattern}$"}]}),
]
"""A number; ``100k``, ``2M`` and so on as for every count."""


class Dimension(Part):
    """Where a field is searched: some values, or a range."""

    choices: Annotated[list[Number] | None, Field(min_length=1), REBUILD] = None
    """Values without an order: an adaptive sampler learns of each by itself."""
    low: Annotated[Number | None, REBUILD] = None
    high: Annotated[Number | None, REBUILD] = None
    """Both ends of a range belong to it."""
    log: Annotated[bool, REBUILD] = False
    """Drawn evenly on a logarithmic scale."""
    step: Annotated[Number | None, REBUILD] = None
    """Distance of the values, counted from ``low``; None: 1 for a field of whole numbers, any value for others."""

    @model_validator(mode="after")
    def _is_one_or_the_other(self) -> Self:
        if self.choices is not None:
            others = [name for name in ("low", "high", "step") if getattr(self, name) is not None]
            if others or self.log:
                raise ValueError(
                    f"choices and {', '.join(others) or 'log'}: give a list of choices, or a range from low to high"
                )
            if len(set(self.choices)) < len(self.choices):
                raise ValueError("a choice stands twice")
            return self
        if self.low is None or self.high is None:
            raise ValueError("give a list of choices, or both low and high")
        if self.step is not None and self.step <= 0:
            raise ValueError("step is not above 0")
        if self.low >= self.high:
            raise ValueError("low is not below high")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("on a logarithmic scale low is above 0, and there is no step")
        return self

    @property
    def num_points(self) -> int:
        """How many values a grid has of it, which is finite. Steps are counted as they are written: three times 0.1 is 0.3."""
        if self.choices is not None:
            return len(self.choices)
        low, high, step = (Decimal(repr(value)) for value in (self.low, self.high, 1 if self.step is None else self.step))
        return int((high - low) / step) + 1


class GridSampler(Part):
    """Every combination once, in the order of the fields' names, the last one changing fastest."""

    name: Annotated[Literal["grid"], REBUILD]


class RandomSampler(Part):
    """Every trial on its own (Optuna's RandomSampler)."""

    name: Annotated[Literal["random"], REBUILD]
    seed: Annotated[int, Field(ge=0), REBUILD] = 0


class TpeSampler(Part):
    """Tree-structured Parzen estimator (Bergstra et al. 2011; Optuna's TPESampler): where the better trials lie.

    The options are fixed here, because Optuna's own defaults have changed between its versions.
    """

    name: Annotated[Literal["tpe"], REBUILD]
    seed: Annotated[int, Field(ge=0), REBUILD] = 0
    startup_trials: Annotated[int, Field(ge=1), REBUILD] = 10
    """The first trials of all rounds are drawn at random, the model as it is written among them: so many run at once."""
    ei_candidates: Annotated[int, Field(ge=1), REBUILD] = 24
    """Draws of which the one with the best expected improvement is taken."""
    multivariate: Annotated[bool, REBUILD] = True
    """Fields are drawn together, so that the sampler learns how they depend on each other."""
    trials_at_once: Annotated[int, Field(ge=1), REBUILD] = 1
    """After those, so many are chosen before any figure of them is known, and may run at once."""


class Round(Part):
    """Trials that are drawn from one space. Those of a round that is added learn from the rounds before it."""

    trials: Annotated[int | None, Field(ge=1, le=MOST_TRIALS), REBUILD] = None
    """How many; not for a grid, which has as many as it has points. Raised, only the new ones are trained."""
    sampler: Annotated[GridSampler | RandomSampler | TpeSampler, Field(discriminator="name"), REBUILD]
    space: Annotated[dict[Searched, Dimension], Field(min_length=1), REBUILD]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for field, dimension in self.space.items():
            values = dimension.choices or [each for each in (dimension.low, dimension.high, dimension.step) if each is not None]
            broken = [value for value in values if isinstance(value, float)] if field in WHOLE else []
            if broken:
                raise ValueError(f"{field} holds whole numbers, and {broken[0]:g} is none")
        if not isinstance(self.sampler, GridSampler):
            if self.trials is None:
                raise ValueError(f"how many trials? `sampler: {{name: {self.sampler.name}}}` needs `trials`")
            return self
        if self.trials is not None:
            raise ValueError("a grid has as many trials as points: leave `trials` out")
        endless = [
            field
            for field, each in self.space.items()
            if each.choices is None and each.step is None and _is_endless(field, each)
        ]
        if endless:
            raise ValueError(f"a grid over {endless[0]} has no end: give it choices, or a step")
        return self

    @property
    def num_trials(self) -> int:
        """How many trials it has."""
        return self.trials if self.trials is not None else math.prod(each.num_points for each in self.space.values())


def _is_endless(field: str, dimension: Dimension) -> bool:
    return field not in WHOLE or dimension.log


class SearchObjective(Part):
    """The figure that trials are compared by."""

    suite: Annotated[EvalSuiteRef, REBUILD]
    """Every trial is evaluated on it. What a search chooses by says nothing of what it chose: no gate may ask for it."""
    task: Annotated[str, Field(min_length=1), REBUILD]
    metric: Annotated[str, Field(min_length=1), REBUILD]
    """lm-eval's name, without the filter: ``acc``, ``bits_per_byte``."""
    direction: Annotated[Literal["minimize", "maximize"], REBUILD]


class SweepSpec(Part):
    """The body of a Sweep."""

    objective: Annotated[SearchObjective, REBUILD]
    rounds: Annotated[list[Round], Field(min_length=1), REBUILD]
    """In order. To search further, or elsewhere, add one: what the earlier ones trained stays as it is."""
    trial: Annotated[dict[SetForTrials, Number], REBUILD] = {}
    """Fields that every trial has another value of than the model: fewer training.tokens, say. The model itself is trained
    with its own, and the best trial's values of the searched ones. Empty: the best trial is the model."""

    @model_validator(mode="after")
    def _searches_one_space(self) -> Self:
        fields = set(self.rounds[0].space)
        for number, each in enumerate(self.rounds):
            if set(each.space) != fields:
                other = min(set(each.space) ^ fields)
                raise ValueError(
                    f"round {number + 1} and the first do not search the same fields: {other} is only in one of them"
                )
        total = sum(each.num_trials for each in self.rounds)
        if total > MOST_TRIALS:
            raise ValueError(f"{total:,} trials in all rounds together: a search has {MOST_TRIALS} at most")
        both = sorted(fields & set(self.trial))
        if both:
            raise ValueError(f"{both[0]} is searched: `trial` cannot set it")
        broken = [field for field, value in self.trial.items() if field in WHOLE and isinstance(value, float)]
        if broken:
            raise ValueError(f"{broken[0]} holds whole numbers, and {self.trial[broken[0]]:g} is none")
        return self
