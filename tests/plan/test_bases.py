"""Plans of models that continue others: their edges, what a changed base changes, what they cost, what is withdrawn."""

from typing import Any

import pytest
from tests.conftest import MODEL, SPECS
from tests.plan.test_withdrawn import commit_of, held, withdrawing
from tests.plan.world import ALL, PastOf, World
from tests.spec.test_continue_spec import MORE, NEXT

from forge.canonical import digest_of_bytes
from forge.plan.action import Action, ActionKind
from forge.plan.bases import flops_of_base
from forge.plan.desired import Bundle, BundleFile, Desired
from forge.plan.explain import explain
from forge.plan.explanation import to_text
from forge.plan.graph import build_graph
from forge.plan.markdown import to_markdown
from forge.plan.reason import ReasonKind
from forge.plan.recorded import Scope
from forge.plan.review import FindingKind, review
from forge.plan.step import FromCommit, FromStep
from forge.spec.resource import Model

FOLDER = "{path: vendor/base, license: MIT, origin: elsewhere}"


def commit(*others: str, next_: str = NEXT, model: str = MODEL, weights: bytes = b"weights", **more: Any) -> Desired:
    """The small example, a model that continues its model, and a folder where that is the base."""
    texts = [*(model if each is MODEL else each for each in SPECS.values()), MORE, next_, *others]
    desired = commit_of(texts, **more)
    if FOLDER in next_:
        files = {"base": weights, "tokenizer": b"tokenizer"}
        bundles = {
            ("Model/next", name): Bundle({"file": BundleFile(len(data), digest_of_bytes(data), origin=f"vendor/base/{name}")})
            for name, data in files.items()
        }
        object.__setattr__(desired, "bundles", {**desired.bundles, **bundles})
    return desired


def of(world: World, desired: Desired, step_id: str = "train/next") -> Action:
    return next(action for action in world.plan(desired).actions if action.id == step_id)


@pytest.fixture
def world() -> World:
    world = World()
    world.apply(commit())
    return world


def test_its_training_reads_the_weights_of_its_base_and_both_kinds_of_data() -> None:
    step = build_graph(commit())["train/next"]
    assert step.inputs == {
        "tokens": FromStep("tokenize/more.small", "tokens"),
        "tokenizer": FromStep("tokenizer/small", "tokenizer"),
        "base": FromStep("train/small", "weights"),
        "replay": FromStep("tokenize/small", "tokens"),
    }
    assert step.parameters["base"] == {}
    assert step.parameters["replay"] == {"fraction": 0.25}


def test_what_is_not_continued_plans_as_before() -> None:
    graph, before = build_graph(commit()), build_graph(commit_of())
    assert {name: graph[name] for name in ALL} == before


def test_a_folder_lends_its_weights_and_apart_from_them_its_tokenizer() -> None:
    desired = commit(next_=NEXT.replace("{model: Model/small}", FOLDER))
    graph = build_graph(desired)
    step = graph["train/next"]
    assert step.inputs["base"] == FromCommit("Model/next", desired.bundles["Model/next", "base"])
    assert step.inputs["tokenizer"] == FromCommit("Model/next", desired.bundles["Model/next", "tokenizer"])
    assert graph["tokenize/more.base.next"].inputs["tokenizer"] == step.inputs["tokenizer"]
    assert "tokenize/small.base.next" in graph
    world = World()
    world.apply(desired)
    other = commit(next_=NEXT.replace("{model: Model/small}", FOLDER), weights=b"others")
    assert [action.id for action in world.plan(other).changes] == ["train/next"]


def test_a_model_that_continues_one_from_a_folder_has_the_folders_tokenizer() -> None:
    further = NEXT.replace("name: next", "name: further").replace("Model/small", "Model/next")
    desired = commit(further, next_=NEXT.replace("{model: Model/small}", FOLDER))
    step = build_graph(desired)["train/further"]
    assert step.inputs["tokens"] == FromStep("tokenize/more.base.next", "tokens")
    assert step.inputs["base"] == FromStep("train/next", "weights")


def test_it_is_decided_after_a_base_that_is_not_trained_yet() -> None:
    action = of(World(), commit())
    assert (action.kind, action.key) == (ActionKind.RUN, None)
    assert action.reasons[0].kind is ReasonKind.UPSTREAM
    assert "train/small" in action.reasons[0].subject
    assert action.estimate.flops is not None


def test_a_base_that_changes_is_an_input_that_changed_and_the_story_leads_to_its_field(world: World) -> None:
    desired = commit(model=MODEL.replace("seed: 5", "seed: 6"), commit="d")
    assert of(world, desired).reasons[0].subject == "train/small"
    world.apply(desired, scope=Scope(frozenset({"Model/small"})))
    action = of(world, desired)
    (reason,) = action.reasons
    assert (reason.kind, reason.subject) == (ReasonKind.INPUT_CHANGED, "base (train/small)")
    text = to_text(explain(world.plan(desired), "train/next", desired, world, PastOf(world)))
    assert "its input base (train/small) was sha256:" in text
    assert "train/small: nothing" in text


