"""What a model has of the models that it continues: its architecture and vocabulary, and the operations that they took.

Pure. None means "cannot tell": what lies in a folder of the repository is not read by planning, only hashed.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from forge.plan.cost import NO_ESTIMATE, Estimate, estimate_training

if TYPE_CHECKING:  # most plans estimate nothing
    from forge.spec.architecture import Architecture
    from forge.spec.resource import Model, Resource
    from forge.spec.settings import Settings


def base_of(model: "Model") -> str | None:
    """The address of the model that a model continues; None where it continues none, or a folder."""
    from forge.spec.base import ModelBase
    from forge.spec.model import BasedSpec

    base = model.spec.base if isinstance(model.spec, BasedSpec) else None
    return base.model if isinstance(base, ModelBase) else None


def bases_of(model: "Model", resources: "Mapping[str, Resource]") -> "Iterator[Model]":
    """The models that a model continues, the nearest first; the commit is valid, so they end."""
    address = base_of(model)
    while address is not None:
        found = resources[address]
        yield _model(found)
        address = base_of(_model(found))


def estimate_model(
    model: "Model", resources: "Mapping[str, Resource]", settings: "Settings", tokens: int | None = None
) -> Estimate:
    """What a model's training takes; nothing is known where its chain of bases begins in a folder.

    ``tokens``: of a trial, where it is trained on another number than the model.
    """
    shape = _shape(model, resources)
    return NO_ESTIMATE if shape is None else estimate_training(model.spec, *shape, settings, tokens)


def flops_of_base(model: "Model", resources: "Mapping[str, Resource]", settings: "Settings") -> float | None:
    """Operations of everything that a continued model's base was trained with, its own bases included; None: unknown."""
    total = 0.0
    for each in bases_of(model, resources):
        flops = estimate_model(each, resources, settings).flops
        if flops is None:
            return None
        total += flops
    return total or None


def _shape(model: "Model", resources: "Mapping[str, Resource]") -> "tuple[Architecture, int] | None":
    """Architecture and vocabulary size of the model that a chain of bases begins with."""
    from forge.spec.model import PretrainSpec
    from forge.spec.resource import Tokenizer

    *_, root = (model, *bases_of(model, resources))
    if not isinstance(root.spec, PretrainSpec):
        return None
    tokenizer = resources[root.spec.tokenizer]
    if not isinstance(tokenizer, Tokenizer):
        raise TypeError(f"{root.spec.tokenizer} is no Tokenizer")
    return root.spec.architecture, tokenizer.spec.vocab_size


def _model(resource: "Resource") -> "Model":
    from forge.spec.resource import Model

    if not isinstance(resource, Model):
        raise TypeError(f"{resource.address} is no Model")
    return resource
