"""Model: an architecture or a base, the data it learns from, and how it is trained. One body for each objective."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from forge.spec.architecture import Architecture
from forge.spec.base import Base
from forge.spec.fields import DataRecipeRef, ModelRef, OptionalSweepRef, Part, TokenizerRef
from forge.spec.meaning import NONE, REBUILD
from forge.spec.nanotron import NanotronLayout, why_not_nanotron
from forge.spec.training import LargeTraining, ModelResources, check_grid, exact, optimizer_sequences
from forge.spec.tuning import DpoSpec, SftSpec, TunedSpec

DEFAULT_CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['content'] }}{% if not loop.last %}{{ '\n\n' }}{% endif %}{% endfor %}"
)


class MixedIn(Part):
    """Sequences of other data among those of a model's own."""

    data: Annotated[DataRecipeRef, REBUILD]
    """Tokenized with the model's tokenizer. Its validation split is not measured."""
    fraction: Annotated[float, Field(gt=0, lt=1), REBUILD]
    """Of all sequences of the training, evenly spread, whatever its length; what all parts leave is the model's own data."""
    max_epochs: Annotated[float | None, Field(gt=0), REBUILD] = None
    """The most passes over this data that the training may take; one that would take more is refused before it starts."""


class BranchPoint(Part):
    """Where a training leaves another's way."""

    model: Annotated[ModelRef, REBUILD]
    """A branch is like it in all but training.tokens, training.optimizer and training.schedule."""
    step: Annotated[int, Field(ge=1), REBUILD]
    """Optimiser steps that the two share; the next one is taken with the branch's own optimiser settings and schedule."""


class PretrainSpec(Part):
    """A model that begins with random weights, or where another one's training stood after some steps."""

    objective: Annotated[Literal["pretrain"], REBUILD]
    data: Annotated[DataRecipeRef, REBUILD]
    tokenizer: Annotated[TokenizerRef, REBUILD]
    architecture: Annotated[Architecture, REBUILD]
    training: Annotated[LargeTraining, REBUILD]
    chat_template: Annotated[str, REBUILD] = DEFAULT_CHAT_TEMPLATE
    """Jinja; exported with the weights. The default joins the messages' contents, as fits a base model."""
    backend: Annotated[Literal["torch", "nanotron"], REBUILD] = "torch"
    """What trains: Forge's own loop, or nanotron 0.4 (docs/nanotron.md). The weights of the two differ in their last digits."""
    nanotron: Annotated[NanotronLayout | None, NONE] = None
    """For ``backend: nanotron``; None: every process holds a copy of the model."""
    resources: Annotated[ModelResources, NONE] = ModelResources()
    mixture: Annotated[list[MixedIn], Field(max_length=15), REBUILD] = []
    """Other data that is mixed in, besides ``data``."""
    from_: Annotated[BranchPoint | None, Field(alias="from"), REBUILD] = None
    """Begin as another model's training did, and go on alone after a step of it; None: from random weights."""
    sweep: Annotated[OptionalSweepRef, REBUILD] = None
    """What chooses some of these fields: what is written here is its first trial, and the best one is this model."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.training.sequence_length > self.architecture.max_position_embeddings:
            raise ValueError("training.sequence_length is longer than architecture.max_position_embeddings")
        if self.architecture.family == "qwen2":
            raise ValueError(
                "a qwen2 cannot begin here: transformers and vLLM give every qwen2 Qwen's own tokenizer, whatever it was "
                "trained with; pretrain a qwen3, or continue a qwen2 from its folder"
            )
        if self.backend == "nanotron":
            reason = why_not_nanotron(self.architecture, self.training, self.nanotron or NanotronLayout(), self.resources.count)
            if reason:
                raise ValueError(reason)
        elif self.nanotron is not None:
            raise ValueError("nanotron is for `backend: nanotron`: set that, or leave nanotron out")
        if self.from_ is not None and self.from_.step * self.training.batch_tokens >= self.training.tokens:
            raise ValueError(
                f"from.step ({self.from_.step}) leaves nothing to train: training.tokens is "
                f"{-(-self.training.tokens // self.training.batch_tokens)} steps of batch_tokens"
            )
        check_grid(self.training, self.resources)
        slices = self.training.parallelism.tensor
        if slices > 1 and self.architecture.experts is not None:
            raise ValueError("training.parallelism.tensor cuts no experts: leave it at 1, and spread the data (fsdp2) instead")
        for name in ("num_key_value_heads", "num_attention_heads", "intermediate_size"):
            if getattr(self.architecture, name) % slices:
                raise ValueError(f"architecture.{name} must be a multiple of training.parallelism.tensor ({slices})")
        return self

    @model_validator(mode="after")
    def _mixes(self) -> Self:
        named = [self.data, *(part.data for part in self.mixture)]
        if len(set(named)) < len(named):
            raise ValueError("mixture names a recipe twice, or the model's own data: each stands once, with one fraction")
        fractions = [exact(part.fraction) for part in self.mixture]
        if sum(fractions) >= 1:
            raise ValueError(
                f"the fractions of the mixture are {float(sum(fractions)):g} together: leave some for `data` itself"
            )
        if any(optimizer_sequences(self.training) * fraction < 1 for fraction in fractions):
            raise ValueError("a fraction of the training's sequences is not one sequence: raise it, or leave that data out")
        return self


class Replay(Part):
    """Sequences of other data among those of the model's own, against forgetting (Ibrahim et al. 2024)."""

    data: Annotated[DataRecipeRef, REBUILD]
    """Usually the base's data. It is tokenized with the base's tokenizer, and its validation split is measured too."""
    fraction: Annotated[float, Field(gt=0, lt=1), REBUILD]
    """Of all sequences. Of the first n sequences, floor(n * fraction) are replayed, evenly spread, whatever n is."""


class ContinueSpec(Part):
    """A model that begins with another's weights; its architecture and its tokenizer are the base's."""

    hints: ClassVar[Mapping[str, str]] = {
        "architecture": "a continued model has its base's architecture: leave it out",
        "tokenizer": "a continued model has its base's tokenizer: leave it out",
    }

    objective: Annotated[Literal["continue"], REBUILD]
    base: Annotated[Base, REBUILD]
    data: Annotated[DataRecipeRef, REBUILD]
    replay: Annotated[Replay | None, REBUILD] = None
    """None: nothing is done against forgetting."""
    training: Annotated[LargeTraining, REBUILD]
    """With an optimiser and a schedule of its own, which begin anew."""
    chat_template: Annotated[str | None, REBUILD] = None
    """Jinja; exported with the weights. None: the base's, and where it has none, one that joins the messages' contents."""
    resources: Annotated[ModelResources, NONE] = ModelResources()
    sweep: Annotated[OptionalSweepRef, REBUILD] = None
    """What chooses some of these fields: what is written here is its first trial, and the best one is this model."""

    @model_validator(mode="after")
    def _mixes(self) -> Self:
        check_grid(self.training, self.resources)
        if self.replay is None:
            return self
        if self.replay.data == self.data:
            raise ValueError(f"replay.data is {self.data}, which is the model's data already: name other data, or no replay")
        if optimizer_sequences(self.training) * exact(self.replay.fraction) < 1:
            raise ValueError("replay.fraction of the training's sequences is not one sequence: raise it, or leave replay out")
        return self


BasedSpec = ContinueSpec | TunedSpec
"""The bodies of a Model that begins with another's weights."""


ModelSpec = Annotated[PretrainSpec | ContinueSpec | SftSpec | DpoSpec, Field(discriminator="objective")]
"""The body of a Model."""
