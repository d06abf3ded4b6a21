"""Model: an architecture or a base, the data it learns from, and how it is trained. One body for each objective."""

import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from forge.spec.data_recipe import Pii
from forge.spec.fields import ContentOf, Count, DataRecipeRef, EvalSuiteRef, ModelRef, Part, Regions, RepoPath, TokenizerRef
from forge.spec.meaning import EXTEND, GOVERN, NONE, REBUILD
from forge.spec.nanotron import NanotronLayout, why_not_nanotron
from forge.spec.rope import RopeScaling

DEFAULT_CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['content'] }}{% if not loop.last %}{{ '\n\n' }}{% endif %}{% endfor %}"
)

Projection = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
_GENERATION, _GENERATION_END = (re.compile(rf"\{{%[-+]?\s*{word}\s*[-+]?%\}}") for word in ("generation", "endgeneration"))


class Experts(Part):
    """A router and several feed-forward parts in every layer, of which each token goes through a few (Jiang et al. 2024).

    Hugging Face's names (transformers ``MixtralConfig``). No token is dropped: an expert takes as many as choose it.
    """

    num_local_experts: Annotated[int, Field(ge=2, le=1024), REBUILD]
    """Feed-forward parts of a layer, each of ``intermediate_size``."""
    num_experts_per_tok: Annotated[int, Field(ge=2), REBUILD]
    """Those that a token goes through, weighted by the router's softmax over them. With one, that weight is always 1: the
    router would learn nothing from what it chose."""
    router_aux_loss_coef: Annotated[float, Field(ge=0, allow_inf_nan=False), REBUILD] = 0.01
    """Weight of the load-balancing loss (Fedus et al. 2021); 0: nothing keeps the router from using few experts alone."""

    @model_validator(mode="after")
    def _chooses_among_them(self) -> Self:
        if self.num_experts_per_tok > self.num_local_experts:
            raise ValueError(
                f"num_experts_per_tok is {self.num_experts_per_tok}, but a layer has {self.num_local_experts} experts "
                "(num_local_experts): a token goes through each at most once"
            )
        return self


class Architecture(Part):
    """A decoder of the Llama family; Hugging Face's names (transformers ``LlamaConfig`` and ``MixtralConfig``)."""

    family: Annotated[Literal["llama", "mixtral"], REBUILD]
    """mixtral: llama with experts in the place of each layer's feed-forward part."""
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
    experts: Annotated[Experts | None, REBUILD] = None
    """Of the mixtral family; None: one feed-forward part, which every token goes through."""
    rope_scaling: Annotated[RopeScaling | None, REBUILD] = None
    """None: positions are turned by ``rope_theta`` alone."""

    @model_validator(mode="after")
    def _has_experts(self) -> Self:
        if self.family == "llama" and self.experts is not None:
            raise ValueError("a llama has no experts: set family to mixtral, or leave experts out")
        if self.family == "mixtral" and self.experts is None:
            raise ValueError("a mixtral needs experts: {num_local_experts, num_experts_per_tok}; without any it is a llama")
        if self.experts is not None and (self.hidden_size % 8 or self.intermediate_size % 8):
            raise ValueError("with experts, hidden_size and intermediate_size must be multiples of 8: grouped products need it")
        return self

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
    """How much, how fast, and with which seed: what every objective has."""

    hints: ClassVar[Mapping[str, str]] = {
        "intra_document_masking": "a sequence is one conversation here: it has no other documents to keep apart"
    }

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
    max_loss_rise: Annotated[float | None, Field(gt=0), NONE] = 3.0
    """Stop at the second step in a row whose loss is so many nats per token above the lowest mean of 8; None: train on."""

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


class Parallelism(Part):
    """How a training is spread over its processes; a matter of place: sums are added in another order, no more."""

    data: Annotated[Literal["ddp", "fsdp2"], NONE] = "ddp"
    """Every process holds the whole model (ddp), or a slice of each tensor, its gradient and its moments (fsdp2)."""
    tensor: Annotated[int, Field(ge=1, le=64), NONE] = 1
    """Processes that compute one sequence together, each with its share of the heads (Shoeybi et al. 2019)."""


