"""Suspending a resource holds what follows from it at what is recorded, whatever its kind; nothing is held without a word."""

import pytest
from tests.conftest import DATA, SPECS
from tests.plan.test_withdrawn import commit_of
from tests.plan.world import World, desired_of

from forge.plan.action import ActionKind
from forge.plan.reason import ReasonKind

PAUSED = 'annotations: {forge/suspend: "true"}, '
CHANGES = {
    "DataRecipe": ("models/data.yaml", ("min_doc_words: 40", "min_doc_words: 41"), "curate/small"),
    "Tokenizer": ("models/tokenizer.yaml", ("vocab_size: 512", "vocab_size: 600"), "tokenizer/small"),
    "Model": ("models/model.yaml", ("seed: 5", "seed: 6"), "train/small"),
    "EvalSuite": ("evals/small.yaml", ("tasks: [small_bpb]", "tasks: [small_bpb]\n  num_fewshot: 1"), "evaluate/small.small"),
    "Deployment": ("models/deployment.yaml", ("max: 7.0", "max: 6.0"), "gate/small-local"),
}


@pytest.fixture
def world() -> World:
    """Everything done once."""
    world = World()
    world.apply(desired_of())
    return world


@pytest.mark.parametrize("kind", CHANGES)
def test_a_change_of_a_suspended_resource_is_held_with_all_that_follows(world: World, kind: str) -> None:
    path, (old, new), first = CHANGES[kind]
    text = SPECS[path]
    assert old in text
    assert world.plan(desired_of({path: (text, text.replace(old, new))})).changes
    changed = text.replace(old, new).replace("metadata: {", f"metadata: {{{PAUSED}")
    plan = world.plan(desired_of({path: (text, changed)}))
    assert plan.changes == ()
    held = {action.id: action.reasons[0] for action in plan.blocked}
    assert held[first].kind is ReasonKind.SUSPENDED
    assert held[first].subject.startswith(f"{kind}/")
    assert "release/small-local" in held


def test_a_changed_policy_is_not_served_while_it_is_suspended(world: World) -> None:
    paused = {"policies/small.yaml": ("metadata: {", f"metadata: {{{PAUSED}")}
    assert world.plan(desired_of(paused)).blocked == ()
    (release,) = [
        action for action in world.plan(desired_of(paused, policy=b"{ }")).actions if action.kind is not ActionKind.NOTHING
    ]
    assert (release.kind, release.id) == (ActionKind.BLOCKED, "release/small-local")
    assert str(release.reasons[0]) == "suspended: InferencePolicy/small"
    world.apply(desired_of(paused, policy=b"{ }"))
    assert [action.id for action in world.plan(desired_of(policy=b"{ }")).changes] == ["release/small-local"]


def test_a_recipe_is_not_cleaned_of_a_suite_anew_while_that_is_suspended() -> None:
    recipe = DATA.replace("spec:\n", "spec:\n  decontaminate_against: [EvalSuite/small]\n")
    texts = [recipe if text == DATA else text for text in SPECS.values()]
    world = World()
    world.apply(commit_of(texts))
    paused = [text.replace("kind: EvalSuite\nmetadata: {", f"kind: EvalSuite\nmetadata: {{{PAUSED}") for text in texts]
    assert paused != texts
    assert world.plan(commit_of(paused)).blocked == ()
    plan = world.plan(commit_of(paused, corpus=b"other"))
    assert plan.changes == ()
    assert (
        str(next(action for action in plan.blocked if action.id == "curate/small").reasons[0]) == "suspended: EvalSuite/small"
    )
