"""The decision: what a change to the commit or to the world makes the plan say. No step runs here."""

import dataclasses
import json
from collections.abc import Callable

import pytest
from tests.conftest import SETTINGS, SPECS

from forge.canonical import digest_of_bytes
from forge.contract.kinds import STEPS, StepKind
from forge.contract.record import Record, Release, Spent
from forge.plan import render
from forge.plan.desired import Bundle, BundleFile, Desired
from forge.plan.graph import Step
from forge.plan.plan import Action, ActionKind, Plan, ReasonKind, make_plan
from forge.spec.load import load
from forge.spec.resolve import resolve
from forge.spec.settings import read_settings


class History:
    """A ledger in memory."""

    def __init__(self) -> None:
        self.records: dict[str, Record] = {}
        self.newest: dict[str, Record] = {}
        self.releases: dict[str, Release] = {}

    def record(self, key: str) -> Record | None:
        return self.records.get(key)

    def latest(self, step_id: str) -> Record | None:
        return self.newest.get(step_id)

    def release(self, environment: str) -> Release | None:
        return self.releases.get(environment)


def desired_of(changes: dict[str, tuple[str, str]] | None = None, *, corpus: bytes = b"text", policy: bytes = b"{}") -> Desired:
    files = []
    for path, text in SPECS.items():
        old, new = (changes or {}).get(path, ("", ""))
        assert old in text
        files.append((path, text.replace(old, new).encode()))
    loaded = load(files)
    resolved = resolve(loaded.resources)
    assert not loaded.diagnostics
    assert not resolved.diagnostics

    def bundle(data: bytes) -> Bundle:
        return Bundle({"file": BundleFile(len(data), digest_of_bytes(data), inline=data)})

    bundles = {
        ("DataRecipe/small", "source-0"): bundle(corpus),
        ("EvalSuite/small", "tasks"): bundle(b"tasks"),
        ("InferencePolicy/small", "policy"): bundle(policy),
    }
    return Desired("c" * 40, read_settings(SETTINGS.encode(), "0.1.0"), resolved.resources, bundles)


def finish(
    history: History,
    action: Action,
    stored: set[str],
    *,
    verdict: str = "GO",
    product: Callable[[Step, str], str] = lambda step, key: key,
) -> None:
    """Record an action as done; products are named by the key unless ``product`` says otherwise."""
    assert action.key is not None
    step = action.step
    products = {name: digest_of_bytes(f"{name} {product(step, action.key)}".encode()) for name in STEPS[step.kind].products}
    record = Record(
        key=action.key,
        step=step.kind,
        step_version=STEPS[step.kind].version,
        step_id=step.id,
        subject=step.subject,
        parameters=dict(step.parameters),
        inputs=dict(action.inputs),
        products=products,
        metrics={"verdict": verdict, "failed": ""} if step.kind is StepKind.GATE else {},
        commit="c" * 40,
        attempt=1,
        started="2026-01-01T00:00:00.000+00:00",
        finished="2026-01-01T00:00:10.000+00:00",
        environment={},
        actual=Spent(seconds=10),
        attestations={},
    )
    history.records[action.key] = history.newest[step.id] = record
    stored.update(products.values())
    if step.kind is StepKind.RELEASE:
        release = Release(
            environment="local",
            deployment=step.name,
            release=products["release"],
            key=action.key,
            commit="c" * 40,
            moved="2026-01-01T00:00:10.000+00:00",
        )
        history.releases["local"] = release


def run_all(desired: Desired, history: History, stored: set[str], **how: object) -> tuple[Plan, list[str]]:
    """Do what ``apply`` does, without doing the work; returns the last plan and the steps that ran."""
    ran = []
    plan = make_plan(desired, history, frozenset(stored))
    while plan.changes:
        action = next(action for action in plan.changes if action.key is not None)
        ran.append(action.step.id)
        finish(history, action, stored, **how)  # type: ignore[arg-type]
        plan = make_plan(desired, history, frozenset(stored))
    return plan, ran


ALL = [
    "curate/small",
    "tokenizer/small",
    "tokenize/small",
    "train/small",
    "evaluate/small.small",
    "gate/small-local",
    "release/small-local",
]


@pytest.fixture
def world() -> tuple[History, set[str]]:
    """Everything done once."""
    history, stored = History(), set[str]()
    _, ran = run_all(desired_of(), history, stored)
    assert ran == ALL
    return history, stored


def test_a_first_plan_runs_everything_and_says_what_waits_for_what() -> None:
    plan = make_plan(desired_of(), History(), frozenset())
    assert [action.step.id for action in plan.changes] == ALL
    first, *others = plan.actions
    assert (first.reasons[0].kind, first.key is not None) == (ReasonKind.CREATED, True)
    assert all(action.reasons[0].kind is ReasonKind.UPSTREAM and action.key is None for action in others)


def test_a_plan_after_apply_is_empty(world: tuple[History, set[str]]) -> None:
    history, stored = world
    plan = make_plan(desired_of(), history, frozenset(stored))
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
def test_what_shapes_no_product_plans_nothing(world: tuple[History, set[str]], path: str, old: str, new: str) -> None:
    history, stored = world
    assert make_plan(desired_of({path: (old, new)}), history, frozenset(stored)).changes == ()


def test_a_training_field_retrains_and_names_old_and_new(world: tuple[History, set[str]]) -> None:
    history, stored = world
    desired = desired_of({"models/model.yaml": ("seed: 5", "seed: 6")})
    plan = make_plan(desired, history, frozenset(stored))
    first = plan.changes[0]
    assert (first.step.id, str(first.reasons[0])) == ("train/small", "field changed: training.seed: 5 -> 6")
    _, ran = run_all(desired, history, stored)
    assert ran == ALL[3:]


