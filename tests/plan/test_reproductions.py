"""A release behind which too few functionaries stand is blocked, and says which steps and what to do."""

from dataclasses import replace

from tests.plan.world import World, desired_of

from forge.contract.kinds import StepKind
from forge.plan.action import ActionKind, Plan
from forge.plan.plan import make_plan
from forge.plan.reason import ReasonKind
from forge.plan.reproductions import Count

LACKING = Count("train/small", 2, ("trainer trainer-1",), ("trainer trainer-2's in entry 9 does not count: why",), "`forge x`")
ENOUGH = Count("curate/small", 2, ("data-steward a", "data-steward b"), remedy="`forge x`")


def made_as_far_as_its_release() -> tuple[World, Plan]:
    world, desired = World(), desired_of()
    for _ in range(20):
        plan = world.plan(desired)
        ready = [action for action in plan.changes if action.key is not None and action.step is not StepKind.RELEASE]
        if not ready:
            return world, plan
        for action in ready:
            world.finish(desired, action)
    raise AssertionError("it is never made")


def test_a_release_that_lacks_reproductions_is_blocked_with_each_reason() -> None:
    world, before = made_as_far_as_its_release()
    assert [action.id for action in before.changes] == ["release/small-local"]
    live = replace(world.live, reproductions={"local": (ENOUGH, LACKING, replace(LACKING, about="tokenize/small"))})
    (action,) = make_plan(desired_of(), world, live).blocked
    assert action.id == "release/small-local"
    assert [reason.kind for reason in action.reasons] == [ReasonKind.REPRODUCTION] * 2
    assert str(action.reasons[0]) == (
        "needs reproduction: train/small needs 2 functionaries, has 1 (trainer trainer-1); trainer trainer-2's in entry 9 does "
        "not count: why: `forge x`"
    )


def test_enough_of_them_or_those_of_another_environment_hold_nothing_back() -> None:
    world, before = made_as_far_as_its_release()
    for found in ({"local": (ENOUGH,)}, {"prod": (LACKING,)}, {}):
        assert make_plan(desired_of(), world, replace(world.live, reproductions=found)) == before


def test_what_serves_is_not_taken_back_when_more_are_asked_for() -> None:
    world, before = made_as_far_as_its_release()
    world.finish(desired_of(), before.changes[0])
    (move,) = world.plan(desired_of()).changes or (None,)
    if move is not None:
        world.finish(desired_of(), move)
    plan = make_plan(desired_of(), world, replace(world.live, reproductions={"local": (LACKING,)}))
    assert {action.kind for action in plan.actions} == {ActionKind.NOTHING}
