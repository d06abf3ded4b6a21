"""Branches in plans: they wait for the training that they leave, and go on from what it keeps."""

import pytest
from tests.conftest import MODEL
from tests.plan.world import World, desired_of
from tests.spec.test_branch import branching_model

from forge.plan.action import ActionKind
from forge.plan.graph import build_graph
from forge.plan.reason import ReasonKind
from forge.spec.compiled import compile_resource

OTHER_RATE = ("lr: 5.0e-3", "lr: 4.0e-3")
RATE = ("lr: 5.0e-3", "lr: 1.0e-3")
BRANCH = branching_model("b", "{model: Model/small, step: 4}", RATE)


@pytest.fixture
def world() -> World:
    """Everything of the small example and of a branch of its model, done."""
    world = World()
    settle(world, BRANCH)
    return world


def settle(world: World, *models: str, **more: object) -> list[str]:
    """Do what a commit asks for; returns the ids of what ran, in order."""
    desired, ran = desired_of(models=models, **more), []
    while actions := [action for action in world.plan(desired).changes if action.key or action.step is None]:
        for action in actions:
            world.finish(desired, action)
            ran.append(action.id)
    assert world.plan(desired).changes == ()
    return ran


def test_a_branch_waits_for_the_training_that_it_leaves_and_goes_on_from_its_checkpoint() -> None:
    world, desired = World(), desired_of(models=[BRANCH])
    for name in ("curate/small", "tokenizer/small", "tokenize/small"):
        world.finish(desired, next(action for action in world.plan(desired).changes if action.id == name))
    waiting = next(action for action in world.plan(desired).actions if action.id == "train/b")
    assert (waiting.key, str(waiting.reasons[0])) == (None, "decided after train/small")
    trunk = next(action for action in world.plan(desired).changes if action.id == "train/small")
    world.finish(desired, trunk)
    action = next(action for action in world.plan(desired).changes if action.id == "train/b")
    assert action.kind is ActionKind.EXTEND
    assert action.continues is not None
    kept = world.records[trunk.key or ""].byproducts
    assert (action.continues.key, action.continues.checkpoint) == (trunk.key, kept["checkpoint-4"])
    assert action.estimate.tokens == (40 - 4) * 1024


def test_in_a_branch_that_is_there_nothing_of_the_other_training_counts_but_the_steps_they_share(world: World) -> None:
    longer = {"models/model.yaml": ("tokens: 40k", "tokens: 80k")}
    assert "train/b" not in settle(world, BRANCH, changes=longer)
    renamed = BRANCH.replace("Model/small", "Model/little")
    little = {"models/model.yaml": ("{name: small}", "{name: little, previous_name: small}")}
    deployed = {"models/deployment.yaml": ("Model/small", "Model/little")}
    assert "train/b" not in settle(World(**vars(world)), renamed, changes={**little, **deployed})
    rate = {"models/model.yaml": ("lr: 5.0e-3", "lr: 4.0e-3")}
    plan = world.plan(desired_of(models=[BRANCH], changes=rate))
    assert {"train/small", "train/b"} < {action.id for action in plan.changes}


LITTLE = {
    "models/model.yaml": ("{name: small}", "{name: little, previous_name: small}"),
    "models/deployment.yaml": ("Model/small", "Model/little"),
}


@pytest.mark.parametrize("again", [False, True])
def test_the_checkpoint_of_a_trunk_is_found_under_the_name_that_it_had(world: World, again: bool) -> None:
    """``again``: under its new name another training of it was done since, which keeps nothing for the branch."""
    kept = world.newest["train/small"].byproducts["checkpoint-4"]
    renamed = BRANCH.replace("Model/small", "Model/little")
    if again:
        rate = {**LITTLE, "models/model.yaml": (MODEL, MODEL.replace("{name: small}", "{name: little}").replace(*OTHER_RATE))}
        assert "train/little" in settle(world, changes=rate)
    desired = desired_of(models=[renamed.replace("step: 4", "step: 5")], changes=LITTLE)
    plan = world.plan(desired)
    trunk = next(action for action in plan.actions if action.id == "train/little")
    assert (trunk.kind, trunk.does_something) == (ActionKind.REUSE, False)
    action = next(action for action in plan.changes if action.id == "train/b")
    assert action.kind is ActionKind.EXTEND
    assert action.continues is not None
    assert (action.continues.checkpoint, action.estimate.tokens) == (kept, (40 - 4) * 1024)


