"""The decision: what a change to the commit or to the world makes the plan say. No step runs here."""

import dataclasses
import json

import pytest
from tests.conftest import SETTINGS
from tests.plan.world import ALL, World, desired_of

from forge.contract.kinds import STEPS, StepKind
from forge.plan import render
from forge.plan.action import ActionKind
from forge.plan.live import Running
from forge.plan.markdown import to_markdown
from forge.plan.reason import ReasonKind
from forge.plan.recorded import Scope
from forge.spec.compiled import Compiled


@pytest.fixture
def world() -> World:
    """Everything done once."""
    world = World()
    _, ran = world.apply(desired_of())
    assert ran == ALL
    return world


def test_a_first_plan_runs_everything_and_says_what_waits_for_what() -> None:
    plan = World().plan(desired_of())
    assert [action.id for action in plan.changes] == ALL
    first, *others = plan.actions
    assert (first.reasons[0].kind, first.key is not None) == (ReasonKind.CREATED, True)
    assert all(action.reasons[0].kind is ReasonKind.UPSTREAM and action.key is None for action in others)


def test_a_plan_after_apply_is_empty(world: World) -> None:
    plan = world.plan(desired_of())
    assert plan.changes == ()
    assert {action.kind for action in plan.actions} == {ActionKind.NOTHING}


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        ("models/model.yaml", "name: small}", "name: small, owners: [someone], labels: {a: b}}"),
        ("models/model.yaml", "tokens: 40k", "tokens: 40000"),
        ("models/model.yaml", "seed: 5", "seed: 5 # a comment\n    micro_batch_sequences: 8 # the default"),
        ("models/model.yaml", "seed: 5", "seed: 5\n    validate_every_tokens: 10k"),
        ("models/model.yaml", "optimizer: {lr: 5.0e-3}", "optimizer: {weight_decay: 0.1, name: adamw, lr: 0.005}"),
        ("models/data.yaml", "license: GPL-2.0-or-later", "license: GPL-2.0-only"),
    ],
)
def test_what_shapes_no_product_plans_nothing(world: World, path: str, old: str, new: str) -> None:
    assert world.plan(desired_of({path: (old, new)})).changes == ()


def test_a_training_field_retrains_and_names_old_and_new(world: World) -> None:
    desired = desired_of({"models/model.yaml": ("seed: 5", "seed: 6")})
    plan = world.plan(desired)
    first = plan.changes[0]
    assert (first.id, str(first.reasons[0])) == ("train/small", "field changed: training.seed: 5 -> 6 (rebuild)")
    _, ran = world.apply(desired)
    assert ran == ALL[3:]


def test_documents_that_come_out_the_same_stop_the_change_there(world: World) -> None:
    old = world.newest["curate/small"]
    desired = desired_of({"models/data.yaml": ("min_doc_words: 40", "min_doc_words: 41")})
    plan = world.plan(desired)
    assert [action.id for action in plan.changes] == ALL
    _, ran = world.apply(desired, product=lambda step, key: old.key)
    assert ran == ["curate/small"]


def test_a_changed_corpus_says_which_input_changed(world: World) -> None:
    plan = world.plan(desired_of(corpus=b"other"))
    assert str(plan.changes[0].reasons[0]) == "input changed: source-0 (DataRecipe/small)"


def test_a_policy_edit_reloads_and_retrains_nothing(world: World) -> None:
    plan = world.plan(desired_of(policy=b"{ }"))
    assert [(action.kind, action.id) for action in plan.changes] == [(ActionKind.RELOAD, "release/small-local")]


def test_a_changed_threshold_gates_again_and_evaluates_nothing(world: World) -> None:
    _, ran = world.apply(desired_of({"models/deployment.yaml": ("max: 7.0", "max: 6.0")}))
    assert ran == ["gate/small-local", "release/small-local"]


