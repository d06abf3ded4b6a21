"""How a model is trained: how much, how fast, over how many processes; for every objective, and for the large ones."""

from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from forge.spec.fields import Count, Part
from forge.spec.meaning import EXTEND, NONE, REBUILD

Beta = Annotated[float, Field(ge=0, lt=1)]
"""How much of a running mean of gradients, or of their squares, a step keeps: at 1 it would never learn of a gradient."""


class Optimizer(Part):
    """AdamW (Loshchilov & Hutter 2019). Weight decay applies to matrices, not to norms; embeddings are not decayed either."""

    name: Annotated[Literal["adamw"], REBUILD] = "adamw"
    lr: Annotated[float, Field(gt=0), REBUILD]
    betas: Annotated[list[Beta], Field(min_length=2, max_length=2), REBUILD] = [0.9, 0.95]
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
    max_loss_rise: Annotated[float | None, Field(gt=0), NONE] = 1.0
    """Stop where the median loss of 8 steps is so many nats per token above the lowest mean of 8; None: train on."""

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


def check_grid(training: LargeTraining, resources: ModelResources) -> None:
    """Refuse processes that do not fill a grid of data x tensor."""
    if resources.count % training.parallelism.tensor:
        raise ValueError(
            f"resources.count ({resources.count}) must be a multiple of training.parallelism.tensor "
            f"({training.parallelism.tensor}): so many processes compute one sequence together"
        )


def check_shares(training: Training, resources: ModelResources, together: int = 1) -> None:
    """Refuse a batch that cannot be dealt out to the processes, so many sequences at a time."""
    sequences = training.batch_tokens // training.sequence_length
    if resources.count > 1 and sequences % (resources.count * together):
        of_pairs = "" if together == 1 else f" in {together}s, which are read together"
        raise ValueError(
            f"a batch of {sequences} sequences cannot be dealt out to resources.count ({resources.count}) processes{of_pairs}: "
            "change training.batch_tokens or resources.count"
        )


def exact(fraction: float) -> Fraction:
    """A fraction as it is written: 0.2 is one fifth, not the float that is nearest to it."""
    return Fraction(repr(fraction))


def optimizer_sequences(training: Training) -> int:
    """Sequences of a whole training: the tokens asked for, rounded up to optimiser steps."""
    return -(-training.tokens // training.batch_tokens) * (training.batch_tokens // training.sequence_length)