def test_documents_that_come_out_the_same_stop_the_change_there(world: tuple[History, set[str]]) -> None:
    history, stored = world
    old = history.newest["curate/small"]
    desired = desired_of({"models/data.yaml": ("min_doc_words: 40", "min_doc_words: 41")})
    plan = make_plan(desired, history, frozenset(stored))
    assert [action.step.id for action in plan.changes] == ALL
    _, ran = run_all(desired, history, stored, product=lambda step, key: old.key)
    assert ran == ["curate/small"]


def test_a_changed_corpus_says_which_input_changed(world: tuple[History, set[str]]) -> None:
    history, stored = world
    plan = make_plan(desired_of(corpus=b"other"), history, frozenset(stored))
    assert str(plan.changes[0].reasons[0]) == "input changed: source-0 (DataRecipe/small)"


def test_a_policy_edit_reloads_and_retrains_nothing(world: tuple[History, set[str]]) -> None:
    history, stored = world
    plan = make_plan(desired_of(policy=b"{ }"), history, frozenset(stored))
    assert [(action.kind, action.step.id) for action in plan.changes] == [(ActionKind.RELOAD, "release/small-local")]


def test_a_changed_threshold_gates_again_and_evaluates_nothing(world: tuple[History, set[str]]) -> None:
    history, stored = world
    _, ran = run_all(desired_of({"models/deployment.yaml": ("max: 7.0", "max: 6.0")}), history, stored)
    assert ran == ["gate/small-local", "release/small-local"]


def test_a_no_go_blocks_the_release_until_something_changes(world: tuple[History, set[str]]) -> None:
    history, stored = world
    desired = desired_of({"models/deployment.yaml": ("max: 7.0", "max: 0.1")})
    plan, ran = run_all(desired, history, stored, verdict="NO-GO")
    assert ran == ["gate/small-local"]
    assert [action.step.id for action in plan.blocked] == ["release/small-local"]
    assert run_all(desired, history, stored)[1] == []


def test_going_back_moves_the_pointer_and_runs_nothing(world: tuple[History, set[str]]) -> None:
    history, stored = world
    first = history.releases["local"]
    run_all(desired_of({"models/model.yaml": ("seed: 5", "seed: 6")}), history, stored)
    plan = make_plan(desired_of(), history, frozenset(stored))
    (action,) = plan.changes
    assert (action.kind, action.products["release"]) == (ActionKind.RELEASE, first.release)


def test_a_lost_artifact_is_made_again_and_supersedes(world: tuple[History, set[str]]) -> None:
    history, stored = world
    record = history.newest["tokenize/small"]
    stored.discard(record.products["tokens"])
    first = make_plan(desired_of(), history, frozenset(stored)).changes[0]
    assert (first.step.id, first.reasons[0].kind, first.supersedes) == (
        "tokenize/small",
        ReasonKind.ARTIFACT_MISSING,
        record.key,
    )


def test_a_raised_step_version_is_a_reason(world: tuple[History, set[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    history, stored = world
    raised = dataclasses.replace(STEPS[StepKind.TOKENIZE], version=99)
    monkeypatch.setitem(STEPS, StepKind.TOKENIZE, raised)
    first = make_plan(desired_of(), history, frozenset(stored)).changes[0]
    assert str(first.reasons[0]) == f"step version raised: {history.newest['tokenize/small'].step_version} -> 99"


def test_a_target_plans_what_it_needs_and_no_more() -> None:
    plan = make_plan(desired_of(), History(), frozenset(), frozenset({"Tokenizer/small"}))
    assert [action.step.id for action in plan.actions] == ["curate/small", "tokenizer/small", "tokenize/small"]


def test_the_same_inputs_give_the_same_bytes() -> None:
    plans = [make_plan(desired_of(), History(), frozenset()) for _ in range(2)]
    for form in (render.to_text, render.to_markdown, render.to_json):
        assert form(plans[0]) == form(plans[1])


def test_training_shows_parameters_tokens_flops_time_and_cost() -> None:
    plan = make_plan(desired_of(), History(), frozenset())
    (train,) = (action for action in json.loads(render.to_json(plan))["actions"] if action["step"] == "train/small")
    estimate = train["estimate"]
    assert estimate["tokens"] == 40 * 1024
    assert estimate["parameters"] == 512 * 32 + 2 * (32 * 32 * 2 + 2 * 32 * 16 + 3 * 32 * 64 + 64) + 32
    assert estimate["flops"] == estimate["tokens"] * (6 * estimate["parameters"] + 12 * 2 * 32 * 64)
    assert estimate["seconds"] == pytest.approx(estimate["flops"] / 9e10)
    assert estimate["cost"] == pytest.approx(estimate["seconds"] / 3600 * 0.08)
    assert "FLOPs: 6*N + 12*L*H*S per token" in render.to_text(plan)


def test_markdown_escapes_what_users_wrote(world: tuple[History, set[str]]) -> None:
    history, stored = world
    evil = "chat_template: '<img src=x> | `@everyone` [x](y)'\n  objective: pretrain"
    plan = make_plan(desired_of({"models/model.yaml": ("objective: pretrain", evil)}), history, frozenset(stored))
    markdown = render.to_markdown(plan)
    assert "| `field changed: chat_template: default -> <img src=x> \\| '@everyone' [x](y)` |\n" in markdown