def test_a_no_go_blocks_the_release_until_something_changes(world: World) -> None:
    desired = desired_of({"models/deployment.yaml": ("max: 7.0", "max: 0.1")})
    plan, ran = world.apply(desired, verdict="NO-GO")
    assert ran == ["gate/small-local"]
    assert [action.id for action in plan.blocked] == ["release/small-local"]
    assert world.apply(desired)[1] == []


def test_going_back_moves_the_pointer_and_runs_nothing(world: World) -> None:
    first = world.release("local")
    assert first is not None
    world.apply(desired_of({"models/model.yaml": ("seed: 5", "seed: 6")}, commit="d"))
    plan = world.plan(desired_of(commit="e"))
    (action,) = plan.changes
    assert (action.kind, action.products["release"]) == (ActionKind.ROLL_BACK, first.release)
    assert action.reasons[0].kind is ReasonKind.RELEASED_BEFORE


def test_a_lost_artifact_is_made_again_and_supersedes(world: World) -> None:
    record = world.newest["tokenize/small"]
    world.stored.discard(record.products["tokens"])
    first = world.plan(desired_of()).changes[0]
    assert (first.id, first.reasons[0].kind, first.again, first.key) == (
        "tokenize/small",
        ReasonKind.ARTIFACT_MISSING,
        True,
        record.key,
    )


def test_a_raised_step_version_is_a_reason(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    raised = dataclasses.replace(STEPS[StepKind.TOKENIZE], version=99)
    monkeypatch.setitem(STEPS, StepKind.TOKENIZE, raised)
    first = world.plan(desired_of()).changes[0]
    assert str(first.reasons[0]) == f"step version raised: {world.newest['tokenize/small'].step_version} -> 99"


def test_a_target_plans_what_it_needs_and_no_more() -> None:
    plan = World().plan(desired_of(), Scope(frozenset({"Tokenizer/small"})))
    assert [action.id for action in plan.actions] == ["curate/small", "tokenizer/small", "tokenize/small"]


def test_the_same_inputs_give_the_same_bytes() -> None:
    plans = [World().plan(desired_of()) for _ in range(2)]
    for form in (render.to_text, to_markdown, render.to_json):
        assert form(plans[0]) == form(plans[1])


def test_training_shows_parameters_tokens_flops_time_and_cost() -> None:
    plan = World().plan(desired_of())
    (train,) = (action for action in json.loads(render.to_json(plan))["actions"] if action["id"] == "train/small")
    estimate = train["estimate"]
    assert estimate["tokens"] == 40 * 1024
    assert estimate["parameters"] == 512 * 32 + 2 * (32 * 32 * 2 + 2 * 32 * 16 + 3 * 32 * 64 + 64) + 32
    assert estimate["flops"] == estimate["tokens"] * (6 * estimate["parameters"] + 12 * 2 * 32 * 64)
    assert estimate["seconds"] == pytest.approx(estimate["flops"] / 9e10)
    assert estimate["cost"] == pytest.approx(estimate["seconds"] / 3600 * 0.08)
    assert "FLOPs: 6*N + 12*L*H*S per token" in render.to_text(plan)


def test_markdown_escapes_what_users_wrote(world: World) -> None:
    evil = "chat_template: '<img src=x> | `@everyone` [x](y)'\n  objective: pretrain"
    plan = world.plan(desired_of({"models/model.yaml": ("objective: pretrain", evil)}))
    markdown = to_markdown(plan)
    assert "| `field changed: chat_template: default -> <img src=x> \\| '@everyone' [x](y) (rebuild)` |\n" in markdown


def test_more_tokens_extend_the_earlier_run_and_cost_only_the_rest(world: World) -> None:
    desired = desired_of({"models/model.yaml": ("tokens: 40k", "tokens: 80k")})
    (train,) = (action for action in world.plan(desired).changes if action.step is StepKind.TRAIN)
    earlier = world.newest["train/small"]
    assert train.kind is ActionKind.EXTEND
    assert train.continues is not None
    assert (train.continues.key, train.continues.checkpoint) == (earlier.key, earlier.byproducts["checkpoint"])
    assert str(train.reasons[0]) == "field changed: training.tokens: 40000 -> 80000 (extend)"
    assert train.reasons[1].kind is ReasonKind.CONTINUES
    whole = World().plan(desired).actions[3].estimate
    assert train.estimate.tokens is not None
    assert whole.tokens is not None
    assert train.estimate.tokens == whole.tokens - 30 * 1024  # 40 steps of 1,024 tokens, of which the last 10 k decay


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("tokens: 40k", "tokens: 30k", "lowered"),
        ("tokens: 40k", "tokens: 80k\n    precision: bfloat16", "training.precision changed"),
    ],
)
def test_a_budget_that_cannot_be_continued_says_why(world: World, old: str, new: str, why: str) -> None:
    plan = world.plan(desired_of({"models/model.yaml": (old, new)}))
    (train,) = (action for action in plan.changes if action.step is StepKind.TRAIN)
    assert (train.kind, train.continues) == (ActionKind.RUN, None)
    assert any(reason.kind is ReasonKind.FROM_SCRATCH and why in reason.subject for reason in train.reasons)


