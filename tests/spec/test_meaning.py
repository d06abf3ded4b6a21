"""Every field of every kind says what a change to it means."""

import typing

from pydantic import BaseModel

from forge.spec.meaning import REBUILD, meaningful, meanings_of
from forge.spec.model import DEFAULT_CHAT_TEMPLATE, PretrainSpec
from forge.spec.resource import RESOURCE_TYPES


def models_below(annotation: object) -> set[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        found = {annotation}
        for info in annotation.model_fields.values():
            found |= models_below(info.annotation)
        return found
    return {model for argument in typing.get_args(annotation) for model in models_below(argument)}


def test_every_field_declares_its_meaning() -> None:
    models = {model for kind in RESOURCE_TYPES.values() for model in models_below(kind)}
    assert len(models) > 20
    undeclared = [
        f"{model.__name__}.{name}" for model in models for name, meaning in meanings_of(model).items() if meaning is None
    ]
    assert undeclared == []


def test_defaults_and_references_stay_out_of_an_identity(small_model: PretrainSpec) -> None:
    identity = meaningful(small_model, REBUILD)
    assert "chat_template" not in identity
    assert "data" not in identity
    assert "resources" not in identity
    explicit = small_model.model_copy(update={"chat_template": DEFAULT_CHAT_TEMPLATE})
    assert meaningful(explicit, REBUILD) == identity
    changed = small_model.model_copy(update={"chat_template": "{{ messages }}"})
    assert meaningful(changed, REBUILD) != identity


def test_how_often_to_validate_is_no_part_of_an_identity(small_model: PretrainSpec) -> None:
    training = small_model.training.model_copy(update={"validate_every_tokens": 1024, "checkpoint_every_tokens": 2048})
    assert meaningful(small_model.model_copy(update={"training": training}), REBUILD) == meaningful(small_model, REBUILD)
