"""A resource as planning reads it: plain text and numbers, cheap to keep, to compare and to read again.

``compile_resource`` is pure, and the only way from a resource to a plan: what a cache returns is what it returned before,
so a plan made from a cache and one made without it cannot differ. Parameters are kept as canonical JSON, because that is
what a step's key is the digest of: ten thousand unchanged resources are planned without building one of their models,
and without loading the code of any kind: that is imported where something is compiled.
"""

import json
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from forge.canonical import MAX_INTEGER, canonical_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from forge.spec.data_recipe import DataRecipeSpec, Source
    from forge.spec.model import BasedSpec, PretrainSpec
    from forge.spec.resource import Resource

_READER = json.JSONDecoder()
_FIELDS, _RESOURCES = "\0", "\x1e"


class Compiled(NamedTuple):
    """What planning needs to know of one resource. A tuple, because making ten thousand of them has to cost nothing."""

    address: str
    """``Kind/name``."""
    kind: str
    name: str
    references: tuple[str, ...]
    """The addresses it refers to, in the order of ``fields.references_in``."""
    parameters: str
    """Canonical JSON of what shapes products (Meaning REBUILD)."""
    served: str
    """Canonical JSON of what serving reads (Meaning RELOAD)."""
    settings: str
    """JSON of what travels to the step beside its parameters (Meaning NONE)."""
    facts: str
    """JSON of what else planning reads, by kind: see ``_facts``."""
    previous: str | None = None
    """The address that it had before."""
    is_protected: bool = False
    is_suspended: bool = False


def compile_resource(resource: "Resource") -> Compiled:
    """Reduce a resource to what planning reads."""
    from forge.spec.fields import references_in

    metadata = resource.metadata
    return Compiled(
        address=resource.address,
        kind=resource.kind,
        name=metadata.name,
        references=tuple(target for _, target in references_in(resource.spec, ("spec",))),
        parameters=_canonical(_parameters(resource)),
        served=_canonical(_served(resource)),
        settings=_json(_settings(resource)),
        facts=_json(_facts(resource)),
        previous=None if metadata.previous_name is None else f"{resource.kind}/{metadata.previous_name}",
        is_protected=metadata.protect,
        is_suspended=resource.is_suspended,
    )


def read_json(text: str) -> Any:
    """Read canonical JSON back. A whole number that JSON would not keep exactly was a float, and becomes one again."""
    return json.loads(text, parse_int=_number)


@lru_cache(maxsize=1 << 16)
def read_facts(facts: str) -> dict[str, Any]:
    """``Compiled.facts`` as a value, which several readers share: nobody changes it."""
    found: dict[str, Any] = _READER.raw_decode(facts)[0]
    return found


def to_text(resources: tuple[Compiled, ...]) -> str:
    """The resources of one file as text; the separators are control characters, which JSON and names never hold."""
    return _RESOURCES.join(
        _FIELDS.join(
            (
                item.address,
                " ".join(item.references),
                item.parameters,
                item.served,
                item.settings,
                item.facts,
                item.previous or "",
                "protected" if item.is_protected else "",
                "suspended" if item.is_suspended else "",
            )
        )
        for item in resources
    )


def from_text(text: str) -> tuple[Compiled, ...]:
    """The inverse of ``to_text``; raises ValueError for any other text."""
    resources = []
    for row in text.split(_RESOURCES) if text else ():
        address, references, parameters, served, settings, facts, previous, protected, suspended = row.split(_FIELDS)
        kind, name = address.split("/")
        resources.append(
            Compiled(
                address,
                kind,
                name,
                tuple(references.split(" ")) if references else (),
                parameters,
                served,
                settings,
                facts,
                previous or None,
                protected != "",
                suspended != "",
            )
        )
    return tuple(resources)


def _settings(resource: "Resource") -> dict[str, Any]:
    """What a step is told beside its parameters: how often to validate, how to spread a training, where to fetch from."""
    from forge.spec.meaning import NONE, meaningful
    from forge.spec.model import PretrainSpec
    from forge.spec.resource import DataRecipe, Model

    if isinstance(resource, Model):
        layout = resource.spec.nanotron if isinstance(resource.spec, PretrainSpec) else None
        spread = {} if layout is None else {"nanotron": meaningful(layout, NONE)}
        return {"training": meaningful(resource.spec.training, NONE), **spread}
    if isinstance(resource, DataRecipe) and any(source.is_remote for source in resource.spec.sources):
        return {"sources": [_address(source) for source in resource.spec.sources]}
    return {}


def _address(source: "Source") -> dict[str, Any]:
    """Where a source is fetched from, and how much of it at most; empty for one of the repository itself."""
    from forge.spec.meaning import NONE, meaningful

    if source.git is not None:
        return {"git": meaningful(source.git, NONE)}
    return {"files": [meaningful(file, NONE) for file in source.files]} if source.files else {}


def _parameters(resource: "Resource") -> dict[str, Any]:
    from forge.spec.meaning import REBUILD, meaningful
    from forge.spec.resource import Deployment

    if isinstance(resource, Deployment):  # a suite is named by its address: a report says which it is
        return {"gates": [{"suite": gate.suite, **meaningful(gate, REBUILD)} for gate in resource.spec.gates]}
    return meaningful(resource.spec, REBUILD)