def test_a_checkpoint_that_the_store_lost_is_no_checkpoint(world: World) -> None:
    world.stored.discard(world.newest["train/small"].byproducts["checkpoint"])
    plan = world.plan(desired_of({"models/model.yaml": ("tokens: 40k", "tokens: 80k")}))
    (train,) = (action for action in plan.changes if action.step is StepKind.TRAIN)
    assert train.kind is ActionKind.RUN
    assert "the store no longer has the checkpoint" in str(train.reasons[-1])


def test_a_changed_eval_item_evaluates_and_gates_again_and_retrains_nothing(world: World) -> None:
    desired = desired_of({"evals/small.yaml": ("tasks: [small_bpb]", "tasks: [small_bpb]\n  num_fewshot: 1")})
    plan = world.plan(desired)
    assert [(action.kind, action.id) for action in plan.changes] == [
        (ActionKind.RE_EVALUATE, "evaluate/small.small"),
        (ActionKind.RE_EVALUATE, "gate/small-local"),
        (ActionKind.RELEASE, "release/small-local"),
    ]
    assert "train/small" not in world.apply(desired)[1]


def test_an_artifact_that_was_found_damaged_is_made_again(world: World) -> None:
    record = world.newest["tokenize/small"]
    world.corrupt.add(record.products["tokens"])
    first = world.plan(desired_of()).changes[0]
    assert (first.id, first.reasons[0].kind, first.again) == ("tokenize/small", ReasonKind.ARTIFACT_CORRUPT, True)
    assert world.apply(desired_of())[1] == ["tokenize/small"]


def test_a_forced_step_runs_once_and_what_reads_it_is_decided_after(world: World) -> None:
    plan = world.plan(desired_of(), Scope(force=frozenset({"curate/small"})))
    assert (plan.changes[0].id, plan.changes[0].reasons[0].kind) == ("curate/small", ReasonKind.FORCED)
    assert world.apply(desired_of(), scope=Scope(force=frozenset({"curate/small"})))[1] == ["curate/small"]


def test_what_a_runner_works_at_is_awaited(world: World) -> None:
    desired = desired_of({"models/model.yaml": ("seed: 5", "seed: 6")})
    key = world.plan(desired).changes[0].key
    assert key is not None
    world.running[key] = Running(key, "train/small", "process 7 on elsewhere", "d" * 40)
    first = world.plan(desired).changes[0]
    assert (first.reasons[0].kind, first.replaces) == (ReasonKind.IN_FLIGHT, None)


