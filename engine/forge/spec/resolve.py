"""Resources that refer to each other: names exist once, references lead somewhere, nothing refers to itself in a circle."""

import graphlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from forge.errors import Diagnostic, PlanError
from forge.spec.document import Location
from forge.spec.fields import ReferenceTo
from forge.spec.load import Located, did_you_mean
from forge.spec.resource import Deployment, EvalSuite, Model, Resource


@dataclass(frozen=True)
class Resolved:
    """Resources by address, each after those it refers to."""

    resources: Mapping[str, Resource]
    diagnostics: tuple[Diagnostic, ...]


def resolve(located: Iterable[Located], broken: frozenset[str] = frozenset()) -> Resolved:
    """Check what only shows when all resources are seen together; ``broken`` names those that had faults of their own."""
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
    edges: dict[str, set[str]] = {}
    for address, item in by_address.items():
        edges[address] = set()
        for location, target in references(item.resource):
            if target in by_address:
                edges[address].add(target)
            elif target not in broken:
                kind = target.split("/")[0]
                near = did_you_mean(target, (known for known in by_address if known.startswith(kind + "/")))
                diagnostics.append(item.document.diagnostic(location, f"there is no {target}{near}"))
    diagnostics.extend(_across(by_address))
    return Resolved({address: by_address[address].resource for address in order(edges)}, tuple(diagnostics))


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
