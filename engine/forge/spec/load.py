"""Files -> resources: every document validated against its kind, every fault found in one go.

Faults come as diagnostics with a place and, where a name is near, a suggestion; nothing is raised for a user's mistake.
"""

import difflib
import re
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from forge.errors import Diagnostic
from forge.spec.document import Document, Location, read_documents
from forge.spec.fields import field_at, name_in_yaml
from forge.spec.meaning import branches
from forge.spec.resource import API_VERSION, RESOURCE_TYPES, Resource, annotation_faults


@dataclass(frozen=True)
class Located:
    """A valid resource and the document it was read from."""

    resource: Resource
    document: Document


@dataclass(frozen=True)
class Loaded:
    """What a set of files holds."""

    resources: tuple[Located, ...]
    diagnostics: tuple[Diagnostic, ...]
    broken: tuple[Document, ...] = ()
    """Documents that are there but not valid."""


def load(files: Iterable[tuple[str, bytes]]) -> Loaded:
    """Validate spec files, given as (path, bytes); references between resources are the matter of ``resolve``."""
    resources: list[Located] = []
    diagnostics: list[Diagnostic] = []
    broken: list[Document] = []
    for path, data in files:
        documents, faults = read_documents(path, data)
        diagnostics.extend(faults)
        for document in documents:
            resource, faults = _validate(document)
            diagnostics.extend(faults)
            if resource is not None:
                resources.append(Located(resource, document))
            else:
                broken.append(document)
    return Loaded(tuple(resources), tuple(diagnostics), tuple(broken))


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """The end of a message about an unknown name: a near candidate, or the list when it is short, or nothing."""
    names = sorted(candidates)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if near:
        return f"; did you mean `{near[0]}`?"
    return f"; known here: {', '.join(names)}" if 0 < len(names) <= 12 else ""


def address_of(document: Document) -> str:
    """What a broken document would be called, as far as it says."""
    value = document.value
    metadata = value.get("metadata") if isinstance(value, dict) else None
    return f"{value.get('kind')}/{metadata.get('name')}" if isinstance(metadata, dict) else ""


def _validate(document: Document) -> tuple[Resource | None, list[Diagnostic]]:
    value = document.value
    if not isinstance(value, dict):
        return None, [document.diagnostic((), "a spec is a mapping with apiVersion, kind, metadata and spec")]
    kind = value.get("kind")
    if kind is None:
        return None, [document.diagnostic((), f"missing key `kind`; one of {', '.join(RESOURCE_TYPES)}")]
    if not isinstance(kind, str) or kind not in RESOURCE_TYPES:
        return None, [document.diagnostic(("kind",), f"unknown kind `{kind}`{did_you_mean(str(kind), RESOURCE_TYPES)}")]
    if "apiVersion" in value and value["apiVersion"] != API_VERSION:
        message = f"unknown apiVersion `{value['apiVersion']}`; this engine reads {API_VERSION}"
        return None, [document.diagnostic(("apiVersion",), message)]
    resource_type = RESOURCE_TYPES[kind]
    faults = list(_annotations(document))
    try:
        resource = typing.cast("Resource", resource_type.model_validate(value))
    except ValidationError as error:
        found = [_diagnostic(document, resource_type, dict(fault)) for fault in error.errors(include_url=False)]
        return None, [
            *faults,
            *(item for item in found if (item.line, item.column) not in {(f.line, f.column) for f in faults}),
        ]
    return (None if faults else resource), faults


def _annotations(document: Document) -> Iterable[Diagnostic]:
    metadata = document.value.get("metadata")
    annotations = metadata.get("annotations") if isinstance(metadata, dict) else None
    if isinstance(annotations, dict):
        for key, at_key, message in annotation_faults(annotations, str(document.value.get("kind"))):
            yield document.diagnostic(("metadata", "annotations", key), message, at_key=at_key)


