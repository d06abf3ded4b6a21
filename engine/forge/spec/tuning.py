"""Models that learn from people's words: from conversations (sft) and from preferences (dpo), which lie in files."""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from forge.spec.base import Base
from forge.spec.data_recipe import Pii
from forge.spec.fields import ContentOf, EvalSuiteRef, FileOrder, OptionalSweepRef, Part, Regions, RepoPath
from forge.spec.meaning import GOVERN, NONE, REBUILD
from forge.spec.training import ModelResources, Training, check_shares

Projection = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


_GENERATION, _GENERATION_END = (re.compile(rf"\{{%[-+]?\s*{word}\s*[-+]?%\}}") for word in ("generation", "endgeneration"))


class CommittedChats(Part):
    """Files of the repository that people's words lie in, one object a line, and what may be done with them."""

    path: Annotated[RepoPath, ContentOf(), REBUILD]
    """A glob from the repository's root, of ``.jsonl`` files. Their bytes and order, not their names, are the identity."""
    order: Annotated[FileOrder, REBUILD] = "path"
    """content: no renaming changes it, and so none trains again."""
    license: Annotated[str, Field(min_length=1), NONE]
    """SPDX expression of the licence that they stand under."""
    origin: Annotated[str, Field(min_length=1), NONE]
    """Where they come from, in words or as a URL."""
    validation_fraction: Annotated[float, Field(gt=0, lt=1), REBUILD] = 0.1
    """The share that is held out, by a hash of the text: equal ones never stand on both sides."""
    pii: Annotated[Pii, REBUILD] = Pii()
    """Personal data that is replaced by placeholders, as in recipes."""
    decontaminate_against: Annotated[list[EvalSuiteRef], REBUILD] = []
    """Suites whose items nothing may repeat; their files are inputs of the training."""
    decontamination_ngram: Annotated[int, Field(ge=8, le=64), REBUILD] = 13
    """As in recipes: so many consecutive words shared with an item, or all of an item's that has at least eight."""
    edition: Annotated[Literal[1, 2], REBUILD] = 1
    """By which rules both are done, as in recipes (docs/data.md, "Editions"). 2: for new models; 1: as those before it were."""

    regions: Annotated[Regions | None, GOVERN] = None
    """Where they, and the model that learns from them, may be stored and worked at; None: anywhere."""

    @model_validator(mode="after")
    def _names_each_suite_once(self) -> Self:
        if len(set(self.decontaminate_against)) < len(self.decontaminate_against):
            raise ValueError("`decontaminate_against` names a suite twice")
        return self


class Conversations(CommittedChats):
    """Conversations, one a line: ``{"messages": [{"role": .., "content": ..}, ..]}``.

    An optional ``system`` message first, then ``user`` and ``assistant`` in turns; the last word is the assistant's.
    """


class Preferences(CommittedChats):
    """Pairs of answers, one a line: ``{"prompt": [{"role": .., "content": ..}, ..], "chosen": "..", "rejected": ".."}``.

    The prompt is a conversation whose last word is the user's; the two answers are to it. The pairs of one prompt are held out
    together.
    """


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


