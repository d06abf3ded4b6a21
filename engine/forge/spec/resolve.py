"""Resources that refer to each other: names exist once, references lead somewhere, nothing refers to itself in a circle.

The rules read compiled resources and answer with faults that say which resource and where in it; whoever has the
documents turns them into diagnostics. So a plan from the cache and a reading of every file judge by the same function,
and each rule is one pass over all resources.
"""

import graphlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from forge.errors import Diagnostic, PlanError
from forge.spec.compiled import Compiled, compile_resource, read_facts
from forge.spec.fields import KINDS, references_in
from forge.spec.governed import governed
from forge.spec.lineage import branched, continued, positions_of
from forge.spec.searched import searched

if TYPE_CHECKING:  # parsers and models load where something is parsed
    from forge.spec.document import Document, Location
    from forge.spec.load import Located
    from forge.spec.resource import Resource

_REFERENCE = re.compile(rf"({'|'.join(KINDS)})/[a-z0-9-]+")
_MOST_SUGGESTIONS = 50
"""Comparing a name with all others takes long; whoever has more wrong references than this needs no more suggestions."""


@dataclass(frozen=True)
class Fault:
    """What is wrong with one of several resources, given by its number."""

    subject: int
    place: "Location | int"
    """Where in the document, or the number of the reference that is wrong."""
    message: str
    first: int | None = None
    """The resource that the message speaks of as the first one."""


@dataclass(frozen=True)
class Resolved:
    """Resources by address, each after those it refers to."""

    resources: "Mapping[str, Resource]"
    diagnostics: tuple[Diagnostic, ...]


def resolve(located: "Iterable[Located]", broken: "Iterable[Document]" = ()) -> Resolved:
    """Check what only shows when all resources are seen together.

    ``broken`` are documents with faults of their own: a reference to one is no second fault, and their own references
    are checked as far as they can be read, so that one run names everything.
    """
    from forge.spec.load import address_of

    located, broken = tuple(located), tuple(broken)
    compiled = [compile_resource(item.resource) for item in located]
    faults = check(compiled, {address_of(document) for document in broken})
    diagnostics = [diagnose(fault, located.__getitem__) for fault in faults]
    diagnostics += references_of_broken(broken, {item.address for item in compiled})
    by_address = {item.address: located[index].resource for index, item in reversed(list(enumerate(compiled)))}
    names = by_address if faults else in_order({item.address: item for item in compiled})
    return Resolved({address: by_address[address] for address in names}, tuple(diagnostics))


def check(compiled: Sequence[Compiled], broken: AbstractSet[str] = frozenset()) -> list[Fault]:
    """Every fault that shows only across resources; ``broken`` are addresses that are there, but not valid."""
    by_address: dict[str, int] = {}
    faults: list[Fault] = []
    for index, item in enumerate(compiled):
        first = by_address.setdefault(item.address, index)
        if first != index:
            faults.append(Fault(index, ("metadata", "name"), f"{item.address} is defined twice", first))
    missing = {target for item in compiled for target in item.references} - by_address.keys() - broken
    suggest = _suggestions({*by_address, *broken} if missing else broken)
    for index, item in enumerate(compiled) if missing else ():
        if by_address[item.address] == index:
            faults += [
                Fault(index, number, f"there is no {target}{suggest(target)}")
                for number, target in enumerate(item.references)
                if target in missing
            ]
    faults.extend(_renamed(compiled, by_address, broken))
    faults.extend(
        Fault(*row)
        for row in (*continued(compiled, by_address), *branched(compiled, by_address), *searched(compiled, by_address))
    )
    faults.extend(_across(compiled, by_address))
    faults.extend(_licenses(compiled))
    faults.extend(Fault(*row) for row in governed(compiled, by_address))
    return faults


def diagnose(fault: Fault, located: "Callable[[int], Located]") -> Diagnostic:
    """The fault with its file, line and column."""
    item = located(fault.subject)
    place = references(item.resource)[fault.place][0] if isinstance(fault.place, int) else fault.place
    message = fault.message
    if fault.first is not None:
        first = located(fault.first).document
        line, _ = first.values[()]
        message += f"; first at {first.path}:{line}"
    return item.document.diagnostic(place, message)


def references_of_broken(broken: "Iterable[Document]", known: AbstractSet[str]) -> Iterator[Diagnostic]:
    """References that lead nowhere in documents that could not be validated."""
    broken = tuple(broken)
    if not broken:
        return
    from forge.spec.load import address_of

    known = known | {address_of(document) for document in broken}
    suggest = _suggestions(known)
    for document in broken:
        for location, target in _written_references(document):
            if target not in known:
                yield document.diagnostic(location, f"there is no {target}{suggest(target)}")


def references(resource: "Resource") -> "list[tuple[Location, str]]":
    """Every reference of a resource, with the place where it stands."""
    return list(references_in(resource.spec, ("spec",)))


