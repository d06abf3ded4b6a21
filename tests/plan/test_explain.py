"""Whoever has only the explanation can say why a step would run."""

import pytest
from tests.plan.world import World, desired_of

from forge.errors import UsageError
from forge.plan import explain as module
from forge.plan.desired import Desired
from forge.plan.explain import explain
from forge.plan.graph import build_graph
from forge.plan.reason import ReasonKind
from forge.plan.recorded import Scope


@pytest.fixture
def world() -> World:
    world = World()
    world.apply(desired_of())
    return world


def told(world: World, desired: Desired, name: str, scope: Scope | None = None) -> str:
    plan = world.plan(desired, scope or Scope())
    return explain(plan, name, build_graph(desired), world)


def test_every_reason_has_a_sentence() -> None:
    assert set(module._SENTENCES) == set(ReasonKind)


def test_the_chain_leads_from_a_step_to_the_field_that_set_it_off(world: World) -> None:
    text = told(world, desired_of({"models/data.yaml": ("min_doc_words: 40", "min_doc_words: 41")}), "gate/small-local")
    assert text.splitlines()[0] == "gate/small-local: re-evaluate"
    assert "because evaluate/small.small must be done first" in text
    assert text.index("train/small: run") < text.index("tokenize/small: run") < text.index("curate/small: run")
    assert "because `filters.gopher_quality.min_doc_words` was 40 and is 41; a change of it means rebuild" in text
    assert "train/small: run (told above)" not in text  # one step reads another once
    assert "curate/small: run (told above)" in text or text.count("curate/small: run") == 1


def test_a_step_in_sync_says_what_made_it_and_under_which_identity(world: World) -> None:
    text = told(world, desired_of(), "train/small")
    assert f"its identity is {world.newest['train/small'].key}" in text
    assert "made by train/small for commit cccccccccccc" in text
    assert f"weights is {world.newest['train/small'].products['weights']}" in text


def test_a_resource_is_explained_by_all_of_its_steps(world: World) -> None:
    text = told(world, desired_of(), "Deployment/small-local")
    assert "gate/small-local: nothing" in text
    assert "release/small-local: nothing" in text


def test_what_is_decided_after_a_step_is_named(world: World) -> None:
    text = told(world, desired_of(corpus=b"other"), "curate/small")
    assert "because its input source-0 (DataRecipe/small) was sha256:" in text
    assert "what reads it and is decided after it: tokenizer/small, tokenize/small" in text


def test_an_unknown_name_gets_a_suggestion(world: World) -> None:
    with pytest.raises(UsageError, match="did you mean `train/small`"):
        told(world, desired_of(), "train/smal")


def test_a_forced_step_says_so(world: World) -> None:
    assert "someone asked for it by name" in told(world, desired_of(), "train/small", Scope(force=frozenset({"train/small"})))
