"""What a plan notes beside steps: environments that nobody serves any more, resources that left, protection."""

import pytest
from tests.plan.world import World, desired_of

from forge.contract.record import Retirement
from forge.plan.action import Action, ActionKind
from forge.plan.desired import Desired
from forge.plan.reason import ReasonKind

DEPLOYMENT = "models/deployment.yaml"
STAGING = ("environment: local", "environment: staging")


def moved(metadata: str = "name: small-local", commit: str = "d") -> Desired:
    """The commit in which the deployment serves staging, with other metadata."""
    deployment = "kind: Deployment\nmetadata: {name: small-local}\nspec:\n  environment: local"
    now = deployment.replace("name: small-local", metadata).replace(*STAGING)
    return desired_of({DEPLOYMENT: (deployment, now)}, commit=commit)


def told(action: Action) -> tuple[ActionKind, str, str | None, ReasonKind]:
    return action.kind, action.id, action.environment, action.reasons[0].kind


@pytest.fixture
def world() -> World:
    """Everything done once; ``local`` serves."""
    world = World()
    world.apply(desired_of())
    return world


def test_an_environment_that_its_deployment_left_is_retired(world: World) -> None:
    ends = world.plan(moved()).changes[-1]
    assert told(ends) == (ActionKind.RETIRE, "environment/local", "local", ReasonKind.UNSERVED)
    world.apply(moved())
    assert world.release("local") is None
    assert world.release("staging") is not None
    assert world.plan(moved()).changes == ()
    gone = world.plan(desired_of(without=[DEPLOYMENT]))
    assert [told(action) for action in gone.changes] == [
        (ActionKind.RETIRE, "Deployment/small-local", "staging", ReasonKind.REMOVED)
    ]


def left_by_an_older_engine(world: World) -> None:
    """Staging was released and nobody asked what became of local."""
    for action in world.plan(moved()).changes[:-1]:
        planned = next(each for each in world.plan(moved()).changes if each.id == action.id)
        world.finish(moved(), planned)


def test_an_environment_that_was_orphaned_before_is_retired_too(world: World) -> None:
    left_by_an_older_engine(world)
    assert [told(action)[1] for action in world.plan(moved()).changes] == ["environment/local"]


def test_an_environment_whose_deployment_was_retired_elsewhere_is_retired_too(world: World) -> None:
    left_by_an_older_engine(world)
    gone = Retirement(subject="Deployment/small-local", environment="staging", commit="e" * 40, moved="later")
    world.notes.append((world._sequence, gone))
    world.moves["staging"].append(gone)
    without = desired_of(without=[DEPLOYMENT])
    assert [told(action)[1:3] for action in world.plan(without).changes] == [("Deployment/small-local", "local")]
    world.apply(without)
    assert world.release("local") is None
    assert world.plan(without).changes == ()


def test_a_removed_deployment_ends_every_environment_that_it_served(world: World) -> None:
    left_by_an_older_engine(world)
    without = desired_of(without=[DEPLOYMENT])
    assert {told(action)[1:3] for action in world.plan(without).changes} == {
        ("Deployment/small-local", "local"),
        ("environment/staging", "staging"),
    }
    world.apply(without)
    assert world.pointers() == {}
    assert world.plan(without).changes == ()


def test_a_renamed_deployment_keeps_its_environment_and_ends_the_one_it_left(world: World) -> None:
    same = desired_of({DEPLOYMENT: ("{name: small-local}", "{name: docs, previous_name: small-local}")}, commit="e")
    assert "environment/local" not in [action.id for action in world.plan(same).actions]
    elsewhere = moved("name: docs, previous_name: small-local", "e")
    assert "environment/local" in [action.id for action in world.plan(elsewhere).changes]
    world.apply(elsewhere)
    assert list(world.pointers()) == ["staging"]


def test_the_environment_that_a_protected_deployment_left_goes_on_serving(world: World) -> None:
    protected = "protect: true, name: small-local"
    world.apply(desired_of({DEPLOYMENT: ("{name: small-local}", f"{{{protected}}}")}, commit="c"))
    world.apply(moved(protected))
    assert set(world.pointers()) == {"local", "staging"}
    (held,) = world.plan(moved(protected)).blocked
    assert told(held) == (ActionKind.BLOCKED, "environment/local", "local", ReasonKind.PROTECTED)
    lifted = world.plan(moved())
    assert [action.id for action in lifted.changes] == ["environment/local", "Deployment/small-local"]
    world.apply(moved())
    assert list(world.pointers()) == ["staging"]


def test_what_is_protected_after_it_was_retired_is_held_when_it_leaves_again(world: World) -> None:
    without = desired_of(without=[DEPLOYMENT, "models/model.yaml"])
    world.apply(without)
    protect = {"models/model.yaml": ("{name: small}", "{name: small, protect: true}")}
    world.apply(desired_of(protect, without=[DEPLOYMENT]))
    assert [told(action)[1:] for action in world.plan(without).blocked] == [("Model/small", None, ReasonKind.PROTECTED)]
    lifted = desired_of(without=[DEPLOYMENT])
    world.apply(lifted)
    assert [told(action)[:2] for action in world.plan(without).changes] == [(ActionKind.RETIRE, "Model/small")]


def test_a_suspended_deployment_holds_the_environment_that_it_left(world: World) -> None:
    suspended = moved('annotations: {forge/suspend: "true"}, name: small-local')
    plan = world.plan(suspended)
    assert plan.changes == ()
    assert (ActionKind.BLOCKED, "environment/local", "local", ReasonKind.SUSPENDED) in map(told, plan.blocked)


def test_a_deployment_that_another_replaces_is_retired_once_though_its_release_still_serves(world: World) -> None:
    """The environment waits for the other one's release, which may wait for days: an approval, a training."""
    other = desired_of({DEPLOYMENT: ("{name: small-local}", "{name: docs}")}, commit="e")
    (retired,) = (action for action in world.plan(other).changes if action.step is None)
    assert told(retired) == (ActionKind.RETIRE, "Deployment/small-local", None, ReasonKind.REMOVED)
    world.finish(other, retired)
    assert world.pointers()["local"].deployment == "small-local"
    assert [action.id for action in world.plan(other).changes if action.step is None] == []