class LargeTraining(Training):
    """Of packed documents, and over processes where need be: the objectives that this engine's own trainer carries out."""

    intra_document_masking: Annotated[bool, REBUILD] = False
    """Documents of one sequence do not attend to each other, and positions count from each document's beginning (Zhao et al.
    2024). False: a sequence is one text, whatever stands in it."""

    parallelism: Annotated[Parallelism, NONE] = Parallelism()
    activation_checkpointing: Annotated[bool, NONE] = False
    """Keep only each layer's input for the way back and compute the rest again: memory for time, and the same bits."""
    compile: Annotated[bool, NONE] = False
    """torch.compile for each layer; needs a C++ compiler where it runs. Rounds differently, as another machine does."""


class ModelResources(Part):
    """Where it is trained; a matter of place, not of identity."""

    accelerator: Annotated[Literal["cpu", "cuda"], NONE] = "cpu"
    count: Annotated[int, Field(ge=1, le=1024), NONE] = 1
    """Processes (torchrun's world size); with cuda, one for each device."""


class MixedIn(Part):
    """Sequences of other data among those of a model's own."""

    data: Annotated[DataRecipeRef, REBUILD]
    """Tokenized with the model's tokenizer. Its validation split is not measured."""
    fraction: Annotated[float, Field(gt=0, lt=1), REBUILD]
    """Of all sequences of the training, evenly spread, whatever its length; what all parts leave is the model's own data."""
    max_epochs: Annotated[float | None, Field(gt=0), REBUILD] = None
    """The most passes over this data that the training may take; one that would take more is refused before it starts."""


def _check_grid(training: LargeTraining, resources: ModelResources) -> None:
    """Refuse processes that do not fill a grid of data x tensor."""
    if resources.count % training.parallelism.tensor:
        raise ValueError(
            f"resources.count ({resources.count}) must be a multiple of training.parallelism.tensor "
            f"({training.parallelism.tensor}): so many processes compute one sequence together"
        )


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

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.training.sequence_length > self.architecture.max_position_embeddings:
            raise ValueError("training.sequence_length is longer than architecture.max_position_embeddings")
        if self.backend == "nanotron":
            reason = why_not_nanotron(self.architecture, self.training, self.nanotron or NanotronLayout(), self.resources.count)
            if reason:
                raise ValueError(reason)
            if self.from_ is not None:
                raise ValueError("`backend: nanotron` branches no training: leave `from` out, or train with the torch backend")
            if self.mixture:
                raise ValueError("`backend: nanotron` reads one recipe: leave mixture out, or train with the torch backend")
        elif self.nanotron is not None:
            raise ValueError("nanotron is for `backend: nanotron`: set that, or leave nanotron out")
        if self.from_ is not None and self.from_.step * self.training.batch_tokens >= self.training.tokens:
            raise ValueError(
                f"from.step ({self.from_.step}) leaves nothing to train: training.tokens is "
                f"{-(-self.training.tokens // self.training.batch_tokens)} steps of batch_tokens"
            )
        _check_grid(self.training, self.resources)
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


class ModelBase(Part):
    """A model of the same commit: whenever its weights change, so does what continues it."""

    hints: ClassVar[Mapping[str, str]] = {"path": "a base is a model or a folder: leave out `model` or `path`"}

    model: Annotated[ModelRef, REBUILD]


class FolderBase(Part):
    """A folder of the repository as Hugging Face writes it: config.json, safetensors, tokenizer.json and its config."""

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
    training: Annotated[LargeTraining, REBUILD]
    """With an optimiser and a schedule of its own, which begin anew."""
    chat_template: Annotated[str | None, REBUILD] = None
    """Jinja; exported with the weights. None: the base's, and where it has none, one that joins the messages' contents."""
    resources: Annotated[ModelResources, NONE] = ModelResources()

    @model_validator(mode="after")
    def _mixes(self) -> Self:
        _check_grid(self.training, self.resources)
        if self.replay is None:
            return self
        if self.replay.data == self.data:
            raise ValueError(f"replay.data is {self.data}, which is the model's data already: name other data, or no replay")
        if optimizer_sequences(self.training) * exact(self.replay.fraction) < 1:
            raise ValueError("replay.fraction of the training's sequences is not one sequence: raise it, or leave replay out")
        return self


class CommittedChats(Part):
    """Files of the repository that people's words lie in, one object a line, and what may be done with them."""

    path: Annotated[RepoPath, ContentOf(), REBUILD]
    """A glob from the repository's root, of ``.jsonl`` files. Their bytes and order, not their names, are the identity."""
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


