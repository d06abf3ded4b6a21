"""What a fine-tuning learns from, as the loop sees it: rows in an order, a trainer of TRL's, and what is measured.

Invariant: a lesson is a function of its rows and the base. Whatever it works out before the first step (``prepare``) is the
same after an interruption, or comes back from the checkpoint (``state``). Where several processes train, each of them has all
rows, reads its share of them, and is told what all together found.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from transformers import PreTrainedTokenizerBase, Trainer, TrainerCallback

from forge.steps.train.distributed import World

Row = TypeVar("Row")

LOSS = "loss"
"""The measure that every lesson has."""


@dataclass(frozen=True)
class Apprentice:
    """Who learns, and with which settings: what every trainer of TRL is made of."""

    model: torch.nn.Module
    arguments: Mapping[str, Any]
    """Of TRL's configuration; those of ``transformers.TrainingArguments`` alone."""
    tokenizer: PreTrainedTokenizerBase
    optimizers: tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]
    callbacks: list[TrainerCallback]
    world: World


class Lesson(Protocol):
    """One objective's rows, those to learn from in reading order."""

    sequences_of_a_row: int
    """How many sequences the model reads for one row."""

    @property
    def num_rows(self) -> int:
        """Rows of the whole training, repeats counted."""

    def num_tokens(self, first: int, last: int) -> int:
        """Tokens of the rows from one position in the order to before another."""

    def trainer(self, apprentice: Apprentice, first: int, check: Callable[[], None]) -> Trainer:
        """TRL's trainer of the rows from one position on; ``check`` is called between batches and may raise."""

    def measure(self, model: torch.nn.Module, world: World, check: Callable[[], None]) -> Mapping[str, float]:
        """``LOSS`` of the held-out rows, and what else tells how well it is learnt; ``model`` is in evaluation mode.

        The first call is about the base.
        """

    def state(self) -> Mapping[str, Mapping[str, torch.Tensor]]:
        """Groups of tensors that belong into a checkpoint beside the model's."""

    def take_up(self, groups: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
        """The inverse of ``state``, from a checkpoint."""


def in_batches(rows: Sequence[Row], size: int, world: World, check: Callable[[], None]) -> Iterator[tuple[int, Sequence[Row]]]:
    """This process's batches of at most ``size`` rows, each with the place of its first row.

    Every process checks as often, so that a check may be one that they make together.
    """
    for first in range(0, len(rows), size * world.data_size):
        check()
        place = first + size * world.data_rank
        if place < len(rows):
            yield place, rows[place : place + size]
