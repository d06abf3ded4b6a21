"""What a training can go on from: checkpoints of earlier runs that are on its way to the last digit (``spec.extend``)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from forge.contract.checkpoints import BYPRODUCT, branch_point_of, newest_checkpoint, position_of
from forge.contract.record import Record
from forge.plan.action import Action, Continuation
from forge.plan.live import Live, Running
from forge.plan.reason import Reason, ReasonKind
from forge.plan.step import Step, version_of
from forge.plan.withdrawn import Descent
from forge.spec.extend import shared_steps, steps_before_decay, why_not_extended
from forge.spec.training import LargeTraining


@dataclass(frozen=True)
class Kept:
    """A checkpoint that a training goes on from."""

    run: Continuation
    commit: str
    """That the earlier run was made for."""
    tokens: int
    """Those that need not be trained on again."""


@dataclass(frozen=True)
class Place:
    """What decides, besides the two runs, whether the bits are the same."""

    live: Live
    descent: Descent | None
    threads: int


@dataclass(frozen=True)
class Earlier:
    """The run that a training is the exact continuation of, or why there is none where one would be expected."""

    run: Continuation | None
    reasons: tuple[Reason, ...]
    tokens: int = 0
    """Those that need not be trained on again, as far as they are known."""


def find_earlier(
    step: Step,
    action: Action,
    ids: Iterable[str],
    histories: Mapping[str, Iterable[Record]],
    other: Running | None,
    place: Place,
) -> Earlier:
    """What a training goes on from: a run at work that ends for it, one that stopped on this machine, or a recorded one.

    Args:
        step: the training.
        action: what is known of it so far.
        ids: the step's id, and those that it had before.
        histories: by id of the step itself, and then of those that it branches from: the newest record under each name.
        other: the run at work.
        place: what is there.
    """
    inputs = action.inputs
    if other is not None and continues(other, step, inputs) and left_by([other], step) is not None:
        told = f"what the run under the key {other.key[:19]} has reached on this machine when it ends"
        return Earlier(Continuation(other.key, None), (Reason(ReasonKind.CONTINUES, told, commit=other.commit),))
    stopped = [run for name in ids for run in place.live.stopped.get(name, ())]
    stopped = [run for run in stopped if run.key != action.key and continues(run, step, inputs)]
    left = left_by(stopped, step)
    if left is not None:
        told = f"step {left.step} of the run that stopped under the key {left.run.key[:19]} on this machine"
        reason = Reason(ReasonKind.CONTINUES, told, commit=left.run.commit)
        return Earlier(Continuation(left.run.key, None), (reason,), left.tokens)
    reasons = [Reason(ReasonKind.FROM_SCRATCH, nothing_left(run, step)) for run in stopped[:1]]
    for name, records in histories.items():
        said: list[str] = []
        for record in records:
            found = kept_by(record, step, inputs, place)
            if isinstance(found, Kept):
                reason = Reason(ReasonKind.CONTINUES, f"{found.run.checkpoint}", commit=found.commit)
                return Earlier(found.run, (reason,), found.tokens)
            if found is None:
                continue
            if name != step.id:
                said.append(f"{record.step_id}, which it branches from: {found}")
            elif _tokens(record.parameters) != _tokens(step.parameters):
                said.append(found)
        reasons += [Reason(ReasonKind.FROM_SCRATCH, text) for text in said[:1]]
    return Earlier(None, tuple(reasons))


def continues(run: Running, step: Step, inputs: Mapping[str, str]) -> bool:
    """Whether a step is the exact continuation of a run that was not recorded."""
    return bool(run.parameters) and dict(run.inputs) == dict(inputs) and not why_not_extended(run.parameters, step.parameters)


@dataclass(frozen=True)
class Left:
    """A checkpoint that a run which is not recorded has left on the machine that plans."""

    run: Running
    step: int
    """The optimiser step that it stands at."""
    tokens: int
    """Those that need not be trained on again."""


def left_by(runs: Iterable[Running], step: Step) -> Left | None:
    """The farthest checkpoint that some runs left, which a step is the exact continuation of; of equal ones the first run's."""
    found: Left | None = None
    for run in runs:
        newest = newest_checkpoint(run.checkpoints, shared_steps(run.parameters, step.parameters))
        position = position_of(newest.rpartition("/")[2]) if newest is not None else None
        if position is not None and (found is None or position[0] > found.step):
            batch = LargeTraining.model_validate(run.parameters["training"]).batch_tokens
            found = Left(run, position[0], position[0] * batch)
    return found


def nothing_left(run: Running, step: Step) -> str:
    """Why a step does not go on from a run that it is the continuation of."""
    shared = shared_steps(run.parameters, step.parameters)
    return (
        f"the run that stopped under the key {run.key[:19]} has left no checkpoint of its first {shared} steps on this machine"
    )


def kept_by(record: Record, step: Step, inputs: Mapping[str, str], place: Place) -> Kept | str | None:
    """The farthest checkpoint of a recorded run that a step may go on from, or why there is none.

    None where the run read other inputs, or was made by another version of the step: nobody would expect one.
    """
    if record.inputs != dict(inputs) or record.step_version != version_of(step.kind):
        return None
    obstacle = why_not_extended(record.parameters, step.parameters) or _other_machine(record, step, place.threads)
    if obstacle is None and place.descent is not None:
        obstacle = place.descent.hinders_continuing(record)
    if obstacle is not None:
        return obstacle
    training = LargeTraining.model_validate(record.parameters["training"])
    shared = shared_steps(record.parameters, step.parameters)
    steps_of = {name: branch_point_of(name) or 0 for name in record.byproducts} | {BYPRODUCT: steps_before_decay(training)}
    reached = {name: steps_of[name] for name in record.byproducts if 0 < steps_of[name] <= shared}
    if not reached:
        return f"the earlier run kept no checkpoint of its first {shared} steps"
    there = {name: steps for name, steps in reached.items() if place.live.has(record.byproducts[name])}
    if not there:
        lost = record.byproducts[max(reached, key=lambda name: reached[name])]
        return f"the store no longer has the checkpoint {lost}"
    farthest = max(there, key=lambda name: there[name])
    run = Continuation(record.key, record.byproducts[farthest])
    return Kept(run, record.commit, there[farthest] * training.batch_tokens)


def _other_machine(record: Record, step: Step, threads: int) -> str | None:
    """Why the last digits of a continued run would not be those of a run from scratch here, as far as records tell."""
    wanted = {"threads": str(threads), "processes": str(step.processes)}
    for name, value in wanted.items():
        if record.environment.get(name, value) != value:
            return f"it ran with {record.environment[name]} {name}, and this run has {value}: the last digits would differ"
    return None


def _tokens(parameters: Mapping[str, Any]) -> Any:
    training = parameters.get("training")
    return training.get("tokens") if isinstance(training, Mapping) else None
