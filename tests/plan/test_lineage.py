"""A resource that is renamed keeps its history, however often and however long ago; nobody else inherits it."""

from collections.abc import Mapping

import pytest
from tests.conftest import MODEL, SPECS
from tests.plan.test_withdrawn import commit_of, withdrawing
from tests.plan.world import PastOf, World, desired_of

from forge.plan.action import Action, ActionKind, Plan
from forge.plan.desired import Desired
from forge.plan.explain import explain
from forge.plan.explanation import to_text as told
from forge.plan.graph import build_graph
from forge.plan.lineage import Lineage
from forge.plan.live import Running
from forge.plan.reason import ReasonKind
from forge.plan.render import to_text
from forge.plan.review import FindingKind, review

MORE = {"tokens: 40k": "tokens: 80k"}


def called(
    name: str, before: str | None = None, commit: str = "d", more: Mapping[str, str] | None = None, **other: str
) -> Desired:
    """The commit in which the model has a name; ``more``: text of its file that is replaced."""
    metadata = f"{{name: {name}" + (f", previous_name: {before}" if before else "") + "}"
    model = MODEL.replace("{name: small}", metadata)
    for old, new in (more or {}).items():
        assert old in model
        model = model.replace(old, new)
    changes = {"models/model.yaml": (MODEL, model), "models/deployment.yaml": ("Model/small", f"Model/{name}")}
    return desired_of(changes, commit=commit, models=other.values())


def training(plan: Plan, name: str) -> Action:
    return next(action for action in plan.actions if action.id == f"train/{name}")


@pytest.fixture
def world() -> World:
    """Everything done once."""
    world = World()
    world.apply(desired_of())
    return world


def test_a_renaming_is_noted_once_and_the_old_name_is_not_retired(world: World) -> None:
    plan = world.plan(called("mid", "small"))
    (noted,) = [action for action in plan.changes if action.step is None]
    assert (noted.kind, noted.id, str(noted.reasons[0])) == (ActionKind.RENAME, "rename/Model/mid", "renamed from Model/small")
    world.apply(called("mid", "small"))
    for again in (called("mid", "small"), called("mid")):
        assert world.plan(again).changes == ()
    assert world.subjects()["Model/small"].renamed == "Model/mid"


def test_history_is_followed_through_two_renamings(world: World) -> None:
    world.apply(called("mid", "small"))
    world.apply(called("last", "mid"))
    plan = world.plan(called("last", "mid", more=MORE))
    assert [action.kind for action in plan.changes].count(ActionKind.RETIRE) == 0
    assert training(plan, "last").kind is ActionKind.EXTEND


def test_history_stays_when_the_previous_name_is_taken_out(world: World) -> None:
    world.apply(called("mid", "small"))
    desired = called("mid", more=MORE)
    plan = world.plan(desired)
    train = training(plan, "mid")
    assert (train.kind, train.reasons[0].kind) == (ActionKind.EXTEND, ReasonKind.FIELD_CHANGED)
    assert "`training.tokens` was 40000 and is 80000" in told(explain(plan, "train/mid", desired, world, PastOf(world)))


OTHER = MODEL.replace("seed: 5", "seed: 9")


def test_another_resource_that_takes_the_old_name_inherits_nothing(world: World) -> None:
    world.apply(called("mid", "small"))
    desired = called("mid", commit="e", other=OTHER)
    plan = world.plan(desired)
    assert training(plan, "small").reasons[0].kind is ReasonKind.CREATED
    world.apply(desired)
    train = training(world.plan(called("mid", more=MORE, other=OTHER)), "mid")
    assert str(train.reasons[0]) == "field changed: training.tokens: 40000 -> 80000 (extend)"
    assert train.kind is ActionKind.EXTEND
    other = training(world.plan(called("mid", other=OTHER.replace("seed: 9", "seed: 8"))), "small")
    assert str(other.reasons[0]) == "field changed: training.seed: 9 -> 8 (rebuild)"
    gone = world.plan(called("mid")).changes
    assert [(action.kind, action.id) for action in gone] == [(ActionKind.RETIRE, "Model/small")]


def test_a_renaming_that_was_reverted_gives_the_history_back(world: World) -> None:
    world.apply(called("mid", "small"))
    world.apply(called("small", commit="e"))
    assert world.subjects()["Model/mid"].retired is not None
    assert training(world.plan(called("small", more=MORE)), "small").kind is ActionKind.EXTEND


def test_a_name_that_goes_to_and_fro_keeps_all_that_was_made_under_either(world: World) -> None:
    more, most = {"tokens: 40k": "tokens: 60k"}, {"tokens: 40k": "tokens: 80k"}
    world.apply(called("mid", "small"))
    world.apply(called("mid", more=more))
    world.apply(called("small", "mid", more=more))
    world.apply(called("mid", "small", more=more))
    assert world.plan(called("mid", more=more)).changes == ()
    train = training(world.plan(called("mid", more=most)), "mid")
    assert str(train.reasons[0]) == "field changed: training.tokens: 60000 -> 80000 (extend)"