def _served(resource: "Resource") -> dict[str, Any]:
    from forge.spec.meaning import RELOAD, meaningful
    from forge.spec.resource import Deployment, InferencePolicy

    match resource:
        case Deployment():
            spec = resource.spec
            model, policy = (target.split("/", 1)[1] for target in (spec.model, spec.policy))
            return {**meaningful(spec, RELOAD), "deployment": resource.metadata.name, "model": model, "policy": policy}
        case InferencePolicy():
            return {"schema_version": 1, "name": resource.metadata.name, "spec": meaningful(resource.spec, RELOAD)}
    return {}


def _facts(resource: "Resource") -> dict[str, Any]:  # noqa: PLR0911 (one per kind)
    from forge.spec.resource import DataRecipe, Deployment, EvalSuite, Model, People, SupplyChain, Sweep, Withdrawals

    match resource:
        case DataRecipe():
            sources = resource.spec.sources
            refused = _refused_licenses(resource.spec)
            return {
                "sources": [source.path for source in sources],  # None: it comes from outside of the repository
                "licenses": [source.license for source in sources],
                **({"refused_licenses": refused} if refused else {}),
                **({"suites": resource.spec.decontaminate_against} if resource.spec.decontaminate_against else {}),
                **({"by_content": by_content} if (by_content := _by_content(sources)) else {}),
                **({} if (regions := resource.spec.allowed_regions) is None else {"regions": regions}),
            }
        case EvalSuite():
            return {"include": resource.spec.include, "tasks": resource.spec.tasks}
        case Sweep():
            return {"suite": resource.spec.objective.suite, "task": resource.spec.objective.task}
        case Model():
            return _facts_of_model(resource.spec)
        case Deployment():
            spec = resource.spec
            gates = [[gate.suite, [threshold.task for threshold in gate.thresholds]] for gate in spec.gates]
            longest = spec.engine.max_model_len
            return {
                "environment": spec.environment,
                "model": spec.model,
                "policy": spec.policy,
                "gates": gates,
                "max_model_len": longest,
            }
        case SupplyChain() | People():
            return resource.spec.model_dump(mode="json", exclude_defaults=True)
        case Withdrawals():
            return {"withdrawn": [[item.subject, item.reason, item.serving] for item in resource.spec.withdrawn]}
    return {}


def _facts_of_model(spec: "PretrainSpec | BasedSpec") -> dict[str, Any]:
    """Of a model with a base: its address or folder, and what it replays or learns to answer from; the rest is its base's."""
    from forge.spec.base import ModelBase
    from forge.spec.model import PretrainSpec
    from forge.spec.tuning import TunedSpec, chats_of

    facts: dict[str, Any] = {
        "processes": spec.resources.count,
        "accelerator": spec.resources.accelerator,
        **({} if isinstance(spec, TunedSpec) else {"data": spec.data}),
        "sequence_length": spec.training.sequence_length,
        **({} if spec.sweep is None else {"sweep": spec.sweep}),
    }
    if isinstance(spec, PretrainSpec):
        experts = {} if spec.architecture.experts is None else {"experts": spec.architecture.experts.num_local_experts}
        facts |= {"tokenizer": spec.tokenizer, "positions": spec.architecture.max_position_embeddings, **experts}
        facts |= {"mixture": [part.data for part in spec.mixture]} if spec.mixture else {}
        return facts if spec.from_ is None else {**facts, "branches": [spec.from_.model, spec.from_.step]}
    base = spec.base
    if isinstance(base, ModelBase):
        facts["base"] = base.model
    else:
        facts |= {"folder": base.path.strip("/"), "license": base.license, "positions": None}
    if isinstance(spec, TunedSpec):
        name, chats = chats_of(spec)
        facts |= {"chats": name, "chats_path": chats.path, "chats_license": chats.license}
        facts |= {"chats_by_content": True} if chats.order == "content" else {}
        facts["tunes"] = None if spec.adapter is None else list(spec.adapter.lora.targets)
        facts |= {} if chats.regions is None else {"regions": sorted(chats.regions)}
        return {**facts, **({"suites": chats.decontaminate_against} if chats.decontaminate_against else {})}
    return facts if spec.replay is None else {**facts, "replay": spec.replay.data}


def _by_content(sources: "Sequence[Source]") -> list[int]:
    """Numbers of the sources whose files are read in the order of their digests."""
    return [number for number, source in enumerate(sources) if source.order == "content"]


def _refused_licenses(recipe: "DataRecipeSpec") -> list[tuple[int, str]]:
    """Number and fault of each source whose licence the recipe itself does not allow."""
    if recipe.allow_licenses is None:
        return []
    from forge.spec.licenses import license_fault

    faults = [None if source.license_key else license_fault(source.license, recipe.allow_licenses) for source in recipe.sources]
    return [(number, fault.message) for number, fault in enumerate(faults) if fault is not None]


def _canonical(value: Any) -> str:
    return canonical_json(value).decode() if value else "{}"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")) if value else "{}"


def _number(text: str) -> int | float:
    number = int(text)
    return number if abs(number) <= MAX_INTEGER else float(text)