def test_a_base_whose_weights_come_out_the_same_changes_nothing(world: World) -> None:
    desired = commit(model=MODEL.replace("seed: 5", "seed: 6"), commit="d")
    fresh = World()
    fresh.apply(commit(), product=lambda step, key: step.id)
    _, done = fresh.apply(desired, product=lambda step, key: step.id)
    assert done == ["train/small"]


def test_more_tokens_extend_a_continued_model(world: World) -> None:
    desired = commit(next_=NEXT.replace("tokens: 20k", "tokens: 40k"), commit="d")
    action = of(world, desired)
    assert action.kind is ActionKind.EXTEND
    assert action.continues is not None


def test_another_mixture_trains_anew(world: World) -> None:
    text = NEXT.replace("fraction: 0.25", "fraction: 0.5").replace("tokens: 20k", "tokens: 40k")
    action = of(world, commit(next_=text, commit="d"))
    assert action.kind is ActionKind.RUN
    (obstacle,) = [reason.subject for reason in action.reasons if reason.kind is ReasonKind.FROM_SCRATCH]
    assert obstacle.startswith("replay.fraction changed: only training.tokens may differ")


def test_a_target_brings_its_base_along() -> None:
    plan = World().plan(commit(), Scope(frozenset({"Model/next"})))
    assert {"train/small", "train/next", "curate/more"} <= {action.id for action in plan.changes}


def test_a_base_that_is_suspended_holds_it_back() -> None:
    paused = MODEL.replace("{name: small}", '{name: small, annotations: {forge/suspend: "true"}}')
    action = of(World(), commit(model=paused))
    assert action.kind is ActionKind.BLOCKED
    assert "train/small" in str(action.reasons[0])


@pytest.mark.parametrize("subject", ["Model/small", "DataRecipe/small", "DataRecipe/more"])
def test_a_withdrawn_base_or_its_data_marks_it(world: World, subject: str) -> None:
    plan = world.plan(commit(withdrawn=withdrawing(subject), commit="d"))
    assert "train/next" in held(plan)
    if subject == "DataRecipe/more":
        assert "train/small" not in held(plan)


def test_withdrawn_weights_of_the_base_or_a_file_of_its_folder_mark_it(world: World) -> None:
    weights = world.newest["train/small"].products["weights"]
    assert "train/next" in held(world.plan(commit(withdrawn=withdrawing(weights), commit="d")))
    imported = NEXT.replace("{model: Model/small}", FOLDER)
    file = digest_of_bytes(b"weights")
    plan = World().plan(commit(next_=imported, withdrawn=withdrawing(file), commit="d"))
    assert held(plan) == ["train/next"]


def test_what_it_computes_is_held_against_a_third_of_its_base() -> None:
    further = NEXT.replace("name: next", "name: further").replace("Model/small", "Model/next")
    desired = commit(further)
    resources = desired.resources
    plan = World().plan(desired)
    found = {item.step_id: item for item in review(plan, desired).compute}
    small, following, last = (found[f"train/{name}"] for name in ("small", "next", "further"))
    assert (small.base, small.base_flops, small.whole) == (None, None, small.flops)
    assert (following.base, following.base_flops) == ("Model/small", small.flops)
    assert last.base_flops == small.flops + following.flops  # of the model as a whole
    assert last.whole == small.flops + following.flops + last.flops
    model = resources["Model/further"]
    assert isinstance(model, Model)
    assert flops_of_base(model, resources, desired.settings) == last.base_flops
    markdown = to_markdown(plan, review(plan, desired))
    row = next(line for line in markdown.splitlines() if line.startswith("| `train/next` |"))
    assert row.endswith("| `Model/small` | 1.06e+10 | **1.5 times** |"), row
    assert "a general-purpose AI model with more than that is its provider" in markdown


def test_a_base_whose_operations_are_unknown_says_so() -> None:
    desired = commit(next_=NEXT.replace("{model: Model/small}", FOLDER))
    plan = World().plan(desired)
    rows = to_markdown(plan, review(plan, desired)).splitlines()
    row = next(line for line in rows if line.startswith("| `train/next` |"))
    assert row == "| `train/next` | unknown | unknown | unknown | `the folder vendor/base` | unknown | unknown |"
    assert of(World(), desired).estimate.flops is None


def test_a_plan_without_continued_models_has_the_table_that_it_had() -> None:
    desired = commit_of()
    plan = World().plan(desired)
    assert "| training | FLOPs | of 1e23 | of 1e25 |\n" in to_markdown(plan, review(plan, desired))


def test_another_base_and_another_licence_of_it_are_to_be_reviewed() -> None:
    imported = NEXT.replace("{model: Model/small}", FOLDER)
    before, after = commit(), commit(next_=imported)
    plan = World().plan(after)
    (finding,) = [each for each in review(plan, after, before).findings if each.kind is FindingKind.BASE]
    assert (finding.subject, finding.old, finding.new) == ("Model/next", "Model/small", "vendor/base: MIT, elsewhere")
    other = commit(next_=imported.replace("MIT", "CC-BY-NC-4.0"))
    (finding,) = [each for each in review(plan, other, after).findings if each.kind is FindingKind.BASE]
    assert finding.new == "vendor/base: CC-BY-NC-4.0, elsewhere"
