"""What a training goes on from is really there, and is called what it is."""

from dataclasses import replace

import pytest
from tests.plan.world import PastOf, World, desired_of

from forge.plan.action import Action, ActionKind
from forge.plan.explain import explain
from forge.plan.explanation import to_text
from forge.plan.graph import build_graph
from forge.plan.live import Running
from forge.plan.reason import ReasonKind

LONG, LONGER = ({"models/model.yaml": ("tokens: 40k", f"tokens: {tokens}")} for tokens in ("800k", "820k"))
EARLY, LATE = "checkpoints/step-00000120-attempt-1", "checkpoints/step-00000999-attempt-1"


@pytest.fixture
def world() -> World:
    """The small example as it was applied first; nothing kept a checkpoint that a longer run could use."""
    world = World()
    world.apply(desired_of())
    world.stored.discard(world.newest["train/small"].byproducts["checkpoint"])
    return world


def left(world: World, *checkpoints: str) -> Running:
    """A training of 800k tokens that is not recorded, and what it has left on this machine."""
    action = train(world, LONG)
    return Running(
        action.key or "", "train/small", "process 7 on here", "e" * 40, parameters_of(LONG), action.inputs, checkpoints
    )


def train(world: World, changes: dict[str, tuple[str, str]]) -> Action:
    return next(action for action in world.plan(desired_of(changes)).actions if action.id == "train/small")


def parameters_of(changes: dict[str, tuple[str, str]]) -> dict[str, object]:
    return dict(build_graph(desired_of(changes))["train/small"].parameters)


def test_a_stopped_run_is_continued_from_the_step_that_it_reached(world: World) -> None:
    run = left(world, EARLY, LATE, "before-decay/step-00000770-attempt-1")
    world.stopped = {"train/small": (run,)}
    action = train(world, LONGER)
    assert (action.kind, action.continues and action.continues.key) == (ActionKind.EXTEND, run.key)
    (reason,) = [reason for reason in action.reasons if reason.kind is ReasonKind.CONTINUES]
    assert reason.subject == f"step 770 of the run that stopped under the key {run.key[:19]} on this machine"
    assert action.estimate.tokens == 820_224 - 770 * 1024
    desired = desired_of(LONGER)
    said = to_text(explain(world.plan(desired), "train/small", desired, world, PastOf(world)))
    assert f"because it goes on from step 770 of the run that stopped under the key {run.key[:19]} on this machine" in said


@pytest.mark.parametrize("checkpoints", [(), (LATE,), ("checkpoints/step-00000120-attempt-1.damaged",)])
def test_a_stopped_run_that_left_nothing_is_not_continued_and_the_plan_says_so(
    world: World, checkpoints: tuple[str, ...]
) -> None:
    run = left(world, *checkpoints)
    world.stopped = {"train/small": (run,)}
    action = train(world, LONGER)
    assert (action.kind, action.continues) == (ActionKind.RUN, None)
    said = f"the run that stopped under the key {run.key[:19]} has left no checkpoint of its first 772 steps on this machine"
    assert said in [reason.subject for reason in action.reasons if reason.kind is ReasonKind.FROM_SCRATCH]


def test_an_older_run_that_left_more_is_the_one_to_go_on_from(world: World) -> None:
    newest, older = left(world), replace(left(world, EARLY), key=f"sha256:{'a' * 64}")
    world.stopped = {"train/small": (newest, older)}
    action = train(world, LONGER)
    assert action.continues is not None
    assert action.continues.key == older.key


def test_a_run_at_work_is_continued_once_it_has_a_checkpoint(world: World) -> None:
    run = left(world)
    world.running = {run.key: run}
    action = train(world, LONGER)
    assert (action.kind, action.replaces) == (ActionKind.RUN, run.key)
    world.running = {run.key: replace(run, checkpoints=(EARLY,))}
    action = train(world, LONGER)
    assert (action.kind, action.continues and action.continues.key) == (ActionKind.EXTEND, run.key)
    (reason,) = [reason for reason in action.reasons if reason.kind is ReasonKind.CONTINUES]
    assert reason.subject == f"what the run under the key {run.key[:19]} has reached on this machine when it ends"


def test_a_run_that_began_with_a_checkpoint_is_an_extension_while_it_is_at_work(world: World) -> None:
    """Else an approved plan would be exceeded by the very run that it asked for."""
    world.stopped = {"train/small": (left(world, EARLY),)}
    planned = train(world, LONGER)
    world.running = {planned.key or "": Running(planned.key or "", "train/small", "process 8", "c" * 40)}
    action = train(world, LONGER)
    assert action.reasons[0].kind is ReasonKind.IN_FLIGHT
    assert (action.kind, action.continues, action.estimate) == (planned.kind, planned.continues, planned.estimate)