def _diagnostic(  # noqa: PLR0911 (one per kind of fault)
    document: Document, resource_type: type[BaseModel], fault: dict[str, Any]
) -> Diagnostic:
    location = _within(document, fault["loc"], is_absent=fault["type"] == "missing")
    name = str(location[-1]) if location else ""
    match fault["type"]:
        case "extra_forbidden":
            remedy = _remedy(_model_at(resource_type, fault["loc"][:-1]), name)
            return document.diagnostic(location, f"unknown key `{name}`{remedy}", at_key=True)
        case "missing":
            return document.diagnostic(location[:-1] if location[-1:] == (name,) else location, f"missing key `{name}`")
        case "literal_error" if fault["loc"][-1] == "[key]":
            known = re.findall(r"'([^']+)'", fault["ctx"]["expected"])
            return document.diagnostic(location, f"unknown key `{name}`{did_you_mean(name, known)}", at_key=True)
        case "literal_error":
            return document.diagnostic(location, f"`{name}` is {fault['input']!r}, expected {fault['ctx']['expected']}")
        case "union_tag_not_found" | "union_tag_invalid":
            return document.diagnostic(*_about_tag(location, fault["ctx"]))
        case "string_pattern_mismatch":
            return document.diagnostic(location, _pattern_message(name, fault))
        case _:
            message = fault["msg"].removeprefix("Value error, ")
            shown = isinstance(fault["input"], str | int | float | None) and "PRIVATE KEY" not in str(fault["input"])
            shown = shown and fault["type"] != "address"
            given = f", found {fault['input']!r}" if shown else ""  # a secret that was put in a spec goes into no log as well
            return document.diagnostic(location, f"`{name}`: {message}{given}" if name else message)


def _remedy(parent: type[BaseModel] | None, name: str) -> str:
    """The end of a message about an unknown key: what the kind says of it, or what is near."""
    hints: dict[str, str] = getattr(parent, "hints", {})
    return f"; {hints[name]}" if name in hints else did_you_mean(name, _names_of(parent) if parent else ())


def _names_of(model: type[BaseModel]) -> list[str]:
    return [name_in_yaml(name, info) for name, info in model.model_fields.items()]


def _pattern_message(name: str, fault: dict[str, Any]) -> str:
    pattern = fault["ctx"]["pattern"]
    kind = pattern.removeprefix("^").split("/")[0]
    if kind in RESOURCE_TYPES:
        return f"`{name}` is {fault['input']!r}, expected a reference such as {kind}/NAME"
    if pattern.startswith("^(env:"):
        return f"`{name}`: expected a reference to a secret, env:NAME or file:PATH; a secret itself never stands in YAML"
    return f"`{name}` is {fault['input']!r}, expected lower-case letters, digits and hyphens (a DNS-1123 label, 63 at most)"


def _within(document: Document, location: Location, is_absent: bool) -> Location:
    """Drop the parts of pydantic's location that name a union's branch rather than a key of the document.

    ``is_absent``: the last part is a key that is missing there.
    """
    found: Location = ()
    for index, part in enumerate(location):
        last = index == len(location) - 1
        if (*found, part) in document.values or (last and is_absent):
            found = (*found, part)
    return found


def _about_tag(location: Location, context: dict[str, Any]) -> tuple[Location, str]:
    """Place and message where the key that says which branch of a union is meant is absent, or says none."""
    name = str(context["discriminator"]).strip("'")
    if "tag" not in context:
        return location, f"missing key `{name}`"
    return (*location, name), f"`{name}` is {context['tag']!r}, expected {context['expected_tags'].replace(', ', ' or ')}"


def _model_at(model: type[BaseModel], location: Location) -> type[BaseModel] | None:
    """The model that describes the mapping at a location; None where that is no model."""
    candidates: list[Any] = [model]
    for part in location:
        following: list[Any] = []
        for candidate in candidates:
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                info = field_at(candidate, str(part))
                if info is not None:
                    following.extend(branches(info.annotation))
                elif part in _tags(candidate):
                    following.append(candidate)
            else:
                following.extend(argument for item in typing.get_args(candidate) for argument in branches(item))
        candidates = following
    return next((item for item in candidates if isinstance(item, type) and issubclass(item, BaseModel)), None)


def _tags(model: type[BaseModel]) -> set[str]:
    """What pydantic calls a branch of a union in the location of a fault: the values of its discriminator, or its name."""
    found = {model.__name__}
    for name in ("name", "objective"):
        info = model.model_fields.get(name)
        found.update(typing.get_args(info.annotation) if info is not None else ())
    return found