class SftSpec(Part):
    """A model that learns to answer: another's weights, trained on the assistant's turns of conversations alone."""

    hints: ClassVar[Mapping[str, str]] = {
        "architecture": "a fine-tuned model has its base's architecture: leave it out",
        "tokenizer": "a fine-tuned model has its base's tokenizer: leave it out",
        "data": "a fine-tuned model learns from `conversations`: files of the repository",
        "preferences": "preferences are what a model learns from whose objective is dpo",
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
    resources: Annotated[ModelResources, NONE] = ModelResources()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        _check_marks(self.chat_template)
        _check_shares(self.training, self.resources)
        return self


class DpoSpec(Part):
    """A model that learns which of two answers is preferred, by direct preference optimisation (Rafailov et al. 2023).

    The reference that it is held near to is its base.
    """

    hints: ClassVar[Mapping[str, str]] = {
        **SftSpec.hints,
        "data": "a model whose objective is dpo learns from `preferences`: files of the repository",
        "conversations": "a model whose objective is dpo learns from `preferences`; from conversations, a base of it with sft",
    }

    objective: Annotated[Literal["dpo"], REBUILD]
    base: Annotated[Base, REBUILD]
    preferences: Annotated[Preferences, REBUILD]
    beta: Annotated[float, Field(gt=0, allow_inf_nan=False), REBUILD] = 0.1
    """How near it stays to its base: a reward is beta times the logarithm of how much likelier an answer became."""
    loss_type: Annotated[Literal["sigmoid", "hinge", "ipo"], REBUILD] = "sigmoid"
    """TRL's names: sigmoid is DPO itself, hinge SLiC (Zhao et al. 2023), ipo Azar et al. 2023, whose tau is beta here."""
    training: Annotated[Training, REBUILD]
    """A pair is two sequences, each the prompt with one answer, padded: one pass over n pairs is 2 n times sequence_length
    tokens. What is longer than a sequence is refused, not cut."""
    chat_template: Annotated[str, REBUILD]
    """As for sft; usually the base's own text."""
    adapter: Annotated[Adapter | None, REBUILD] = None
    """None: every weight is trained."""
    resources: Annotated[ModelResources, NONE] = ModelResources()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        _check_marks(self.chat_template)
        _check_shares(self.training, self.resources, 2)
        sequences = self.training.batch_tokens // self.training.sequence_length
        if sequences % 2 or min(self.training.micro_batch_sequences, sequences) % 2:
            raise ValueError(
                "a pair is two sequences, which are read together: make training.batch_tokens an even multiple of "
                "sequence_length, and training.micro_batch_sequences even"
            )
        return self


def _check_shares(training: Training, resources: ModelResources, together: int = 1) -> None:
    """Refuse a batch that cannot be dealt out to the processes, so many sequences at a time."""
    sequences = training.batch_tokens // training.sequence_length
    if resources.count > 1 and sequences % (resources.count * together):
        of_pairs = "" if together == 1 else f" in {together}s, which are read together"
        raise ValueError(
            f"a batch of {sequences} sequences cannot be dealt out to resources.count ({resources.count}) processes{of_pairs}: "
            "change training.batch_tokens or resources.count"
        )


def _check_marks(chat_template: str) -> None:
    if not _GENERATION.search(chat_template) or not _GENERATION_END.search(chat_template):
        raise ValueError(
            "chat_template does not say what is learnt: put the assistant's answer, with the eos_token that ends it, "
            "between {% generation %} and {% endgeneration %}"
        )


def exact(fraction: float) -> Fraction:
    """A fraction as it is written: 0.2 is one fifth, not the float that is nearest to it."""
    return Fraction(repr(fraction))


def optimizer_sequences(training: Training) -> int:
    """Sequences of a whole training: the tokens asked for, rounded up to optimiser steps."""
    return -(-training.tokens // training.batch_tokens) * (training.batch_tokens // training.sequence_length)


TunedSpec = SftSpec | DpoSpec
"""The bodies of a Model that learns from people's words, which lie in files of the repository."""
BasedSpec = ContinueSpec | TunedSpec
"""The bodies of a Model that begins with another's weights."""
ModelSpec = Annotated[PretrainSpec | ContinueSpec | SftSpec | DpoSpec, Field(discriminator="objective")]
"""The body of a Model."""


def chats_of(spec: TunedSpec) -> tuple[str, CommittedChats]:
    """What it learns from, and the name of that field, which is the name of the step's input too."""
    return ("conversations", spec.conversations) if isinstance(spec, SftSpec) else ("preferences", spec.preferences)
