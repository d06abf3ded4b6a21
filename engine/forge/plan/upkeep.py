"""What a plan holds beside steps: notes about resources that left or are protected, and why it may not be applied."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from forge.canonical import digest_of_json
from forge.contract.kinds import StepKind
from forge.contract.record import Subject
from forge.plan.action import Action, ActionKind, Plan
from forge.plan.desired import Desired
from forge.plan.graph import Step
from forge.plan.reason import Reason, ReasonKind
from forge.plan.recorded import Recorded
from forge.spec.settings import SETTINGS_FILE

_MOST_STEPS = 5


def about_resources(desired: Desired, graph: Mapping[str, Step], recorded: Recorded) -> Iterator[Action]:
    """What the ledger has to note: resources that left the commit, environments that nobody serves, changed protection."""
    known = recorded.subjects()
    renamings = dict(_renamings(desired, graph, recorded, known))
    yield from renamings.values()
    unserved = _unserved(graph, recorded)
    gone = [name for name in sorted(known) if name not in desired.compiled and _is_given_up(name, desired, known)]
    for address in gone:
        environments = unserved.pop(address, [])
        if known[address].protected:
            yield Action(ActionKind.BLOCKED, address, address, (Reason(ReasonKind.PROTECTED, address),))
            continue
        first = environments.pop(0) if environments else None
        yield Action(ActionKind.RETIRE, address, address, (Reason(ReasonKind.REMOVED),), environment=first)
        yield from (_end_of_service(name, address) for name in environments)
    for address, environments in unserved.items():
        held = _what_holds(address, desired, known)
        yield from (_end_of_service(name, address, held) for name in environments)
    noted_as_protected = {name for name in known if known[name].protected}
    noted_as_protected |= {address for address in renamings if desired.previous[address] in noted_as_protected}
    for address in sorted({*desired.protected, *noted_as_protected}):
        wanted, noted = address in desired.protected, address in noted_as_protected
        if address in desired.compiled and wanted != noted:
            words = ("protected", "not protected") if noted else ("not protected", "protected")
            reason = Reason(ReasonKind.PROTECTION_CHANGED, "", *words)
            yield Action(ActionKind.PROTECT, address, address, (reason,), protect=wanted)


def _renamings(
    desired: Desired, graph: Mapping[str, Step], recorded: Recorded, known: Mapping[str, Subject]
) -> Iterator[tuple[str, Action]]:
    """By address, the renamings that the ledger does not know; one of something that it never heard of is none."""
    for address, previous in desired.previous.items():
        if known[previous].renamed != address if previous in known else _was_measured_by(previous, graph, recorded):
            reason = Reason(ReasonKind.RENAMED, previous)
            yield address, Action(ActionKind.RENAME, f"rename/{address}", address, (reason,))


def _was_measured_by(suite: str, graph: Mapping[str, Step], recorded: Recorded) -> bool:
    """Whether something is recorded of a suite under its previous name: as a subject, the ledger does not know any."""
    kind, name = suite.split("/", 1)
    if kind != "EvalSuite":
        return False
    evaluations = (step for step in graph.values() if step.kind is StepKind.EVALUATE)
    earlier = (step_id for step in evaluations for step_id in step.previous_ids if step_id.endswith(f".{name}"))
    return any(recorded.latest(step_id) is not None for step_id in earlier)


def _is_given_up(address: str, desired: Desired, known: Mapping[str, Subject]) -> bool:
    """Whether a resource that is not in the commit left it just now, under this name."""
    subject = known[address]
    return subject.retired is None and subject.renamed is None and address not in desired.previous.values()


def _unserved(graph: Mapping[str, Step], recorded: Recorded) -> dict[str, list[str]]:
    """The environments whose pointer stands and that no deployment of the commit serves, by the deployment that did."""
    wanted = {step.environment for step in graph.values() if step.environment is not None}
    pointers = recorded.pointers()
    found: dict[str, list[str]] = {}
    for environment in sorted(name for name in pointers if name not in wanted):
        found.setdefault(f"Deployment/{pointers[environment].deployment}", []).append(environment)
    return found


def _end_of_service(environment: str, address: str, held: Reason | None = None) -> Action:
    kind = ActionKind.RETIRE if held is None else ActionKind.BLOCKED
    reasons = (*([held] if held is not None else []), Reason(ReasonKind.UNSERVED, environment))
    return Action(kind, f"environment/{environment}", address, reasons, environment=environment)


def _what_holds(address: str, desired: Desired, known: Mapping[str, Subject]) -> Reason | None:
    """Why the environment that a deployment served goes on serving, although the deployment moved elsewhere.

    What the commit says of its protection counts, where it holds it: what the ledger notes follows in the same apply.
    """
    if address in desired.suspended:
        return Reason(ReasonKind.SUSPENDED, address)
    noted = address in known and known[address].protected
    is_protected = address in desired.protected if address in desired.compiled else noted
    return Reason(ReasonKind.PROTECTED, address) if is_protected else None


def approvals_needed(desired: Desired, environment: str) -> int:
    """How many people have to approve a model before an environment serves it."""
    charter = desired.charter
    return int(charter["supply_chain"].get("release", {}).get("approvals", {}).get(environment, 0)) if charter else 0


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
        yield (
            f"the plan may cost {counted.at_most:.4g} {plan.currency}, and at least {plan.at_least:.4g}; "
            f"budgets.max_cost_per_plan allows {limit:g}: "
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
