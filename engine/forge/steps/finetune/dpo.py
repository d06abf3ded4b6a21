"""Direct preference optimisation as a lesson: pairs of answers, by TRL's DPOTrainer.

What is TRL's: batches, log-probabilities, and the loss. The reference is the base: TRL's own function works out, before the
first step, how likely it finds both answers of each pair that will be read, once for each; after that no reference stays in
memory. These numbers are part of the checkpoint, because after an interruption the model is the base no longer.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset
from torch.nn.functional import logsigmoid, relu
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from forge.errors import StepError
from forge.steps.finetune.examples import NO_LABEL
from forge.steps.finetune.lesson import LOSS, Apprentice, in_batches
from forge.steps.finetune.pairs import Pair, sequences_of
from forge.steps.train.distributed import World, shares_together

REFERENCE = "reference"
"""The group of a checkpoint that holds how likely the base finds the answers."""


class QuietTrainer(DPOTrainer):  # type: ignore[misc, unused-ignore]
    """TRL's trainer on rows that are ready: tokenized, and with the reference's log-probabilities; it tells nobody anything."""

    def _send_telemetry(self) -> None:
        pass

    def create_model_card(self, *_arguments: Any, **_options: Any) -> None:
        """Write none: what was trained is the record's to say."""

    def _prepare_dataset(self, dataset: Any, *_arguments: Any, **_options: Any) -> Any:
        """The rows are tokens already; TRL would apply a chat template of its own choice, and drop what does not fit."""
        return dataset

    def _precompute_ref_logps(self, dataset: Any, *_arguments: Any, **_options: Any) -> Any:
        """They are columns already; TRL would work them out anew for every repeat of a row, from the model as it stands."""
        return dataset