def test_a_renamed_trunk_without_a_checkpoint_is_named_once(world: World) -> None:
    desired = desired_of(models=[BRANCH.replace("Model/small, step: 4", "Model/little, step: 3")], changes=LITTLE)
    action = next(action for action in world.plan(desired).changes if action.id == "train/b")
    told = [str(reason) for reason in action.reasons if reason.kind is ReasonKind.FROM_SCRATCH]
    assert len(told) == 1
    assert "train/small, which it branches from" in told[0]


def test_a_reason_names_the_stretch_that_changed(world: World) -> None:
    settle(world, BRANCH.replace("step: 4", "step: 5"))
    desired = desired_of(models=[BRANCH.replace("step: 4", "step: 6")])
    action = next(action for action in world.plan(desired).changes if action.id == "train/b")
    assert str(action.reasons[0]) == "field changed: trunk[0].steps: 5 -> 6 (rebuild)"
    told = next(reason for reason in action.reasons if reason.kind is ReasonKind.CONTINUES)
    assert told.subject == world.newest["train/small"].byproducts["checkpoint-4"]  # the farthest that was kept on the way


def test_without_a_checkpoint_the_shared_steps_are_trained_again_and_the_plan_says_so(world: World) -> None:
    desired = desired_of(models=[BRANCH.replace("step: 4", "step: 3")])
    action = next(action for action in world.plan(desired).changes if action.id == "train/b")
    assert (action.kind, action.continues) == (ActionKind.RUN, None)
    assert "train/small, which it branches from: the earlier run kept no checkpoint of its first 3 steps" in {
        reason.subject for reason in action.reasons
    }
    world.stored -= {world.newest["train/small"].byproducts["checkpoint-4"]}
    later = desired_of(models=[BRANCH.replace("step: 4", "step: 5")])
    action = next(action for action in world.plan(later).changes if action.id == "train/b")
    assert any("the store no longer has the checkpoint" in reason.subject for reason in action.reasons)


def test_a_branch_is_named_by_its_trunk_and_not_by_its_model() -> None:
    desired = desired_of(models=[branching_model("b", "{model: Model/small, step: 4}", ("lr: 5.0e-3", "lr: 1.0e-3"))])
    graph = build_graph(desired)
    step = graph["train/b"]
    assert (step.after, graph["train/small"].settings["branches"]) == (("train/small",), [4])
    assert list(graph).index("train/small") < list(graph).index("train/b")
    assert step.parameters["trunk"][0]["steps"] == 4
    assert "from" not in step.parameters
    assert compile_resource(desired.resources["Model/b"]).references == (
        "DataRecipe/small",
        "Tokenizer/small",
        "Model/small",
    )


def test_each_training_that_leads_to_a_branch_keeps_a_checkpoint_for_it() -> None:
    desired = desired_of(
        models=[
            branching_model("b", "{model: Model/small, step: 4}", ("lr: 5.0e-3", "lr: 1.0e-3")),
            branching_model("c", "{model: Model/b, step: 9}", ("lr: 5.0e-3", "lr: 2.0e-3")),
            branching_model("d", "{model: Model/b, step: 2}", ("lr: 5.0e-3", "lr: 3.0e-3")),
        ]
    )
    graph = build_graph(desired)
    assert graph["train/small"].settings["branches"] == [2, 4]
    assert graph["train/b"].settings["branches"] == [2, 9]
    assert graph["train/c"].after == ("train/b", "train/small")
    assert "branches" not in graph["train/c"].settings
    assert [stretch["steps"] for stretch in graph["train/d"].parameters["trunk"]] == [2]
