"""The training loop: optimiser steps, validations, checkpoints and events, from wherever the last checkpoint stands.

Rules:
1. A step reads only weights, optimiser state, its position and the seed; so a resumed run takes the same steps.
2. Nothing that is not finite reaches the weights: loss and gradient norm are checked before the optimiser steps. A loss that
   has risen too far (``rise``) ends the training too: what follows would be spent on a model that is lost. A trial of a search
   ends there as well, but that is a result: its weights are measured like any other's.
3. All ranks agree on stopping, because the request to stop travels with the loss of the same step, and between two
   batches of a validation in a sum of its own.
4. Validation and checkpoints (``keeping``) depend on the step number alone and change no state of the training.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any

import torch

from forge.contract.messages import Continued
from forge.plan.compute import flops_per_token
from forge.steps.interruption import StoppedError, StopReason, StopRequest
from forge.steps.train.balance import Balance, Load, split
from forge.steps.train.data import Batch, Corpus, Replay, TokenFile, training_batch, validation_batches
from forge.steps.train.distributed import World, first_reason, reason_of_any, sum_values
from forge.steps.train.job import TrainJob
from forge.steps.train.keeping import Keeper, Progress
from forge.steps.train.model import LlamaForCausalLM
from forge.steps.train.optimizer import follow
from forge.steps.train.rise import NotFiniteError, has_risen, is_calm, risen_error
from forge.steps.train.schedule import learning_rate
from forge.steps.train.sharding import clip_gradients
from forge.steps.train.summing import GradientSum
from forge.steps.train.throughput import Throughput, memory_bytes

Emit = Callable[..., None]


@dataclass(frozen=True)
class Validation:
    """What a model makes of the whole validation split."""

    loss: float
    """Nats per token."""
    bits_per_byte: float
    load: Load | None
    """Of the experts; None for a model without."""

    def figures(self) -> dict[str, float | int]:
        """As an event has them."""
        routed = {} if self.load is None else self.load.figures()
        return {"loss": self.loss, "bits_per_byte": self.bits_per_byte, **routed}


@dataclass(frozen=True)
class Measured:
    """What a model makes of each validation split that it is held against."""

    data: Validation
    replay: Validation | None
    """Of the replayed data: forgetting shows here."""

    def named(self, message: str) -> Iterator[tuple[str, Validation]]:
        """Each, with what an event calls it."""
        yield message, self.data
        if self.replay is not None:
            yield f"{message}, replayed data", self.replay


@dataclass(frozen=True)
class Outcome:
    """What a finished loop has to say."""

    train_loss: float
    """Nats per token of the last step."""
    steps: int
    """All of them, but for a trial of a search that diverged."""
    base: Measured | None
    """What the base makes of the same splits, before the first step; None where there is no base."""
    measured: Measured
    resumed_from_step: int
    """0 for a run from scratch."""
    tokens_per_second: float
    """Of the steps of this attempt, validations and checkpoints not counted."""
    continued: Continued | None
    """The run that this one continued, in this attempt or an earlier one."""
    checkpoint_stall_seconds: float
    """How long the steps of this attempt have waited for checkpoints."""
    earlier_topologies: tuple[str, ...]
    """How the training was spread before, where that changed on the way."""


@dataclass
class Trainer:
    """One rank's model and optimiser on their way from the first step, or the last checkpoint, to the end."""

    job: TrainJob
    corpus: Corpus
    world: World
    model: LlamaForCausalLM
    optimizer: torch.optim.Optimizer
    keeper: Keeper
    emit: Emit
    replay: Corpus | None = None
    """The data that is replayed, where ``job.replay_fraction`` says how much."""
    progress: Progress = field(default_factory=Progress)

    def fit(self, stop: StopRequest) -> Outcome:
        """Train to the end; raises ``StepError`` for a loss that is not finite, ``StoppedError`` for a request to stop."""
        job = self.job
        base = None
        if job.base is not None:  # before a checkpoint is taken up: the weights are still the base's
            with stop.deferred():
                base = self._measure_base(stop)
        self.progress, message = self.keeper.take_up()
        if message:
            self._emit_progress(message=message)
        resumed_from = self.progress.step
        clock = Throughput()
        with stop.deferred():
            try:
                try:
                    self._train(stop, clock, resumed_from)
                except NotFiniteError as error:
                    if not job.searched:
                        raise
                    self._emit_progress(message=error.end_of_trial())
                measured = self._validate(stop)
                self._tell_dead_experts(measured.data.load)
            finally:
                self.keeper.finish()  # every rank comes by here, and what was begun is whole or it is not there
        progress = self.progress
        return Outcome(
            progress.train_loss,
            progress.step,
            base,
            measured,
            resumed_from,
            clock.tokens_per_second,
            progress.continued,
            self.keeper.stalled_seconds,
            progress.earlier_topologies,
        )

    def _tell_dead_experts(self, load: Load | None) -> None:
        """Say which part of a mixture of experts was learnt for nothing."""
        if load is not None and load.dead_experts:
            self._emit_progress(
                message=f"{load.dead_experts} of the {sum(map(len, load.assignments))} experts of all layers were chosen by no "
                "token of the validation data; raise architecture.experts.router_aux_loss_coef, or take fewer experts"
            )

    def _train(self, stop: StopRequest, clock: Throughput, resumed_from: int) -> None:
        """All steps that are left."""
        job = self.job
        if resumed_from and resumed_from in job.kept_steps:
            self.keeper.keep(self.progress)
        while self.progress.step < job.total_steps:
            clock.start()
            reason = self._step(stop, clock)
            clock.stop(job.training.batch_tokens)
            step = self.progress.step
            self.keeper.poll()
            if step in job.kept_steps:
                self.keeper.keep(self.progress)
            if reason:
                self._end_here(reason)
            if step % job.checkpoint_every_steps == 0 or step == job.total_steps:
                self.keeper.write(self.progress)
            if step % job.validate_every_steps == 0 and step < job.total_steps:
                self._validate(stop)

    def _step(self, stop: StopRequest, clock: Throughput) -> StopReason | None:
        """One optimiser step; returns why to stop, or None."""
        job, training, step = self.job, self.job.training, self.progress.step
        way = job.way_of(step)
        rate = learning_rate(way.schedule, way.optimizer.lr, step, training.batch_tokens, way.total_tokens)
        follow(self.optimizer, way.optimizer, rate)
        self.optimizer.zero_grad(set_to_none=True)
        balance = Balance(job.architecture, training.batch_tokens, self.world)
        summed_loss = self._accumulate(step * job.batch_sequences + self.world.data_rank * job.process_sequences, balance)
        load = balance.load()
        asked = stop.reason
        summed_loss, *askers = sum_values([summed_loss, *(float(asked is each) for each in StopReason)], self.world)
        loss = summed_loss / training.batch_tokens
        norm = clip_gradients(self.model, way.optimizer.gradient_clip_norm, self.world)
        if not math.isfinite(loss) or not math.isfinite(norm) or (load and not math.isfinite(load.aux_loss)):
            balancing = "" if load is None else f" (load-balancing loss {load.aux_loss})"
            what = f"the loss is {loss} and the gradient norm {norm}{balancing} (learning rate {rate:.3g})"
            raise NotFiniteError(job, step + 1, what)
        self._watch(step + 1, loss, rate)
        self.optimizer.step()
        self.progress.step, self.progress.train_loss = step + 1, loss
        if clock.event_is_due() or step + 1 in {1, job.total_steps}:
            tokens_per_second = clock.recent_tokens_per_second(training.batch_tokens)
            rows = job.rows_for(self.corpus.meta.vocab_size)
            per_token = flops_per_token(job.architecture, rows, training.sequence_length)
            self._emit_progress(
                loss=loss,
                learning_rate=rate,
                gradient_norm=norm,
                tokens_per_second=tokens_per_second,
                flops_per_second=tokens_per_second * per_token,
                memory_bytes=memory_bytes(self.world.device),
                **({} if load is None else load.figures()),
            )
        return first_reason(askers)

    def _watch(self, step: int, loss: float, rate: float) -> None:
        """Remember the loss of a step (from 1), and what it says of the last checkpoint; raises ``StepError`` for a rise."""
        limit, progress = self.job.training.max_loss_rise, self.progress
        progress.losses = progress.losses.then(loss)
        if has_risen(progress.losses, limit):
            raise risen_error(self.job, step, progress.losses, rate, self.keeper.go_back(progress))
        if is_calm(progress.losses, limit):
            progress.good_checkpoint = progress.previous_checkpoint

    def _end_here(self, reason: StopReason) -> None:
        """Leave a checkpoint of the present step, and stop."""
        if not self.progress.step:  # the base was being measured: what earlier attempts left is as it was
            raise StoppedError(f"stopped by {reason} before this attempt's first step")
        if self.progress.previous_checkpoint != self.progress.step:
            self.keeper.write(self.progress)
        self.keeper.finish()
        raise StoppedError(
            f"stopped by {reason} after step {self.progress.step} of {self.job.total_steps}; a checkpoint is written"
        )

    def _accumulate(self, position: int, balance: Balance) -> float:
        """Add up the gradients of the batch, over all shares; returns the sum of this rank's losses."""
        if balance.needs_reading_before(self.job.process_sequences // self.job.micro_batch_sequences):
            with torch.no_grad(), self._autocast():
                batches = self._micro_batches(position)
                outputs = (self.model(batch.inputs, documents_bs=batch.documents, only_routing=True) for batch in batches)
                balance.know([routing for _, routing in map(split, outputs) if routing is not None])
        losses: list[torch.Tensor] = []
        for number, batch in enumerate(self._micro_batches(position), 1):
            self._gradients.before(is_last=number * self.job.micro_batch_sequences == self.job.process_sequences)
            with self._autocast():
                output = self.model(batch.inputs, batch.targets, batch.documents)
            loss, objective = balance.objective(output)
            objective.backward()  # type: ignore[no-untyped-call, unused-ignore]
            losses.append(loss)
        self._gradients.finish()
        return float(torch.stack(losses).double().sum())

    def _micro_batches(self, position: int) -> Iterator[Batch]:
        """This rank's share of the batch that begins at a position, on the device."""
        job, training = self.job, self.job.training
        for first in range(0, job.process_sequences, job.micro_batch_sequences):
            batch = training_batch(
                self.corpus.train,
                training.sequence_length,
                training.seed,
                position + first,
                job.micro_batch_sequences,
                self._replay,
            )
            yield self._laid_out(batch)

    def _laid_out(self, batch: Batch) -> Batch:
        """On the device, its documents apart where the training asks for it."""
        apart = self.job.training.intra_document_masking
        return (batch.apart(self.corpus.meta.eos_token_id) if apart else batch).to(self.world.device)

    @cached_property
    def _gradients(self) -> GradientSum:
        return GradientSum(self.model, self.world)

    @cached_property
    def _replay(self) -> Replay | None:
        fraction = self.job.replay_fraction
        return None if self.replay is None or fraction is None else Replay(self.replay.train, fraction)

    def _validate(self, stop: StopRequest) -> Measured:
        """Measure every validation split, and say so."""
        measured = self._measure(stop)
        for message, result in measured.named("validation"):
            self._emit_progress(message=message, **result.figures())
        return measured

    def _measure_base(self, stop: StopRequest) -> Measured:
        """The same of the base's weights; told without a position, for it is no point of this run's curve."""
        measured = self._measure(stop)
        for message, result in measured.named("validation of the base"):
            self.emit(message=message, **result.figures())
        return measured

    def _measure(self, stop: StopRequest) -> Measured:
        data = self._validate_on(self.corpus.validation, stop)
        return Measured(data, None if self.replay is None else self._validate_on(self.replay.validation, stop))

    @torch.no_grad()
    def _validate_on(self, tokens: TokenFile, stop: StopRequest) -> Validation:
        summed, count = 0.0, 0
        balance = Balance(self.job.architecture, len(tokens), self.world)
        batches = validation_batches(tokens, self.job.training.sequence_length, self.job.training.micro_batch_sequences)
        while shares := list(islice(batches, self.world.data_size)):
            reason = reason_of_any(stop.reason, self.world)
            if reason:
                self._end_here(reason)
            count += sum(batch.targets.numel() for batch in shares)
            # Whoever has no share left computes another's: a model in slices needs every rank for each forward pass.
            has_share = self.world.data_rank < len(shares)
            there = self._laid_out(shares[self.world.data_rank if has_share else 0])
            with self._autocast():
                output = self.model(there.inputs, there.targets, there.documents)
            if has_share:
                summed += float(balance.measure(output))
        summed = sum_values([summed], self.world)[0]
        return Validation(summed / count, _bits_per_byte(summed, tokens), balance.load())

    def _autocast(self) -> torch.autocast:
        return self.world.autocast(self.job.training.precision)

    def _emit_progress(self, **fields: Any) -> None:
        step = self.progress.step
        self.emit(step=step, tokens=step * self.job.training.batch_tokens, fraction=step / self.job.total_steps, **fields)


def _bits_per_byte(summed_nats: float, tokens: TokenFile) -> float:
    return summed_nats / math.log(2) / tokens.split.bytes
