"""Whether a plan keeps data in its regions: which steps hold restricted data, and where they would put it.

Pure. Rules:
1. A recipe, each of its sources and a model's conversations may name the regions where they may be; nothing named restricts
   nothing. A recipe may be where it and all of its sources may be.
2. What a step reads, its work and its products are bound alike: documents, tokenizers (words of the text are their
   pieces), token files, checkpoints and weights. A step that reads several may be where all of them may: a mixture, or a
   model and its base, has the regions that they have in common.
3. Reports and verdicts are figures, and bind nobody. A release names weights by their digest and moves no byte here; where
   an agent may fetch them to is decided by whoever approves and runs it (docs/decisions.md).
4. The store and the executor are in the region that forge.toml says. One that says none is in no region: restricted data
   is refused there, because nobody could show that it stays.
5. Regions are labels. None contains another: whoever allows both ``eu`` and ``eu-central`` names both.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from forge.contract.kinds import STEPS, StepKind
from forge.plan.action import Plan
from forge.plan.desired import Desired
from forge.plan.step import FromStep, Step
from forge.spec.compiled import Compiled, read_facts
from forge.spec.settings import SETTINGS_FILE, Settings

_FIGURES = frozenset({"report", "verdict"})
_MOST_STEPS = 5


@dataclass(frozen=True)
class Restriction:
    """Where a step's data may be, and who says so."""

    regions: frozenset[str]
    """Empty: nowhere, for those who say so have no region in common."""
    declared: tuple[tuple[str, tuple[str, ...]], ...]
    """Each resource that names regions, with them, in the order of the graph."""

    def __str__(self) -> str:
        return " and ".join(f"{address} (`regions: [{', '.join(regions)}]`)" for address, regions in self.declared)


def restrictions(graph: Mapping[str, Step], compiled: Mapping[str, Compiled]) -> dict[str, Restriction]:
    """By step id; steps that nothing restricts are left out."""
    own = _declared(compiled)
    found: dict[str, Restriction] = {}
    for step in graph.values() if own else ():
        declared: dict[str, tuple[str, ...]] = {}
        if step.kind in (StepKind.CURATE, StepKind.TRAIN) and step.subject in own:
            declared[step.subject] = own[step.subject]
        for name, source in step.inputs.items():
            named_only = name in STEPS[step.kind].by_reference
            if isinstance(source, FromStep) and source.product not in _FIGURES and not named_only:
                before = found.get(source.step_id)
                declared.update(before.declared if before is not None else ())
        if declared:
            regions = frozenset.intersection(*(frozenset(each) for each in declared.values()))
            found[step.id] = Restriction(regions, tuple(declared.items()))
    return found


def residency_refusals(plan: Plan, desired: Desired, graph: Mapping[str, Step]) -> Iterator[str]:
    """Why a plan would move data out of its regions; nothing where it would not."""
    if not plan.changes:
        return
    bound = restrictions(graph, desired.compiled)
    steps_of: dict[tuple[str, str], list[str]] = {}
    for action in plan.changes:
        restriction = bound.get(action.id)
        for what, remedy in _faults(restriction, desired.settings) if restriction is not None else ():
            steps_of.setdefault((f"{restriction} {what}", remedy), []).append(action.id)
    for (message, remedy), steps in steps_of.items():
        more = f" and {len(steps) - _MOST_STEPS} more" if len(steps) > _MOST_STEPS else ""
        yield f"residency: {message}: {', '.join(steps[:_MOST_STEPS])}{more} would put it there; {remedy}"


def residency_warnings(desired: Desired) -> list[str]:
    """One sentence for each resource whose data may not be where forge.toml says that the store and the executor are."""
    found = []
    for address, regions in sorted(_declared(desired.compiled).items()):
        restriction = Restriction(frozenset(regions), ((address, regions),))
        found += [f"residency: {restriction} {what}" for what, _ in _faults(restriction, desired.settings)]
    return found


def _declared(compiled: Mapping[str, Compiled]) -> dict[str, tuple[str, ...]]:
    """The regions that resources name, by address. Of ten thousand that name none, none is read."""
    return {
        address: tuple(regions)
        for address, item in compiled.items()
        if '"regions"' in item.facts
        and item.kind in ("DataRecipe", "Model")
        and (regions := read_facts(item.facts).get("regions")) is not None
    }


def _faults(restriction: Restriction, settings: Settings) -> Iterator[tuple[str, str]]:
    """What is wrong with a restriction here, and what to do."""
    if not restriction.regions:
        yield "have no region in common", "use data that may be in the same place"
        return
    allowed = ", ".join(sorted(restriction.regions))
    for name, region in (("store", settings.store.region), ("executor", settings.executor.region)):
        if region is None:
            declare = f"say it in {SETTINGS_FILE}: `[{name}] region = ..`"
            yield f"may be in {allowed} alone, and nobody says where the {name} is", declare
        elif region not in restriction.regions:
            remedy = f"plan with a {name} in one of these regions, or leave it out of the plan with --target"
            yield f"may be in {allowed} alone, and the {name} is in {region} ({SETTINGS_FILE})", remedy
