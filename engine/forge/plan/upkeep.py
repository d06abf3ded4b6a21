"""What a plan holds beside actions: why it may not be applied, whose approval it needs, and what to be warned of."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from forge.canonical import digest_of_json
from forge.plan.action import Plan
from forge.plan.desired import Desired
from forge.plan.recorded import Recorded
from forge.plan.step import Step
from forge.spec.settings import SETTINGS_FILE

_MOST_STEPS = 5


def approvals_needed(desired: Desired, environment: str) -> int:
    """How many people have to approve a model before an environment serves it."""
    charter = desired.charter
    return int(charter["supply_chain"].get("release", {}).get("approvals", {}).get(environment, 0)) if charter else 0


def approvals_cover_release(desired: Desired) -> bool:
    """Whether an approval is about policy and engine settings, too."""
    charter = desired.charter
    rules: Mapping[str, Any] = charter["supply_chain"].get("release", {}) if charter else {}
    return rules.get("approvals_cover") == "release"


def environments_with_approvals(desired: Desired) -> list[str]:
    """The environments that serve nothing which people have not approved."""
    charter = desired.charter
    rules = charter["supply_chain"].get("release", {}).get("approvals", {}) if charter else {}
    return sorted(name for name, needed in rules.items() if needed)


def plan_approvals_needed(plan: Plan, desired: Desired) -> int:
    """How many people have to approve a plan before it is applied."""
    rules = _rules_for_plans(desired) if plan.changes else {}
    limit = rules.get("above_cost")
    return int(rules.get("approvals", 0)) if limit is None or plan.at_most > limit or plan.unpriced else 0


def plans_may_need_approval(desired: Desired) -> bool:
    """Whether the commit's supply chain asks for the approval of any plan."""
    return bool(_rules_for_plans(desired).get("approvals", 0))


def _rules_for_plans(desired: Desired) -> Mapping[str, Any]:
    charter = desired.charter
    rules: Mapping[str, Any] = charter["supply_chain"].get("plans", {}) if charter else {}
    return rules


def expiry_warnings(desired: Desired, kept_until: str) -> list[str]:
    """That the supply chain ends before what is made now may be collected: from then on its chain is refused, though kept.

    ``kept_until``: when that is, written as ``expires`` is, so that the two compare as text.
    """
    if desired.charter is None or str(desired.charter["supply_chain"]["expires"]) >= kept_until:
        return []
    expires, days = desired.charter["supply_chain"]["expires"], desired.settings.retention.days
    message = (
        f"the supply chain expires {expires}, within the {days:g} days that retention.days keeps what is made now: set a later "
        "`expires`, and `forge keys delegate`"
    )
    return [message]


def refusals_of(
    plan: Plan, desired: Desired, recorded: Recorded, graph: Mapping[str, Step], expected: Callable[[], Plan]
) -> Iterator[str]:
    """Why a plan may not be applied, in words that say what to do; nothing where it may.

    ``expected``: the plan if what was lost comes back as it was; asked for where the plan itself is beyond the budget.
    """
    if plan.changes:
        yield from _unsigned_charter(desired, recorded)
    limit = desired.settings.budgets.max_cost_per_plan
    if limit is None or (plan.at_most <= limit and not plan.unpriced):
        return
    counted = expected()
    if counted.at_most > limit:
        least = f" (at least {plan.at_least:.4g})" if plan.at_least < counted.at_most else ""
        yield (
            f"the plan may cost {counted.at_most:.4g} {plan.currency}{least}, budgets.max_cost_per_plan allows {limit:g}: "
            "ask for less, plan a part of it with --target, or raise the budget in a commit"
        )
    yield from _beyond_any_budget(counted, desired, graph)


def _beyond_any_budget(plan: Plan, desired: Desired, graph: Mapping[str, Step]) -> Iterator[str]:
    """Trainings that no price is known for may cost more than any budget: what they cost is not nothing."""
    without_price: dict[str, list[str]] = {}
    without_size: list[str] = []
    for action in plan.unpriced:
        accelerator = graph[action.id].accelerator
        if accelerator in desired.settings.accelerators:
            without_size.append(action.id)
        else:
            without_price.setdefault(accelerator, []).append(action.id)
    for accelerator, steps in without_price.items():
        yield (
            f"what {_listed(steps)} may cost cannot be told, and budgets.max_cost_per_plan is set: add "
            f"[accelerators.{accelerator}] with price_per_hour and flops_per_second to {SETTINGS_FILE}, or plan the rest "
            "with --target"
        )
    if without_size:
        yield (
            f"what {_listed(without_size)} may cost cannot be told before it ran once, for the model begins with one from a "
            "folder, and budgets.max_cost_per_plan is set: plan the rest with --target, or leave the budget out in a commit "
            "until it ran"
        )


def _listed(steps: Sequence[str]) -> str:
    more = f" and {len(steps) - _MOST_STEPS} more" if len(steps) > _MOST_STEPS else ""
    return ", ".join(steps[:_MOST_STEPS]) + more


def _unsigned_charter(desired: Desired, recorded: Recorded) -> Iterator[str]:
    """Who may write the repository may propose who may do what; the root says so."""
    signed, charter = recorded.charter(), desired.charter
    if charter is None and signed is not None:
        yield (
            f"the root signed a supply chain ({signed}) and this commit has none: restore its SupplyChain, or pin a root "
            "whose ledger never had one"
        )
    elif charter is not None and signed != digest_of_json(charter):
        what = "another one" if signed else "none yet"
        yield (
            f"the supply chain of this commit ({digest_of_json(charter)}) is not the one that the root signed ({what}): "
            "whoever keeps the root's key reviews policies/ and runs `forge keys delegate`"
        )
