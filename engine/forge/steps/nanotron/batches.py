"""Forge's token files as what nanotron's engine iterates over: dictionaries of one micro-batch.

Invariant: over all copies of the model, the micro-batches of a step are the very windows that the torch backend reads in that
step, each once, in the same order: copy c reads the c-th share. All processes of a copy read the same; a process whose stage
neither embeds nor predicts is given pointers to the stages that do, as nanotron asks.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from forge.steps.train.data import Batch, TokenFile, training_batch, validation_batches
from forge.steps.train.job import TrainJob

Micro = dict[str, Any]
"""``input_ids``, ``input_mask``, ``label_ids``, ``label_mask``: tensors [B, S], or pointers to another stage."""


@dataclass(frozen=True)
class Place:
    """Where a process stands: its copy of the model and its stage, and the stages that embed and predict."""

    copy: int
    stage: int
    first: int
    last: int


def training_batches(job: TrainJob, tokens: TokenFile, step: int, copy: int) -> Iterator[Batch]:
    """The micro-batches of one copy in the optimiser step after ``step``."""
    start = step * job.batch_sequences + copy * job.process_sequences
    for first in range(0, job.process_sequences, job.micro_batch_sequences):
        yield training_batch(tokens, job.training.sequence_length, job.training.seed, start + first, job.micro_batch_sequences)


@dataclass(frozen=True)
class Padded:
    """A validation batch of full sequences, and which of its targets count."""

    batch: Batch
    counts: torch.Tensor


def padded_validation_batches(tokens: TokenFile, sequence_length: int, sequences: int) -> Iterator[Padded]:
    """The torch backend's batches; the shorter last sequence is filled up, to the right, with what does not count."""
    for batch in validation_batches(tokens, sequence_length, sequences):
        missing = sequence_length - batch.targets.shape[1]
        counts = torch.ones_like(batch.targets)
        inputs, targets, counts = (
            torch.nn.functional.pad(each, (0, missing)) for each in (batch.inputs, batch.targets, counts)
        )
        yield Padded(Batch(inputs, targets), counts)


def as_micro(batch: Batch, counts: torch.Tensor | None, place: Place, device: torch.device) -> Micro:
    """What nanotron's model takes. A full mask: sequences are packed, and none is padded on the left."""
    from nanotron.parallel.pipeline_parallel.tensor_pointer import TensorPointer

    mask = torch.ones_like(batch.inputs, dtype=torch.bool)
    counts = mask if counts is None else counts.to(torch.bool)
    inputs, labels = {"input_ids": batch.inputs, "input_mask": mask}, {"label_ids": batch.targets, "label_mask": counts}
    return {
        **{
            name: each.to(device) if place.stage == place.first else TensorPointer(place.first) for name, each in inputs.items()
        },
        **{name: each.to(device) if place.stage == place.last else TensorPointer(place.last) for name, each in labels.items()},
    }
