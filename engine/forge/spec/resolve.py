"""Resources that refer to each other: names exist once, references lead somewhere, nothing refers to itself in a circle."""

import graphlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from forge.errors import Diagnostic, PlanError
from forge.spec.document import Document, Location
from forge.spec.fields import KINDS, ReferenceTo
from forge.spec.load import Located, address_of, did_you_mean
from forge.spec.resource import Deployment, EvalSuite, Model, Resource

_REFERENCE = re.compile(rf"({'|'.join(KINDS)})/[a-z0-9-]+")


@dataclass(frozen=True)
class Resolved:
    """Resources by address, each after those it refers to."""

    resources: Mapping[str, Resource]
    diagnostics: tuple[Diagnostic, ...]


def resolve(located: Iterable[Located], broken: Iterable[Document] = ()) -> Resolved:
    """Check what only shows when all resources are seen together.

    ``broken`` are documents with faults of their own: a reference to one is no second fault, and their own references
    are checked as far as they can be read, so that one run names everything.
    """
    broken = tuple(broken)
    by_address: dict[str, Located] = {}
    diagnostics: list[Diagnostic] = []
    for item in located:
        address = item.resource.address
        if address in by_address:
            first = by_address[address].document
            line, _ = first.values[()]
            message = f"{address} is defined twice; first at {first.path}:{line}"
            diagnostics.append(item.document.diagnostic(("metadata", "name"), message))
        else:
            by_address[address] = item
    known = {*by_address, *(address_of(document) for document in broken)}
    for document in broken:
        for location, target in _written_references(document):
            if target not in known:
                diagnostics.append(_missing(document, location, target, known))
    edges: dict[str, set[str]] = {}
    for address, item in by_address.items():
        edges[address] = set()
        for location, target in references(item.resource):
            if target in by_address:
                edges[address].add(target)
            elif target not in known:
                diagnostics.append(_missing(item.document, location, target, known))
    diagnostics.extend(_across(by_address))
    return Resolved({address: by_address[address].resource for address in order(edges)}, tuple(diagnostics))


def _missing(document: Document, location: Location, target: str, known: set[str]) -> Diagnostic:
    near = did_you_mean(target, (name for name in known if name.startswith(target.split("/", maxsplit=1)[0] + "/")))
    return document.diagnostic(location, f"there is no {target}{near}")


def _written_references(document: Document) -> Iterable[tuple[Location, str]]:
    """What looks like a reference in a document that could not be validated: any ``Kind/name`` below ``spec``."""
    for location in document.values:
        value: Any = document.value
        if location[:1] == ("spec",):
            for part in location:
                value = value[part]
            if isinstance(value, str) and _REFERENCE.fullmatch(value):
                yield location, value


def references(resource: Resource) -> list[tuple[Location, str]]:
    """Every reference of a resource, with the place where it stands."""
    return list(_references(resource.spec, ("spec",)))


def order(edges: Mapping[str, set[str]]) -> list[str]:
    """Names so that each comes after those it refers to, otherwise by name; raises PlanError for a circle, naming it."""
    sorter = graphlib.TopologicalSorter({name: sorted(edges[name]) for name in sorted(edges)})
    try:
        return list(sorter.static_order())
    except graphlib.CycleError as error:
        raise PlanError("these refer to each other in a circle: " + " -> ".join(reversed(error.args[1]))) from error


def _references(value: Any, location: Location) -> Iterable[tuple[Location, str]]:
    if isinstance(value, BaseModel):
        for name, info in type(value).model_fields.items():
            item = getattr(value, name)
            if any(isinstance(mark, ReferenceTo) for mark in info.metadata):
                yield (*location, name), item
            else:
                yield from _references(item, (*location, name))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _references(item, (*location, index))


def _across(by_address: Mapping[str, Located]) -> Iterable[Diagnostic]:
    """Rules between a deployment and what it names."""
    environments: dict[str, str] = {}
    for address, item in sorted(by_address.items()):
        deployment = item.resource
        if not isinstance(deployment, Deployment):
            continue
        spec, document = deployment.spec, item.document
        other = environments.setdefault(spec.environment, address)
        if other != address:
            message = f"the environment `{spec.environment}` is already {other}'s: one deployment serves an environment"
            yield document.diagnostic(("spec", "environment"), message)
        for number, gate in enumerate(spec.gates):
            suite = by_address.get(gate.suite)
            if suite is None or not isinstance(suite.resource, EvalSuite):
                continue
            tasks = suite.resource.spec.tasks
            for position, threshold in enumerate(gate.thresholds):
                if threshold.task not in tasks:
                    message = f"{gate.suite} has no task `{threshold.task}`{did_you_mean(threshold.task, tasks)}"
                    yield document.diagnostic(("spec", "gates", number, "thresholds", position, "task"), message)
        model = by_address.get(spec.model)
        longest = spec.engine.max_model_len
        if model is not None and isinstance(model.resource, Model) and longest is not None:
            limit = model.resource.spec.architecture.max_position_embeddings
            if longest > limit:
                message = f"`max_model_len` is {longest}, but {spec.model} has {limit} positions (max_position_embeddings)"
                yield document.diagnostic(("spec", "engine", "max_model_len"), message)
