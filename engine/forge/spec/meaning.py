"""What a change to a field means, declared where the field is declared (docs/design.md, decision 3).

Every leaf field of every kind carries exactly one Meaning in its annotation; tests/spec/test_meaning.py walks all kinds
and fails for a field without one. Only fields that mean REBUILD or EXTEND enter a step's key. A field that stands at its
default is left out of the key, so that a field added later retrains nothing; a default therefore never changes within an
apiVersion.
"""

import functools
import types
import typing
from enum import StrEnum
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from forge.spec.fields import ContentOf, ReferenceTo, field_at, name_in_yaml


class Meaning(StrEnum):
    """The effect that a change to a field has on what was made before."""

    REBUILD = "rebuild"
    """The products would be others: the step gets a new key and runs."""
    EXTEND = "extend"
    """As REBUILD, a new key; but a larger value may be reached by continuing the earlier run from its checkpoint, where that
    gives what a run from scratch gives to the last digit (``spec.extend``)."""
    RELOAD = "reload"
    """The serving agent picks it up with the next release; nothing is trained or evaluated again."""
    GOVERN = "govern"
    """Who may do what, and what a release needs: nothing is made again; plans and releases are judged by it."""
    NONE = "none"
    """Metadata, or a matter of place: nothing happens."""


REBUILD = Meaning.REBUILD
EXTEND = Meaning.EXTEND
RELOAD = Meaning.RELOAD
GOVERN = Meaning.GOVERN
NONE = Meaning.NONE


def meanings_of(model: type[BaseModel]) -> dict[str, Meaning | None]:
    """Each field's declared meaning, by its name in a document; None where none is declared."""
    return {name_in_yaml(name, info): _declared(info) for name, info in model.model_fields.items()}


def meaningful(value: BaseModel, meaning: Meaning) -> dict[str, Any]:
    """The JSON form of the fields with this meaning, those at their default left out; nested models likewise.

    Fields that mean EXTEND shape the products as much as those that mean REBUILD do, and are selected with them.
    References and globs of files are left out: what they name enters a step as an input, by its digest.
    """
    selected: dict[str, Any] = {}
    for attribute, name, default, declared in _identity_fields(type(value)):
        item = getattr(value, attribute)
        chosen = declared is meaning or (declared is EXTEND and meaning is REBUILD)
        if chosen and item != default:
            selected[name] = _plain(item, meaning)
    return selected


@functools.cache
def _identity_fields(model: type[BaseModel]) -> tuple[tuple[str, str, Any, Meaning | None], ...]:
    """Attribute, name, default and meaning of each field whose own value can be part of an identity."""
    return tuple(
        (name, name_in_yaml(name, info), info.get_default(call_default_factory=True, validated_data={}), _declared(info))
        for name, info in model.model_fields.items()
        if not any(isinstance(mark, ReferenceTo | ContentOf) for mark in info.metadata)
    )


def _declared(info: FieldInfo) -> Meaning | None:
    return next((item for item in info.metadata if isinstance(item, Meaning)), None)


def _plain(item: Any, meaning: Meaning) -> Any:
    if isinstance(item, BaseModel):
        return meaningful(item, meaning)
    if isinstance(item, list | tuple):
        return [_plain(each, meaning) for each in item]
    if isinstance(item, dict):
        return {str(key): _plain(each, meaning) for key, each in item.items()}
    return item


def meaning_at(model: Any, path: tuple[str | int, ...]) -> Meaning | None:
    """The declared meaning of the field at a path of a spec; None where the path leads to no field."""
    found, candidates = None, [model]
    for part in path:
        if isinstance(part, int):
            candidates = [branch for item in candidates for argument in typing.get_args(item) for branch in branches(argument)]
            continue
        fields = [info for item in candidates if _is_model(item) for info in (field_at(item, part),) if info is not None]
        if not fields:  # a key of a mapping, whose values mean what it does, or say more
            values = [typing.get_args(item)[1] for item in candidates if typing.get_origin(item) is dict]
            candidates = [branch for item in values for branch in branches(item)]
            if not candidates:
                return None
            continue
        found = next((mark for mark in fields[0].metadata if isinstance(mark, Meaning)), found)
        candidates = [branch for info in fields for branch in branches(info.annotation)]
    return found


def branches(annotation: Any) -> list[Any]:
    """The types that an annotation may stand for: a union's members, an Annotated's own type."""
    if typing.get_origin(annotation) is typing.Annotated:
        return branches(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [branch for item in typing.get_args(annotation) for branch in branches(item)]
    return [annotation]


def _is_model(candidate: Any) -> bool:
    return isinstance(candidate, type) and issubclass(candidate, BaseModel)
