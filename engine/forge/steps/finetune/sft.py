"""Supervised fine-tuning as a lesson: the answers of conversations, by TRL's SFTTrainer.

What is TRL's: batches, the loss over labelled tokens (fused with the output projection). Which tokens are labelled, and in
which order conversations come, is ours: the rows are given as they are to be read.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset
from torch.nn.functional import cross_entropy
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from forge.steps.finetune.examples import NO_LABEL, Example, batch_of
from forge.steps.finetune.lesson import LOSS, Apprentice, in_batches
from forge.steps.train.distributed import World, sum_values


class QuietTrainer(SFTTrainer):  # type: ignore[misc, unused-ignore]
    """TRL's trainer without what it tells others: no telemetry, no model card (which looks for a repository and a host)."""

    def _send_telemetry(self) -> None:
        pass

    def create_model_card(self, *_arguments: Any, **_options: Any) -> None:
        """Write none: what was trained is the record's to say."""


class Answers:
    """Conversations whose answers are learnt; the loss is nats per token of an answer."""

    sequences_of_a_row = 1

    def __init__(
        self, examples: Sequence[Example], held_out: Sequence[Example], order: Sequence[int], padding: int, micro_batch: int
    ) -> None:
        self._examples, self._held_out, self._order = examples, held_out, order
        self._padding, self._micro_batch = padding, micro_batch

    @property
    def num_rows(self) -> int:
        """Conversations of the whole training, repeats counted."""
        return len(self._order)

    def num_tokens(self, first: int, last: int) -> int:
        """Tokens of the conversations at these positions."""
        return sum(len(self._examples[index].input_ids) for index in self._order[first:last])

    def trainer(self, apprentice: Apprentice, first: int, check: Callable[[], None]) -> SFTTrainer:
        """Of the conversations from one position on."""
        check()
        rows = [self._examples[index] for index in self._order[first:]]
        dataset = Dataset.from_dict(
            {"input_ids": [list(row.input_ids) for row in rows], "labels": [list(row.labels) for row in rows]}
        )
        return QuietTrainer(
            model=apprentice.model,
            args=SFTConfig(**apprentice.arguments, dataset_kwargs={"skip_prepare_dataset": True}, max_length=None),
            train_dataset=dataset,
            processing_class=apprentice.tokenizer,
            optimizers=apprentice.optimizers,
            callbacks=apprentice.callbacks,
        )

    def measure(self, model: torch.nn.Module, world: World, check: Callable[[], None]) -> Mapping[str, float]:
        """Nats per token of the held-out answers."""
        device, summed, count = next(model.parameters()).device, 0.0, 0
        for _, batch in in_batches(self._held_out, self._micro_batch, world, check):
            ids, labels, mask = batch_of(batch, self._padding)
            logits = model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits
            targets = labels[:, 1:].to(device)
            # Places in one row: of two dimensions CUDA has no deterministic sum, and refuses.
            places = logits[:, :-1].float().flatten(0, 1)
            summed += float(cross_entropy(places, targets.flatten(), ignore_index=NO_LABEL, reduction="sum"))
            count += int((targets != NO_LABEL).sum())
        summed, of_all = sum_values([summed, float(count)], world)
        return {LOSS: summed / of_all}

    def state(self) -> Mapping[str, Mapping[str, torch.Tensor]]:
        """Nothing: each row says by itself what is learnt."""
        return {}

    def take_up(self, groups: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
        """There is nothing to take up."""