@pytest.mark.parametrize(
    ("now", "kind", "continued"),
    [("tokens: 80k", ActionKind.EXTEND, True), ("tokens: 40k\n    precision: bfloat16", ActionKind.RUN, False)],
)
def test_a_run_in_flight_is_extended_or_superseded_by_what_the_field_means(
    world: World, now: str, kind: ActionKind, continued: bool
) -> None:
    """A training with another seed is under way when the commit changes once more."""
    at_work = desired_of({"models/model.yaml": ("seed: 5", "seed: 6")})
    running = world.plan(at_work).changes[0]
    assert running.key is not None
    step = next(action for action in at_work.compiled.values() if action.address == "Model/small")
    parameters = json.loads(step.parameters)
    reached = ("checkpoints/step-00000012-attempt-1",)
    world.running[running.key] = Running(running.key, "train/small", "process 7", "d" * 40, parameters, running.inputs, reached)
    newer = desired_of({"models/model.yaml": ("tokens: 40k", now)})
    newer = dataclasses.replace(newer, compiled={**newer.compiled, "Model/small": _with_seed(newer.compiled["Model/small"])})
    action = world.plan(newer).changes[0]
    assert (action.kind, action.replaces) == (kind, running.key)
    assert any(reason.kind is ReasonKind.SUPERSEDES for reason in action.reasons)
    assert (action.continues is not None and action.continues.key == running.key) is continued
    world.running[running.key] = dataclasses.replace(world.running[running.key], gives_way=False)
    awaited = world.plan(newer).changes[0]
    assert awaited.replaces == running.key
    kinds = {reason.kind for reason in awaited.reasons}
    assert ReasonKind.AWAITS_RUN in kinds
    assert ReasonKind.SUPERSEDES not in kinds


def _with_seed(model: Compiled) -> Compiled:
    return model._replace(parameters=model.parameters.replace('"seed":5', '"seed":6'))


def test_a_spec_that_leaves_the_commit_is_retired_and_its_environment_serves_nothing(world: World) -> None:
    desired = desired_of(without=["models/deployment.yaml"])
    plan = world.plan(desired)
    assert [(action.kind, action.id, action.environment) for action in plan.changes] == [
        (ActionKind.RETIRE, "Deployment/small-local", "local")
    ]
    world.apply(desired)
    assert world.release("local") is None
    assert world.plan(desired).changes == ()
    assert world.apply(desired_of())[1] == ["release/small-local"]  # it comes back as it was: nothing was deleted


def test_protection_outlives_the_file(world: World) -> None:
    protect = {"models/deployment.yaml": ("metadata: {name: small-local", "metadata: {protect: true, name: small-local")}
    plan = world.plan(desired_of(protect))
    assert [(action.kind, action.id) for action in plan.changes] == [(ActionKind.PROTECT, "Deployment/small-local")]
    world.apply(desired_of(protect))
    gone = world.plan(desired_of(without=["models/deployment.yaml"]))
    assert gone.changes == ()
    assert [(action.id, action.reasons[0].kind) for action in gone.blocked] == [
        ("Deployment/small-local", ReasonKind.PROTECTED)
    ]
    world.apply(desired_of())  # it is there, and says that it is not protected
    assert world.plan(desired_of(without=["models/deployment.yaml"])).changes[0].kind is ActionKind.RETIRE


def test_a_suspended_resource_is_held_back_with_what_needs_it(world: World) -> None:
    suspend = 'annotations: {forge/suspend: "true"}, '
    changes = {"models/data.yaml": ("metadata: {name: small", f"metadata: {{{suspend}name: small")}
    assert world.plan(desired_of(changes)).changes == ()
    plan = world.plan(desired_of(changes, corpus=b"other"))
    assert plan.changes == ()
    assert plan.blocked[0].reasons[0].kind is ReasonKind.SUSPENDED
    assert {action.reasons[0].kind for action in plan.blocked[1:]} == {ReasonKind.WAITS}


def test_a_renamed_model_keeps_its_weights_and_its_history(world: World) -> None:
    changes = {
        "models/model.yaml": ("metadata: {name: small}", "metadata: {name: handbook, previous_name: small}"),
        "models/deployment.yaml": ("model: Model/small", "model: Model/handbook"),
    }
    plan = world.plan(desired_of(changes))
    kinds = {action.id: action.kind for action in plan.actions}
    assert kinds["train/handbook"] is ActionKind.REUSE
    assert kinds["release/small-local"] is ActionKind.RELOAD  # callers name the model: the pointer says its new name
    assert "Model/small" not in kinds
    again = desired_of(
        {**changes, "models/model.yaml": ("metadata: {name: small}\n", "metadata: {name: handbook, previous_name: small}\n")}
    )
    assert world.plan(again).changes