def test_steps_that_are_named_after_two_resources_are_followed_for_each(world: World) -> None:
    texts = [text.replace("DataRecipe/small", "DataRecipe/manuals") for text in SPECS.values()]
    renamed = [
        text.replace(
            "kind: DataRecipe\nmetadata: {name: small", "kind: DataRecipe\nmetadata: {name: manuals, previous_name: small"
        )
        .replace("kind: EvalSuite\nmetadata: {name: small", "kind: EvalSuite\nmetadata: {name: bits, previous_name: small")
        .replace("EvalSuite/small", "EvalSuite/bits")
        for text in texts
    ]
    assert renamed != texts
    noted = [action.id for action in world.plan(commit_of(renamed)).changes if action.kind is ActionKind.RENAME]
    assert sorted(noted) == ["rename/DataRecipe/manuals", "rename/EvalSuite/bits"]
    world.apply(commit_of(renamed, commit="d"))
    assert world.plan(commit_of(renamed)).changes == ()
    world.apply(commit_of([text.replace(", previous_name: small", "") for text in renamed], commit="e"))
    now = commit_of([text.replace(", previous_name: small", "") for text in renamed])
    lineage = Lineage(now, world)
    steps = build_graph(now)
    for step_id, before in (("tokenize/manuals.small", "tokenize/small"), ("evaluate/small.bits", "evaluate/small.small")):
        assert lineage.ids(steps[step_id]) == [step_id, before]
        assert lineage.latest(steps[step_id]) == world.newest[before]


def test_a_run_in_flight_under_the_old_name_is_superseded(world: World) -> None:
    world.apply(called("mid", "small"))
    world.running["k"] = Running("k", "train/small", "process 7", "d" * 40)
    assert training(world.plan(called("mid", more=MORE)), "mid").replaces == "k"
    assert training(world.plan(called("mid", more=MORE, other=OTHER)), "mid").replaces is None  # it is the other one's


def test_what_is_withdrawn_by_an_earlier_name_stays_withdrawn(world: World) -> None:
    def texts(metadata: str) -> list[str]:
        model = MODEL.replace("{name: small}", metadata).replace("seed: 5", "seed: 6")
        return [model if text == MODEL else text.replace("Model/small", "Model/mid") for text in SPECS.values()]

    world.apply(commit_of(texts("{name: mid, previous_name: small}"), commit="d"))
    plan = world.plan(commit_of(texts("{name: mid}"), withdrawn=withdrawing("Model/small"), commit="e"))
    train = training(plan, "mid")
    assert (train.kind, train.reasons[0].kind) == (ActionKind.BLOCKED, ReasonKind.WITHDRAWN)


def protecting(text: str, name: str) -> Desired:
    changes = {
        "models/model.yaml": ("{name: small}", f"{{{text}}}"),
        "models/deployment.yaml": ("Model/small", f"Model/{name}"),
    }
    return desired_of(changes, commit="d")


def notes(plan: Plan) -> list[str]:
    return [f"{action.kind} {action.id}: {action.reasons[0]}" for action in plan.actions if action.step is None]


@pytest.fixture
def guarded(world: World) -> World:
    """The model is protected."""
    world.apply(protecting("name: small, protect: true", "small"))
    return world


def protection_findings(world: World, desired: Desired) -> list[tuple[str, str]]:
    """What a pull request's comment says of protection when a commit follows the one that protects the model."""
    findings = review(world.plan(desired), desired, protecting("name: small, protect: true", "small")).findings
    return [(finding.subject, finding.detail) for finding in findings if finding.kind is FindingKind.PROTECTION]


def test_protection_follows_a_renaming(guarded: World) -> None:
    big = protecting("name: big, previous_name: small, protect: true", "big")
    assert notes(guarded.plan(big)) == ["rename rename/Model/big: renamed from Model/small"]
    guarded.apply(big)
    gone = desired_of(without=["models/model.yaml", "models/deployment.yaml"])
    assert "blocked Model/big: protected: Model/big" in notes(guarded.plan(gone))
    assert protection_findings(guarded, big) == []


def test_a_renaming_that_drops_protection_says_so_in_the_plan(guarded: World) -> None:
    big = protecting("name: big, previous_name: small", "big")
    plan = guarded.plan(big)
    assert notes(plan) == [
        "rename rename/Model/big: renamed from Model/small",
        "protect Model/big: protection changed: protected -> not protected",
    ]
    assert "protection changed: protected -> not protected" in to_text(plan)
    assert protection_findings(guarded, big) == [("Model/big", "no longer")]
    guarded.apply(big)
    assert guarded.plan(big).changes == ()
    assert not any(subject.protected for subject in guarded.subjects().values())


def test_what_left_the_commit_is_not_said_to_be_unprotected(guarded: World) -> None:
    gone = desired_of(without=["models/model.yaml", "models/deployment.yaml"])
    assert protection_findings(guarded, gone) == []


def test_what_was_made_under_the_old_name_is_kept_with_what_is_protected_now(guarded: World) -> None:
    big = protecting("name: big, previous_name: small, protect: true", "big")
    guarded.apply(big)
    lineage = Lineage(big, guarded)
    assert lineage.former_names("Model/big") == ["Model/small"]
    assert lineage.later_names("Model/small") == ["Model/big"]
