"""Model: an architecture or a base, the data it learns from, and how it is trained. One body for each objective."""

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from forge.spec.fields import ContentOf, Count, DataRecipeRef, ModelRef, Part, Regions, RepoPath, TokenizerRef
from forge.spec.meaning import EXTEND, GOVERN, NONE, REBUILD

DEFAULT_CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['content'] }}{% if not loop.last %}{{ '\n\n' }}{% endif %}{% endfor %}"
)

Projection = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
_GENERATION, _GENERATION_END = (re.compile(rf"\{{%[-+]?\s*{word}\s*[-+]?%\}}") for word in ("generation", "endgeneration"))


class Architecture(Part):
    """A Llama-family decoder; Hugging Face's names (transformers ``LlamaConfig``)."""

    family: Annotated[Literal["llama"], REBUILD]
    hidden_size: Annotated[int, Field(ge=8), REBUILD]
    num_hidden_layers: Annotated[int, Field(ge=1), REBUILD]
    num_attention_heads: Annotated[int, Field(ge=1), REBUILD]
    num_key_value_heads: Annotated[int, Field(ge=1), REBUILD]
    intermediate_size: Annotated[int, Field(ge=8), REBUILD]
    max_position_embeddings: Annotated[int, Field(ge=8), REBUILD]
    rope_theta: Annotated[float, Field(gt=0), REBUILD] = 10000.0
    rms_norm_eps: Annotated[float, Field(gt=0), REBUILD] = 1e-5
    initializer_range: Annotated[float, Field(gt=0), REBUILD] = 0.02
    tie_word_embeddings: Annotated[bool, REBUILD] = False

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError("hidden_size must be a multiple of num_attention_heads")
        if (self.hidden_size // self.num_attention_heads) % 2:
            raise ValueError("hidden_size / num_attention_heads must be even: rotary embeddings turn pairs")
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError("num_attention_heads must be a multiple of num_key_value_heads")
        return self


class Optimizer(Part):
    """AdamW (Loshchilov & Hutter 2019). Weight decay applies to matrices, not to norms; embeddings are not decayed either."""

    name: Annotated[Literal["adamw"], REBUILD] = "adamw"
    lr: Annotated[float, Field(gt=0), REBUILD]
    betas: Annotated[list[float], Field(min_length=2, max_length=2), REBUILD] = [0.9, 0.95]
    eps: Annotated[float, Field(gt=0), REBUILD] = 1e-8
    weight_decay: Annotated[float, Field(ge=0), REBUILD] = 0.1
    gradient_clip_norm: Annotated[float | None, Field(gt=0), REBUILD] = 1.0
    """Largest norm of the whole gradient; None does not clip."""


class WsdSchedule(Part):
    """Warm-up, stable, decay (Hu et al. 2024): linear up, constant, linear down to ``final_lr_fraction``."""

    name: Annotated[Literal["wsd"], REBUILD]
    warmup_tokens: Annotated[Count, Field(ge=0), REBUILD]
    decay_tokens: Annotated[Count, Field(ge=0), REBUILD]
    final_lr_fraction: Annotated[float, Field(ge=0, le=1), REBUILD] = 0.0


class CosineSchedule(Part):
    """Linear warm-up, then half a cosine down to ``final_lr_fraction`` at the last token (Loshchilov & Hutter 2017)."""

    name: Annotated[Literal["cosine"], REBUILD]
    warmup_tokens: Annotated[Count, Field(ge=0), REBUILD]
    final_lr_fraction: Annotated[float, Field(ge=0, le=1), REBUILD] = 0.1


class Training(Part):
    """How much, how fast, and with which seed."""

    tokens: Annotated[Count, Field(ge=1), EXTEND]
    """Tokens that the model is trained on, repeats counted; rounded up to whole optimiser steps. Raised, the training goes on
    from the checkpoint before the decay, where the schedule is wsd."""
    sequence_length: Annotated[int, Field(ge=8), REBUILD]
    """Tokens of one training sequence; documents are packed."""
    batch_tokens: Annotated[Count, Field(ge=8), REBUILD]
    """Tokens of one optimiser step, over all processes; a multiple of sequence_length."""
    micro_batch_sequences: Annotated[int, Field(ge=1), REBUILD] = 8
    """Sequences of one forward pass; the rest of the batch is accumulated."""
    optimizer: Annotated[Optimizer, REBUILD]
    schedule: Annotated[WsdSchedule | CosineSchedule, Field(discriminator="name"), REBUILD]
    precision: Annotated[Literal["float32", "bfloat16"], REBUILD] = "float32"
    """bfloat16 is autocast: weights and optimiser state stay float32."""
    seed: Annotated[int, Field(ge=0), REBUILD] = 0
    validate_every_tokens: Annotated[Count | None, Field(ge=1), NONE] = None
    """How often the validation loss is computed; None: at the end only. Does not change the weights."""
    checkpoint_every_tokens: Annotated[Count | None, Field(ge=1), NONE] = None
    """How often a checkpoint is written; None: ten times over the run. Does not change the weights."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.batch_tokens % self.sequence_length:
            raise ValueError("batch_tokens must be a multiple of sequence_length")
        sequences = self.batch_tokens // self.sequence_length
        if sequences % min(self.micro_batch_sequences, sequences):
            raise ValueError("batch_tokens / sequence_length must be a multiple of micro_batch_sequences")
        decay = self.schedule.decay_tokens if isinstance(self.schedule, WsdSchedule) else 0
        if self.schedule.warmup_tokens + decay > self.tokens:
            raise ValueError("the schedule's warm-up and decay are longer than the training (tokens)")
        return self


class ModelResources(Part):
    """Where it is trained; a matter of place, not of identity."""

    accelerator: Annotated[Literal["cpu"], NONE] = "cpu"
    count: Annotated[int, Field(ge=1, le=1024), NONE] = 1
    """Processes (torchrun's world size)."""


class OneProcess(Part):
    """The same, for what trains in one process."""

    accelerator: Annotated[Literal["cpu"], NONE] = "cpu"
    count: Annotated[Literal[1], NONE] = 1


class MixedIn(Part):
    """Sequences of other data among those of a model's own."""

    data: Annotated[DataRecipeRef, REBUILD]
    """Tokenized with the model's tokenizer. Its validation split is not measured."""
    fraction: Annotated[float, Field(gt=0, lt=1), REBUILD]
    """Of all sequences of the training, evenly spread, whatever its length; what all parts leave is the model's own data."""
    max_epochs: Annotated[float | None, Field(gt=0), REBUILD] = None
    """The most passes over this data that the training may take; one that would take more is refused before it starts."""


class PretrainSpec(Part):
    """A model that begins with random weights."""

    objective: Annotated[Literal["pretrain"], REBUILD]
    data: Annotated[DataRecipeRef, REBUILD]
    tokenizer: Annotated[TokenizerRef, REBUILD]
    architecture: Annotated[Architecture, REBUILD]
    training: Annotated[Training, REBUILD]
    chat_template: Annotated[str, REBUILD] = DEFAULT_CHAT_TEMPLATE
    """Jinja; exported with the weights. The default joins the messages' contents, as fits a base model."""
    resources: Annotated[ModelResources, NONE] = ModelResources()
    mixture: Annotated[list[MixedIn], Field(max_length=15), REBUILD] = []
    """Other data that is mixed in, besides ``data``."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.training.sequence_length > self.architecture.max_position_embeddings:
            raise ValueError("training.sequence_length is longer than architecture.max_position_embeddings")
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


class ModelBase(Part):
    """A model of the same commit: whenever its weights change, so does what continues it."""

    hints: ClassVar[Mapping[str, str]] = {"path": "a base is a model or a folder: leave out `model` or `path`"}

    model: Annotated[ModelRef, REBUILD]


class FolderBase(Part):
    """A folder of the repository as Hugging Face writes it: config.json, model.safetensors, tokenizer.json and its config."""

    hints: ClassVar[Mapping[str, str]] = ModelBase.hints

    path: Annotated[RepoPath, ContentOf(), REBUILD]
    """From the repository's root. The files' bytes are the identity, so the commit pins them; weights are safetensors only."""
    license: Annotated[str, Field(min_length=1), NONE]
    """SPDX expression of the licence that the weights stand under."""
    origin: Annotated[str, Field(min_length=1), NONE]
    """Where the weights come from, in words or as a URL."""


def _kind_of_base(value: Any) -> str | None:
    names = value if isinstance(value, Mapping) else type(value).model_fields if isinstance(value, Part) else ()
    return next((kind.__name__ for name, kind in (("model", ModelBase), ("path", FolderBase)) if name in names), None)


Base = Annotated[
    Annotated[ModelBase, Tag("ModelBase")] | Annotated[FolderBase, Tag("FolderBase")],
    Discriminator(
        _kind_of_base,
        custom_error_type="base",
        custom_error_message="expected `model: Model/NAME`, or `path: FOLDER` with its licence and origin",
    ),
]


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
    training: Annotated[Training, REBUILD]
    """With an optimiser and a schedule of its own, which begin anew."""
    chat_template: Annotated[str | None, REBUILD] = None
    """Jinja; exported with the weights. None: the base's, and where it has none, one that joins the messages' contents."""
    resources: Annotated[ModelResources, NONE] = ModelResources()

    @model_validator(mode="after")
    def _mixes(self) -> Self:
        if self.replay is None:
            return self
        if self.replay.data == self.data:
            raise ValueError(f"replay.data is {self.data}, which is the model's data already: name other data, or no replay")
        if optimizer_sequences(self.training) * exact(self.replay.fraction) < 1:
            raise ValueError("replay.fraction of the training's sequences is not one sequence: raise it, or leave replay out")
        return self


class Conversations(Part):
    """Files of the repository that hold conversations, one a line: ``{"messages": [{"role": .., "content": ..}, ..]}``.

    An optional ``system`` message first, then ``user`` and ``assistant`` in turns; the last word is the assistant's.
    """

    path: Annotated[RepoPath, ContentOf(), REBUILD]
    """A glob from the repository's root, of ``.jsonl`` files. Their bytes and order, not their names, are the identity."""
    license: Annotated[str, Field(min_length=1), NONE]
    """SPDX expression of the licence that the conversations stand under."""
    origin: Annotated[str, Field(min_length=1), NONE]
    """Where they come from, in words or as a URL."""
    validation_fraction: Annotated[float, Field(gt=0, lt=1), REBUILD] = 0.1
    """Of the conversations, by a hash of their text: equal ones never stand on both sides."""
    regions: Annotated[Regions | None, GOVERN] = None
    """Where they, and the model that learns from them, may be stored and worked at; None: anywhere."""


class Lora(Part):
    """Low-rank adaptation (Hu et al. 2021): weights stay, and a product of two thin matrices is learnt beside each."""

    rank: Annotated[int, Field(ge=1), REBUILD]
    alpha: Annotated[float, Field(gt=0), REBUILD]
    """What is learnt counts alpha / rank times."""
    dropout: Annotated[float, Field(ge=0, lt=1), REBUILD] = 0.0
    targets: Annotated[list[Projection], Field(min_length=1), REBUILD] = ["q_proj", "k_proj", "v_proj", "o_proj"]
    """The projections of every layer that are adapted."""

    @model_validator(mode="after")
    def _names_each_once(self) -> Self:
        if len(set(self.targets)) < len(self.targets):
            raise ValueError("targets names a projection twice")
        return self


class Adapter(Part):
    """What is trained instead of all weights; it is merged into them before they are written."""

    lora: Annotated[Lora, REBUILD]


class SftSpec(Part):
    """A model that learns to answer: another's weights, trained on the assistant's turns of conversations alone."""

    hints: ClassVar[Mapping[str, str]] = {
        "architecture": "a fine-tuned model has its base's architecture: leave it out",
        "tokenizer": "a fine-tuned model has its base's tokenizer: leave it out",
        "data": "a fine-tuned model learns from `conversations`: files of the repository",
    }

    objective: Annotated[Literal["sft"], REBUILD]
    base: Annotated[Base, REBUILD]
    conversations: Annotated[Conversations, REBUILD]
    training: Annotated[Training, REBUILD]
    """A sequence is one conversation, padded: ``tokens`` counts places, and one pass over n conversations is n times
    sequence_length. What is longer than a sequence is refused, not cut."""
    chat_template: Annotated[str, REBUILD]
    """Jinja; the answers stand inside ``{% generation %}``. It is exported with the weights, without those marks."""
    adapter: Annotated[Adapter | None, REBUILD] = None
    """None: every weight is trained."""
    resources: Annotated[OneProcess, NONE] = OneProcess()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not _GENERATION.search(self.chat_template) or not _GENERATION_END.search(self.chat_template):
            raise ValueError(
                "chat_template does not say what is learnt: put the assistant's answer, with the eos_token that ends it, "
                "between {% generation %} and {% endgeneration %}"
            )
        return self


def exact(fraction: float) -> Fraction:
    """A fraction as it is written: 0.2 is one fifth, not the float that is nearest to it."""
    return Fraction(repr(fraction))


def optimizer_sequences(training: Training) -> int:
    """Sequences of a whole training: the tokens asked for, rounded up to optimiser steps."""
    return -(-training.tokens // training.batch_tokens) * (training.batch_tokens // training.sequence_length)


BasedSpec = ContinueSpec | SftSpec
"""The bodies of a Model that begins with another's weights."""
ModelSpec = Annotated[PretrainSpec | ContinueSpec | SftSpec, Field(discriminator="objective")]
"""The body of a Model."""