class Comparisons:
    """Pairs of answers of which one is preferred; the loss is DPO's, a mean over pairs."""

    sequences_of_a_row = 2

    def __init__(
        self,
        pairs: Sequence[Pair],
        held_out: Sequence[Pair],
        order: Sequence[int],
        padding: int,
        micro_batch: int,
        *,
        beta: float,
        loss_type: str,
        subject: str,
    ) -> None:
        self._pairs, self._held_out, self._order = pairs, held_out, order
        self._padding, self._micro_batch = padding, micro_batch
        self._beta, self._loss_type, self._subject = beta, loss_type, subject
        self._read = sorted(set(order))
        self._reference: torch.Tensor | None = None
        """Of the pairs in ``_read``: [pairs, 2], chosen and rejected."""
        self._held_out_reference: torch.Tensor | None = None

    @property
    def num_rows(self) -> int:
        """Pairs of the whole training, repeats counted."""
        return len(self._order)

    @property
    def num_reference_tokens(self) -> int:
        """Tokens that the reference reads: each pair once, however often it is learnt from."""
        return sum(self._pairs[index].num_tokens for index in self._read)

    def num_tokens(self, first: int, last: int) -> int:
        """Tokens of the pairs at these positions, both sequences of each."""
        return sum(self._pairs[index].num_tokens for index in self._order[first:last])

    def trainer(self, apprentice: Apprentice, first: int, check: Callable[[], None]) -> DPOTrainer:
        """Of the pairs from one position on."""
        rows = [self._pairs[index] for index in self._order[first:]]
        trainer = QuietTrainer(
            model=apprentice.model,
            args=DPOConfig(
                **apprentice.arguments,
                beta=self._beta,
                loss_type=[self._loss_type],
                precompute_ref_log_probs=True,
                max_length=None,
                disable_dropout=False,  # the adapter's, the only one: what the spec says of it holds
            ),
            train_dataset=_dataset(rows[:1]),  # the rows follow with what the reference says of them
            processing_class=apprentice.tokenizer,
            optimizers=apprentice.optimizers,
            callbacks=apprentice.callbacks,
        )
        if self._reference is None:
            self._reference = self._referred(trainer, apprentice, check)
        places = {index: place for place, index in enumerate(self._read)}
        found = self._reference[[places[index] for index in self._order[first:]]]
        trainer.train_dataset = _dataset(rows, found)
        return trainer

    def measure(self, model: torch.nn.Module, world: World, check: Callable[[], None]) -> Mapping[str, float]:
        """The loss of the held-out pairs; how much more the chosen answer is rewarded, and how often.

        ``likelier_chosen`` is the share of pairs whose chosen answer the model itself finds likelier; of the base it is the
        only one that says something, for the base's rewards are all 0.
        """
        found = torch.zeros(len(self._held_out), 2, dtype=torch.float64)
        for first, batch in in_batches(self._held_out, self._micro_batch, world, check):
            found[first : first + len(batch)] = _log_probabilities(model, batch, self._padding)
        found = shares_together(found, world)
        if not torch.isfinite(found).all():
            place = self._held_out[int((~torch.isfinite(found)).any(1).nonzero()[0])].place
            raise StepError(
                f"{self._subject}: the log-probability of an answer in {place} is not a finite number: the weights are broken "
                "(a base that holds no numbers, or a training that diverged: lower optimizer.lr)"
            )
        if self._held_out_reference is None:
            self._held_out_reference = found
        gained = found - self._held_out_reference
        rewards = self._beta * gained
        return {
            LOSS: float(self._losses(gained).mean()),
            "reward_margin": float((rewards[:, 0] - rewards[:, 1]).mean()),
            "reward_accuracy": float((rewards[:, 0] > rewards[:, 1]).double().mean()),
            "chosen_reward": float(rewards[:, 0].mean()),
            "rejected_reward": float(rewards[:, 1].mean()),
            "likelier_chosen": float((found[:, 0] > found[:, 1]).double().mean()),
        }

    def state(self) -> Mapping[str, Mapping[str, torch.Tensor]]:
        """What the base said of the pairs."""
        return {} if self._reference is None else {REFERENCE: {"log_probabilities": self._reference}}

    def take_up(self, groups: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
        """What the base said of the pairs, when it was there."""
        self._reference = groups[REFERENCE]["log_probabilities"]

    @torch.no_grad()
    def _referred(self, trainer: DPOTrainer, apprentice: Apprentice, check: Callable[[], None]) -> torch.Tensor:
        """How likely the base finds both answers of each pair that is read: float32, [pairs, 2]."""
        model, pairs = apprentice.model, [self._pairs[index] for index in self._read]
        was_training = model.training
        model.eval()
        found = torch.zeros(len(pairs), 2)
        for first, batch in in_batches(pairs, self._micro_batch, apprentice.world, check):
            inputs = {name: value.to(trainer.accelerator.device) for name, value in trainer.data_collator(_rows(batch)).items()}
            chosen, rejected = trainer.compute_ref_log_probs(model, inputs)
            both = torch.stack([chosen, rejected], 1).float().cpu()
            if not torch.isfinite(both).all():
                place = batch[int((~torch.isfinite(both)).any(1).nonzero()[0])].place
                raise StepError(
                    f"{self._subject}: the base finds an answer in {place} impossible, or its weights are no numbers"
                )
            found[first : first + len(batch)] = both
        model.train(was_training)
        return shares_together(found, apprentice.world)

    def _losses(self, gained: torch.Tensor) -> torch.Tensor:
        """TRL's loss of each held-out pair, from how much likelier its answers became, as logarithms."""
        margin = gained[:, 0] - gained[:, 1]
        if self._loss_type == "hinge":
            return relu(1 - self._beta * margin)
        if self._loss_type == "ipo":
            lengths = torch.tensor([[len(pair.chosen), len(pair.rejected)] for pair in self._held_out])
            per_token = gained / lengths
            return (per_token[:, 0] - per_token[:, 1] - 1 / (2 * self._beta)) ** 2
        return -logsigmoid(self._beta * margin)


def _rows(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """As TRL's collator takes them."""
    return [
        {"prompt_ids": list(each.prompt), "chosen_ids": list(each.chosen), "rejected_ids": list(each.rejected)}
        for each in pairs
    ]


def _dataset(pairs: Sequence[Pair], reference: torch.Tensor | None = None) -> Dataset:
    columns: dict[str, Any] = {
        "prompt_ids": [list(each.prompt) for each in pairs],
        "chosen_ids": [list(each.chosen) for each in pairs],
        "rejected_ids": [list(each.rejected) for each in pairs],
    }
    if reference is not None:
        columns |= {"ref_chosen_logps": reference[:, 0].tolist(), "ref_rejected_logps": reference[:, 1].tolist()}
    return Dataset.from_dict(columns)


def _log_probabilities(model: torch.nn.Module, pairs: Sequence[Pair], padding: int) -> torch.Tensor:
    """Of both answers of each pair, summed over their tokens: float64, [pairs, 2]."""
    device = next(model.parameters()).device
    ids, labels, mask = sequences_of(pairs, padding)
    logits = model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits[:, :-1].float()
    targets = labels[:, 1:].to(device)
    counted = targets != NO_LABEL
    each = logits.log_softmax(-1).gather(-1, targets.masked_fill(~counted, 0).unsqueeze(-1)).squeeze(-1)
    summed: torch.Tensor = (each.double() * counted).sum(1).view(2, len(pairs)).T.cpu()
    return summed