def in_order(compiled: Mapping[str, Compiled]) -> list[str]:
    """Addresses so that each comes after those it refers to, otherwise by name; raises PlanError for a circle, naming it.

    A resource's place is the length of the longest chain of references below it, so the order depends on nothing else.
    """
    depths: dict[str, int] = {}
    by_kind: dict[str, list[str]] = {kind: [] for kind in KINDS}  # in this order most references lead backwards
    for address, item in compiled.items():
        by_kind[item.kind].append(address)
    pending = [address for addresses in by_kind.values() for address in addresses]
    while pending:
        later = []
        for address in pending:
            depth = 0
            for target in compiled[address].references:
                if target in depths:
                    depth = max(depth, depths[target] + 1)
                elif target in compiled:
                    later.append(address)
                    break
            else:
                depths[address] = depth
        if len(later) == len(pending):
            order({address: {target for target in compiled[address].references if target in compiled} for address in later})
        pending = later
    levels: dict[int, list[str]] = {}
    for address, depth in depths.items():
        levels.setdefault(depth, []).append(address)
    return [address for depth in sorted(levels) for address in sorted(levels[depth])]


def order(edges: Mapping[str, set[str]]) -> list[str]:
    """Names so that each comes after those it refers to, otherwise by name; raises PlanError for a circle, naming it."""
    sorter = graphlib.TopologicalSorter({name: sorted(edges[name]) for name in sorted(edges)})
    try:
        return list(sorter.static_order())
    except graphlib.CycleError as error:
        raise PlanError("these refer to each other in a circle: " + " -> ".join(reversed(error.args[1]))) from error


def _suggestions(known: AbstractSet[str]) -> Callable[[str], str]:
    found: dict[str, str] = {}

    def suggest(target: str) -> str:
        if target not in found and len(found) < _MOST_SUGGESTIONS:
            from forge.spec.load import did_you_mean

            kind = target.split("/", maxsplit=1)[0] + "/"
            found[target] = did_you_mean(target, (name for name in known if name.startswith(kind)))
        return found.get(target, "")

    return suggest


def _written_references(document: "Document") -> "Iterable[tuple[Location, str]]":
    """What looks like a reference in a document that could not be validated: any ``Kind/name`` below ``spec``."""
    for location in document.values:
        value: Any = document.value
        if location[:1] == ("spec",) and value.get("kind") != "Withdrawals":  # what it names need not be there
            for part in location:
                value = value[part]
            if isinstance(value, str) and _REFERENCE.fullmatch(value):
                yield location, value


def _renamed(compiled: Sequence[Compiled], by_address: Mapping[str, int], broken: AbstractSet[str]) -> Iterator[Fault]:
    """A previous name leads to one history, and to one that nobody else has."""
    claimed: dict[str, str] = {}
    for index, item in enumerate(compiled):
        if item.previous is None:
            continue
        place = ("metadata", "previous_name")
        if item.previous == item.address:
            yield Fault(
                index, place, f"`previous_name` is {item.name}'s own name: leave it out, or say what it was called before"
            )
        elif item.previous in by_address or item.previous in broken:
            message = (
                f"{item.previous} still exists: a name that is in use has its own history, which no other can take over. Where "
                f"{item.name} was renamed from it and that was applied, leave `previous_name` out: the ledger remembers"
            )
            yield Fault(index, place, message)
        elif claimed.setdefault(item.previous, item.address) != item.address:
            message = f"{item.previous} is already the previous name of {claimed[item.previous]}: one history has one heir"
            yield Fault(index, place, message)


def _licenses(compiled: Sequence[Compiled]) -> Iterator[Fault]:
    """Sources under a licence that their own recipe does not allow."""
    for index, item in enumerate(compiled):
        if item.kind == "DataRecipe":
            for number, fault in read_facts(item.facts).get("refused_licenses", ()):
                message = f"{fault}: allow it, take the source out, or name the licence that it really stands under"
                yield Fault(index, ("spec", "sources", number, "license"), message)


def _across(compiled: Sequence[Compiled], by_address: Mapping[str, int]) -> Iterator[Fault]:
    """Rules between a deployment and what it names."""
    environments: dict[str, str] = {}
    tasks_of: dict[str, list[str]] = {}
    deployments = [(item.address, index) for index, item in enumerate(compiled) if item.kind == "Deployment"]
    for address, index in sorted(deployments):
        if by_address[address] != index:
            continue
        facts = read_facts(compiled[index].facts)
        other = environments.setdefault(facts["environment"], address)
        if other != address:
            message = f"the environment `{facts['environment']}` is already {other}'s: one deployment serves an environment"
            yield Fault(index, ("spec", "environment"), message)
        for number, (suite, thresholds) in enumerate(facts["gates"]):
            if suite not in by_address:
                continue
            if suite not in tasks_of:
                tasks_of[suite] = read_facts(compiled[by_address[suite]].facts)["tasks"]
            tasks = tasks_of[suite]
            for position, task in enumerate(thresholds):
                if task not in tasks:
                    from forge.spec.load import did_you_mean

                    message = f"{suite} has no task `{task}`{did_you_mean(task, tasks)}"
                    yield Fault(index, ("spec", "gates", number, "thresholds", position, "task"), message)
        longest, model = facts["max_model_len"], facts["model"]
        if longest is not None and model in by_address:
            limit = positions_of(model, compiled, by_address)
            if limit is not None and longest > limit:
                message = f"`max_model_len` is {longest}, but {model} has {limit} positions (max_position_embeddings)"
                yield Fault(index, ("spec", "engine", "max_model_len"), message)
