"""Limits on what a plan costs: what no price is known for is beyond them, not free."""

from dataclasses import replace

import pytest
from tests.conftest import SETTINGS, SPECS
from tests.plan import test_bases
from tests.plan.test_withdrawn import commit_of
from tests.plan.world import ALL, World, desired_of
from tests.spec.test_continue_spec import NEXT

from forge.plan.desired import Desired
from forge.plan.recorded import Scope
from forge.spec.settings import read_settings

BUDGET = "[budgets]\nmax_cost_per_plan = 1.0\n"
NO_PRICES = "[executor]\nthreads = 1\n"
ON_ANOTHER = {"models/model.yaml": ("seed: 5\n", "seed: 5\n  resources: {accelerator: cuda}\n")}
SUPPLY_CHAIN = """\
apiVersion: forge/v1
kind: SupplyChain
metadata: {name: rules}
spec:
  roles: {data-steward: {steps: [curate]}, trainer: {steps: [tokenizer, tokenize, train]},
          evaluator: {steps: [evaluate, gate]}, releaser: {steps: [release]}}
  approvers: [ana]
  plans: {approvals: 1, above_cost: 1.0}
  expires: "2036-01-01T00:00:00Z"
"""
PEOPLE = """\
apiVersion: forge/v1
kind: People
metadata: {name: people}
spec:
  people:
    - name: ana
      keys:
        - public: ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBm/RAlphM3+hUG6wWfcO5bIUIaqMLa2ywxcOK1wMWbh
          valid_from: "2026-01-01T00:00:00Z"
"""


def under_supply_chain(changes: dict[str, tuple[str, str]] | None = None, settings: str = SETTINGS) -> Desired:
    """The small repository's commit with some text replaced and the supply chain."""
    changed = [text.replace(*(changes or {}).get(path, ("", ""))) for path, text in SPECS.items()]
    return replace(commit_of([*changed, SUPPLY_CHAIN, PEOPLE]), settings=read_settings(settings.encode(), "0.1.0"))


def test_a_training_without_a_price_is_beyond_any_budget_and_the_refusal_says_what_to_add() -> None:
    (refusal,) = World().plan(desired_of(ON_ANOTHER, settings=SETTINGS + BUDGET)).refusals
    assert refusal.startswith("what train/small may cost cannot be told, and budgets.max_cost_per_plan is set: add ")
    assert "add [accelerators.cuda] with price_per_hour and flops_per_second to forge.toml" in refusal
    assert "[accelerators.cpu]" in World().plan(desired_of(settings=NO_PRICES + BUDGET)).refusals[0]


def test_a_training_without_a_price_is_planned_where_there_is_no_budget() -> None:
    assert World().plan(desired_of(ON_ANOTHER)).refusals == ()


def test_steps_that_never_ran_and_have_no_estimate_are_within_the_budget() -> None:
    plan = World().plan(desired_of(settings=SETTINGS + BUDGET))
    assert [action.id for action in plan.changes if action.estimate.cost is None and action.step is not None] == [
        "curate/small",
        "tokenizer/small",
        "tokenize/small",
        "evaluate/small.small",
        "gate/small-local",
        "release/small-local",
    ]
    assert plan.refusals == ()


def test_a_training_that_is_done_needs_no_price() -> None:
    world = World()
    world.apply(desired_of(ON_ANOTHER))
    changed = {**ON_ANOTHER, "models/deployment.yaml": ("max: 7.0", "max: 6.0")}
    plan = world.plan(desired_of(changed, settings=SETTINGS + BUDGET))
    assert "gate/small-local" in [action.id for action in plan.changes]
    assert plan.refusals == ()


def test_what_begins_with_a_folder_is_refused_until_it_ran_once() -> None:
    """Planning does not read the folder, so the size of its model is not known."""
    desired = test_bases.commit(next_=NEXT.replace("{model: Model/small}", test_bases.FOLDER))
    desired = replace(desired, settings=read_settings((SETTINGS + BUDGET).encode(), "0.1.0"))
    plan = World().plan(desired, Scope(frozenset({"Model/next"})))
    (refusal,) = plan.refusals
    assert refusal.startswith("what train/next may cost cannot be told before it ran once")


def test_a_lost_artifact_is_made_again_within_a_budget_that_no_training_fits() -> None:
    """It comes back as it was, so nothing that reads it is done; the plan's own maximum still tells the worst case."""
    world, settings = World(), SETTINGS.replace("0.08", "1.0e9") + BUDGET
    world.apply(desired_of())
    world.stored.difference_update(world.newest["curate/small"].products.values())
    plan = world.plan(desired_of(settings=settings))
    assert plan.at_most > 1.0
    assert [action.id for action in plan.changes] == ALL
    assert plan.refusals == ()
    world.stored.difference_update(world.newest["evaluate/small.small"].products.values())
    assert world.plan(desired_of(settings=settings)).refusals == ()
    assert world.apply(desired_of(settings=settings))[1] == ["curate/small", "evaluate/small.small"]


def test_what_follows_from_a_lost_artifact_counts_once_it_came_back_as_another() -> None:
    world, settings = World(), SETTINGS.replace("0.08", "1.0e9") + BUDGET
    world.apply(desired_of())
    world.stored.difference_update(world.newest["curate/small"].products.values())
    desired = desired_of(settings=settings)
    first = world.plan(desired).changes[0]
    world.finish(desired, first, product=lambda _step, _key: "other bytes")
    (refusal,) = world.plan(desired).refusals
    assert "budgets.max_cost_per_plan allows 1" in refusal


def test_what_the_commit_changes_counts_beside_a_lost_artifact() -> None:
    world, settings = World(), SETTINGS.replace("0.08", "1.0e9") + BUDGET
    world.apply(desired_of())
    world.stored.difference_update(world.newest["curate/small"].products.values())
    changed = {"models/model.yaml": ("seed: 5", "seed: 6")}
    (refusal,) = world.plan(desired_of(changed, settings=settings)).refusals
    assert refusal.startswith("the plan may cost ")
    lost_training = World()
    lost_training.apply(desired_of())
    lost_training.stored.difference_update(lost_training.newest["train/small"].products.values())
    assert lost_training.plan(desired_of(settings=settings)).refusals != ()


@pytest.mark.parametrize(("price_per_hour", "expected"), [("0.08", 0), ("1.0e9", 1)])
def test_a_plan_that_may_cost_more_than_the_supply_chain_says_needs_approvals(price_per_hour: str, expected: int) -> None:
    desired = under_supply_chain(settings=SETTINGS.replace("0.08", price_per_hour))
    assert World().plan(desired).approvals == expected


def test_a_plan_that_trains_what_no_price_is_known_for_needs_approvals() -> None:
    assert World().plan(under_supply_chain(ON_ANOTHER)).approvals == 1


def test_a_plan_that_trains_nothing_needs_none_for_steps_that_never_ran() -> None:
    world = World()
    world.apply(desired_of(ON_ANOTHER))
    changed = {**ON_ANOTHER, "models/deployment.yaml": ("max: 7.0", "max: 6.0")}
    plan = world.plan(under_supply_chain(changed))
    assert "gate/small-local" in [action.id for action in plan.changes]
    assert plan.approvals == 0