ATTENTION: tuple[Projection, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")
"""The projections that every layer has; the others are those of a feed-forward part, which a mixture of experts has many of."""


def why_not_tuned(targets: Sequence[str] | None) -> str | None:
    """Why a mixture of experts cannot be fine-tuned so; None where it can. ``targets``: None trains every weight."""
    remedy = f"adapt the attention alone (adapter.lora.targets: {', '.join(ATTENTION)})"
    if targets is None:
        return f"fine-tuning has no load-balancing loss, without which its router would come to use few experts: {remedy}"
    others = [name for name in targets if name not in ATTENTION]
    return f"each layer has {', '.join(others)} once for every expert, not once: {remedy}" if others else None


class Adapter(Part):
    """What is trained instead of all weights; it is merged into them before they are written."""

    lora: Annotated[Lora, REBUILD]


class TunedModel(Part):
    """What models that learn from people's words have in common: another's weights, and how answers are written."""

    hints: ClassVar[Mapping[str, str]] = {
        "architecture": "a fine-tuned model has its base's architecture: leave it out",
        "tokenizer": "a fine-tuned model has its base's tokenizer: leave it out",
        "preferences": "preferences are what a model learns from whose objective is dpo",
    }

    objective: Annotated[Literal["sft", "dpo"], REBUILD]
    base: Annotated[Base, REBUILD]
    chat_template: Annotated[str, REBUILD]
    """Jinja; the answers stand inside ``{% generation %}``. It is exported with the weights, without those marks."""
    adapter: Annotated[Adapter | None, REBUILD] = None
    """None: every weight is trained."""
    resources: Annotated[ModelResources, NONE] = ModelResources()
    sweep: Annotated[OptionalSweepRef, REBUILD] = None
    """What chooses some of these fields: what is written here is its first trial, and the best one is this model."""

    @model_validator(mode="after")
    def _marks_answers(self) -> Self:
        if not _GENERATION.search(self.chat_template) or not _GENERATION_END.search(self.chat_template):
            raise ValueError(
                "chat_template does not say what is learnt: put the assistant's answer, with the eos_token that ends it, "
                "between {% generation %} and {% endgeneration %}"
            )
        return self


class SftSpec(TunedModel):
    """A model that learns to answer: another's weights, trained on the assistant's turns of conversations alone."""

    hints: ClassVar[Mapping[str, str]] = {
        **TunedModel.hints,
        "data": "a fine-tuned model learns from `conversations`: files of the repository",
    }

    objective: Annotated[Literal["sft"], REBUILD]
    conversations: Annotated[Conversations, REBUILD]
    training: Annotated[Training, REBUILD]
    """A sequence is one conversation, padded: ``tokens`` counts places, and one pass over n conversations is n times
    sequence_length. What is longer than a sequence is refused, not cut."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        check_shares(self.training, self.resources)
        return self


class DpoSpec(TunedModel):
    """A model that learns which of two answers is preferred, by direct preference optimisation (Rafailov et al. 2023).

    The reference that it is held near to is its base.
    """

    hints: ClassVar[Mapping[str, str]] = {
        **TunedModel.hints,
        "data": "a model whose objective is dpo learns from `preferences`: files of the repository",
        "conversations": "a model whose objective is dpo learns from `preferences`; from conversations, a base of it with sft",
    }

    objective: Annotated[Literal["dpo"], REBUILD]
    preferences: Annotated[Preferences, REBUILD]
    beta: Annotated[float, Field(gt=0, allow_inf_nan=False), REBUILD] = 0.1
    """How near it stays to its base: a reward is beta times the logarithm of how much likelier an answer became."""
    loss_type: Annotated[Literal["sigmoid", "hinge", "ipo"], REBUILD] = "sigmoid"
    """TRL's names: sigmoid is DPO itself, hinge SLiC (Zhao et al. 2023), ipo Azar et al. 2023, whose tau is beta here."""
    training: Annotated[Training, REBUILD]
    """A pair is two sequences, each the prompt with one answer, padded: one pass over n pairs is 2 n times sequence_length
    tokens. What is longer than a sequence is refused, not cut."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        check_shares(self.training, self.resources, 2)
        sequences = self.training.batch_tokens // self.training.sequence_length
        if sequences % 2 or min(self.training.micro_batch_sequences, sequences) % 2:
            raise ValueError(
                "a pair is two sequences, which are read together: make training.batch_tokens an even multiple of "
                "sequence_length, and training.micro_batch_sequences even"
            )
        return self


TunedSpec = SftSpec | DpoSpec
"""The bodies of a Model that learns from people's words, which lie in files of the repository."""


def chats_of(spec: TunedSpec) -> tuple[str, CommittedChats]:
    """What it learns from, and the name of that field, which is the name of the step's input too."""
    return ("conversations", spec.conversations) if isinstance(spec, SftSpec) else ("preferences", spec.preferences)
