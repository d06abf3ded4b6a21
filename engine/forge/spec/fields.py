"""Field types that several kinds share: counts with suffixes, names, references, paths, secrets."""

import functools
import re
import typing
from collections.abc import Iterator
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

_SUFFIXES = {"k": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
COUNT = re.compile(r"(\d{1,20}(?:\.\d{1,20})?)([kMBT])?")
_LARGEST = 2**53 - 1
_DNS_1123 = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
KINDS = (
    "DataRecipe",
    "Tokenizer",
    "Sweep",
    "Model",
    "EvalSuite",
    "InferencePolicy",
    "Deployment",
    "People",
    "SupplyChain",
    "Withdrawals",
)


class Part(BaseModel):
    """Base of everything inside a spec: immutable, unknown keys are errors, no silent conversion of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True, strict=True)


def parse_count(value: Any) -> Any:
    """A text such as ``100k`` as a whole number, anything else as it is; raises ValueError for a text that is no count."""
    if isinstance(value, str):
        match = COUNT.fullmatch(value)
        if match is None:
            raise ValueError("expected a count such as 2000000, 100k, 2M or 1.5B")
        number, suffix = match.groups()
        scaled = Decimal(number) * _SUFFIXES.get(suffix or "", 1)
        if scaled != scaled.to_integral_value():
            raise ValueError(f"{value!r} is not a whole number")
        if scaled > _LARGEST:
            raise ValueError(f"larger than {_LARGEST:,}")
        return int(scaled)
    return value


def _safe_path(value: str) -> str:
    if "://" in value:  # its message shows no value: a URL may hold a password
        raise PydanticCustomError(
            "address", "a URL is no path of the repository: a source of data takes it in `files` or `git`"
        )
    if value.startswith("/") or "\\" in value or ".." in value.split("/"):
        raise ValueError("expected a path inside the repository, relative to its root, with forward slashes")
    return value


Count = Annotated[
    int,
    BeforeValidator(parse_count),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": f"^{COUNT.pattern}$"}]}),
]
"""A whole number; ``100k``, ``2M``, ``1.5B`` and ``1T`` are decimal multiples."""

Name = Annotated[str, Field(pattern=rf"^{_DNS_1123}$")]
"""A DNS-1123 label: names become refs, paths and job names."""

RepoPath = Annotated[str, Field(min_length=1), AfterValidator(_safe_path)]
"""A path or glob inside the repository, from its root."""

SecretRef = Annotated[str, Field(pattern=r"^(env:[A-Za-z_][A-Za-z0-9_]*|file:.+)$")]
"""Where a secret is found, never the secret: ``env:NAME`` or ``file:PATH``."""


def _each_once(value: list[str]) -> list[str]:
    if len(set(value)) < len(value):
        raise ValueError("a region stands twice")
    return value


Regions = Annotated[list[Name], Field(min_length=1), AfterValidator(_each_once)]
"""Labels of places, each one where data may be; forge.toml says which one the store and the executor are in."""


FileOrder = Literal["path", "content"]
"""In which order a glob's files are read: by their paths, or by the digests of their bytes, which no renaming changes."""


class ReferenceTo:
    """Annotation that a string names another resource of this kind."""

    def __init__(self, kind: str) -> None:
        self.kind = kind


class ContentOf:
    """Annotation that a string is a glob of files: their bytes, not their paths, are what enters an identity."""


def name_in_yaml(name: str, info: FieldInfo) -> str:
    """What a field is called in a document: `from` is no name that Python lets an attribute have."""
    return info.alias or name


def field_at(model: type[BaseModel], name: str) -> FieldInfo | None:
    """A model's field by its name in a document; None where it has none of that name."""
    return next((info for attribute, info in model.model_fields.items() if name_in_yaml(attribute, info) == name), None)


def references_in(value: Any, location: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Every reference below a value, with the place where it stands, in the order of the fields."""
    if isinstance(value, BaseModel):
        for attribute, name, is_reference in _fields(type(value)):
            item = getattr(value, attribute)
            if is_reference and isinstance(item, list):
                yield from (((*location, name, index), target) for index, target in enumerate(item))
            elif is_reference:
                if item is not None:
                    yield (*location, name), item
            elif isinstance(item, BaseModel | list | tuple):
                yield from references_in(item, (*location, name))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from references_in(item, (*location, index))


@functools.cache
def _fields(model: type[BaseModel]) -> tuple[tuple[str, str, bool], ...]:
    """Attribute, name in a document, and whether its value names another resource."""
    return tuple(
        (
            name,
            name_in_yaml(name, info),
            any(isinstance(mark, ReferenceTo) for mark in [*info.metadata, *_marks_of_items(info.annotation)]),
        )
        for name, info in model.model_fields.items()
    )


def _marks_of_items(annotation: Any) -> tuple[Any, ...]:
    """The marks of what a list holds; none of anything else."""
    items = typing.get_args(annotation) if typing.get_origin(annotation) is list else ()
    return tuple(mark for item in items for mark in getattr(item, "__metadata__", ()))


def _reference(kind: str, *, may_be_absent: bool = False) -> Any:
    of = str | None if may_be_absent else str
    return Annotated[of, Field(pattern=rf"^{kind}/{_DNS_1123}$"), ReferenceTo(kind)]


DataRecipeRef = _reference("DataRecipe")
TokenizerRef = _reference("Tokenizer")
OptionalSweepRef = _reference("Sweep", may_be_absent=True)
ModelRef = _reference("Model")
EvalSuiteRef = _reference("EvalSuite")
InferencePolicyRef = _reference("InferencePolicy")