def test_a_pointer_that_was_moved_by_hand_has_drifted(world: World) -> None:
    ours = world.release("local")
    assert ours is not None
    world.apply(desired_of({"models/model.yaml": ("seed: 5", "seed: 6")}, commit="d"))
    other = world.release("local")
    world.apply(desired_of(commit="e"))
    assert other is not None
    world.moves["local"].append(other)
    (action,) = world.plan(desired_of(commit="e")).changes
    assert (action.reasons[0].kind, action.products["release"]) == (ReasonKind.DRIFTED, ours.release)


@pytest.mark.parametrize("named", ["d", "e"])
def test_a_pointer_that_was_moved_by_hand_has_drifted_after_an_unrelated_commit_too(world: World, named: str) -> None:
    """The hand's move is signed in the name of the commit that asked for it once, or of the one that it undoes."""
    ours = world.release("local")
    world.apply(desired_of({"models/model.yaml": ("seed: 5", "seed: 6")}, commit="d"))
    other = world.release("local")
    world.apply(desired_of(commit="e"))
    assert ours is not None
    assert other is not None
    world.moves["local"].append(other.model_copy(update={"commit": named * 40}))
    unrelated = desired_of({"models/model.yaml": ("name: small}", "name: small, owners: [someone]}")}, commit="f")
    (action,) = world.plan(unrelated).changes
    assert (action.reasons[0].kind, action.products["release"]) == (ReasonKind.DRIFTED, ours.release)


def test_a_pointer_that_was_moved_for_another_branch_has_drifted_and_the_plan_says_who_moved_it(world: World) -> None:
    """An unrelated commit on main, an edit that was applied on a branch of it, and back on main."""
    ours = world.release("local")
    main = desired_of({"models/model.yaml": ("name: small}", "name: small, owners: [someone]}")}, commit="d")
    assert world.plan(main).changes == ()
    world.apply(desired_of({"models/model.yaml": ("seed: 5", "seed: 6")}, commit="e"))
    (action,) = world.plan(main).changes
    assert action.reasons[0].kind is ReasonKind.RELEASED_BEFORE  # a revert: main descends from the commit that moved it
    world.elsewhere.add("e" * 40)
    (action,) = world.plan(main).changes
    assert ours is not None
    assert (action.kind, action.products["release"]) == (ActionKind.ROLL_BACK, ours.release)
    assert [reason.kind for reason in action.reasons] == [ReasonKind.DRIFTED, ReasonKind.MOVED_BY]
    assert action.reasons[0].commit == "e" * 40
    assert str(action.reasons[1]) == "moved for commit eeeeeeeeeeee at 2026-01-01T00:00:10.000+00:00"


def test_going_back_after_a_drift_was_healed_is_no_drift(world: World) -> None:
    first = world.release("local")
    assert first is not None
    later = desired_of({"models/model.yaml": ("seed: 5", "seed: 6")}, commit="d")
    world.apply(later)
    world.moves["local"].append(first)
    world.apply(later)
    (action,) = world.plan(desired_of(commit="e")).changes
    assert (action.reasons[0].kind, action.products["release"]) == (ReasonKind.RELEASED_BEFORE, first.release)


def test_a_plan_beyond_the_budget_is_refused() -> None:
    settings = SETTINGS + "[budgets]\nmax_cost_per_plan = 0.000001\n"
    plan = World().plan(desired_of(settings=settings))
    assert "budgets.max_cost_per_plan" in plan.refusals[0]
    assert "REFUSED: " in render.to_text(plan)
    assert World().plan(desired_of(settings=SETTINGS + "[budgets]\nmax_cost_per_plan = 1.0\n")).refusals == ()
