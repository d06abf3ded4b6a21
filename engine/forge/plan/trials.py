"""The steps of a search: what each trial is trained with, its training, its evaluation, and which one is the best.

A model that names a sweep has, beside its own training, for each trial N the steps ``sweep/MODEL.N``, which chooses the values
of the fields that are searched, ``train/MODEL.N`` and ``evaluate/MODEL.N.SUITE``; ``sweep/MODEL`` picks the best trial's
values, and the model's own training reads them from there. Where nothing else tells the two apart, that is the best trial's
training, under the same key: it is not done twice.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from forge.canonical import canonical_json
from forge.contract.hyperparameters import HYPERPARAMETERS, Pick
from forge.contract.kinds import StepKind
from forge.plan.step import FromStep, Input, Step
from forge.spec.compiled import Compiled, read_json
from forge.spec.sweep import Round
from forge.spec.trials import SWEEP, Value, as_written, trials_of, with_values, without


@dataclass(frozen=True)
class Search:
    """A model and what searches for some of its fields."""

    model: Compiled
    sweep: Compiled
    suite: Compiled
    tasks: Input
    """The files of the suite."""
    held: str | None
    """The paused resource that holds every step of the search."""
    former: Sequence[str] = ()
    """What the model was called before, where the commit says so."""

    def steps(self, train: Step) -> Iterator[Step]:
        """The search's steps, and the training itself at the end; ``train`` is the training as if nothing were searched."""
        sought: dict[str, Any] = read_json(self.sweep.parameters)
        rounds = [Round.model_validate(each) for each in sought["rounds"]]
        fields = sorted(rounds[0].space)
        written: dict[str, Any] = read_json(train.canonical_parameters)
        shared = {**without(written, fields), SWEEP: fields}
        given: dict[str, Value] = sought.get("trial", {})
        others = {field: value for field, value in given.items() if as_written(written, [field])[field] != value}
        of_trials = canonical_json(with_values(shared, others)).decode()  # what is as it is written makes no other training
        choices: list[tuple[dict[str, Any], int]] = [({"pick": Pick.WRITTEN, "values": as_written(written, fields)}, 0)]
        for trial in trials_of(rounds):
            drawn = {name: sought["rounds"][trial.round][name] for name in ("sampler", "space")}
            known = {"objective": sought["objective"]} if trial.knows else {}
            choices.append(({"pick": Pick.NEXT, "round": trial.round, "number": trial.place, **drawn, **known}, trial.knows))
        for number, (parameters, knows) in enumerate(choices):
            yield self._choice(number, parameters, dict(self._past(number if knows else 0, knows)))
            yield self._trained(train, of_trials, number)
            yield self._evaluated(number)
        best = {"pick": Pick.BEST, "objective": sought["objective"]}
        yield self._choice(None, best, dict(self._past(len(choices), len(choices))))
        yield self._trained(train, canonical_json(shared).decode(), None)

    def _past(self, chosen: int, measured: int) -> Iterator[tuple[str, Input]]:
        """What is known of the trials before: the values of some, and the reports of some of those."""
        for number in range(chosen):
            yield f"{HYPERPARAMETERS}-{number}", FromStep(self._id(StepKind.SWEEP, number), HYPERPARAMETERS)
        for number in range(measured):
            yield f"report-{number}", FromStep(self._id(StepKind.EVALUATE, number), "report")

    def _choice(self, number: int | None, parameters: Mapping[str, Any], inputs: Mapping[str, Input]) -> Step:
        step = self._step(StepKind.SWEEP, number, canonical_json(dict(parameters)).decode(), inputs)
        return step._replace(json_settings=json.dumps({"sweep": self.sweep.address}))  # what its parameters are fields of

    def _trained(self, train: Step, parameters: str, number: int | None) -> Step:
        chosen = FromStep(self._id(StepKind.SWEEP, number), HYPERPARAMETERS)
        own = self._step(StepKind.TRAIN, number, parameters, {**train.inputs, HYPERPARAMETERS: chosen})
        return train._replace(**{name: getattr(own, name) for name in _OF_A_TRIAL})

    def _evaluated(self, number: int) -> Step:
        weights = FromStep(self._id(StepKind.TRAIN, number), "weights")
        return self._step(StepKind.EVALUATE, number, self.suite.parameters, {"weights": weights, "tasks": self.tasks})

    def _step(self, kind: StepKind, number: int | None, parameters: str, inputs: Mapping[str, Input]) -> Step:
        step_id = self._id(kind, number)
        return Step(
            step_id,
            kind,
            step_id.partition("/")[2],
            self.model.address,
            parameters,
            inputs,
            previous_ids=tuple(self._id(kind, number, *names) for names in self._former(kind)),
            suspended=self.held,
            trial=number,
        )

    def _former(self, kind: StepKind) -> Iterator[tuple[str, str]]:
        """The names of model and suite, either or both as they were before."""
        suites = [self.suite.name]
        if kind is StepKind.EVALUATE and self.suite.previous is not None:
            suites.append(self.suite.previous.partition("/")[2])
        models = [self.model.name, *self.former]
        yield from [(model, suite) for model in models for suite in suites][1:]

    def _id(self, kind: StepKind, number: int | None, model: str | None = None, suite: str | None = None) -> str:
        parts = [model or self.model.name, *([] if number is None else [str(number)])]
        if kind is StepKind.EVALUATE:
            parts.append(suite or self.suite.name)
        return f"{kind}/{'.'.join(parts)}"


_OF_A_TRIAL = ("id", "name", "canonical_parameters", "inputs", "previous_ids", "suspended", "trial")
"""What a trial's training has of its own; the rest is the model's."""
