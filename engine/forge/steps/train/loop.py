"""The training loop: optimiser steps, validations, checkpoints and events, from wherever the last checkpoint stands.

Rules:
1. A step reads only weights, optimiser state, its position and the seed; so a resumed run takes the same steps.
2. Nothing that is not finite reaches the weights: loss and gradient norm are checked before the optimiser steps.
3. All ranks agree on stopping, because the request to stop travels with the loss of the same step, and between two
   batches of a validation in a sum of its own.
4. Validation and checkpoints depend on the step number alone and change no state of the training.
5. The state at the last step that a longer run shares (``spec.extend``) is written once to a folder that no rotation
   touches; at the end it becomes the by-product ``checkpoint``. Where a resumed run finds no sound one, there is none.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils import clip_grad_norm_, get_total_norm

from forge.contract.checkpoints import BEFORE_DECAY, CHECKPOINTS
from forge.contract.messages import Continued
from forge.errors import StepError
from forge.plan.compute import flops_per_token
from forge.steps.interruption import StoppedError, StopReason, StopRequest
from forge.steps.train.balance import Balance, Load, split
from forge.steps.train.checkpoint import (
    Checkpoint,
    CheckpointState,
    copy_checkpoint,
    find_kept,
    load_checkpoint,
    load_newest,
    remove_before,
    save_checkpoint,
)
from forge.steps.train.continuation import continued_from, open_continuation
from forge.steps.train.data import Batch, Corpus, Replay, TokenFile, training_batch, validation_batches
from forge.steps.train.distributed import World, sum_gradients, sum_values, text_of_main
from forge.steps.train.job import TrainJob
from forge.steps.train.model import LlamaForCausalLM
from forge.steps.train.optimizer import load_optimizer_tensors, optimizer_tensors, set_learning_rate
from forge.steps.train.schedule import learning_rate
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
    base: Measured | None
    """What the base makes of the same splits, before the first step; None where there is no base."""
    measured: Measured
    resumed_from_step: int
    """0 for a run from scratch."""
    tokens_per_second: float
    """Of the steps of this attempt, validations and checkpoints not counted."""
    continued: Continued | None
    """The run that this one continued, in this attempt or an earlier one."""


@dataclass
class _Progress:
    """Where the training stands."""

    step: int = 0
    train_loss: float = math.nan
    previous_checkpoint: int | None = None
    continued: Continued | None = None


@dataclass
class Trainer:
    """One rank's model and optimiser on their way from the first step, or the last checkpoint, to the end."""

    job: TrainJob
    corpus: Corpus
    world: World
    model: LlamaForCausalLM
    optimizer: torch.optim.Optimizer
    scratch: Path
    emit: Emit
    replay: Corpus | None = None
    """The data that is replayed, where ``job.replay_fraction`` says how much."""
    progress: _Progress = field(default_factory=_Progress)

    def fit(self, stop: StopRequest) -> Outcome:
        """Train to the end; raises ``StepError`` for a loss that is not finite, ``StoppedError`` for a request to stop."""
        job = self.job
        base = None
        if job.base is not None:  # before a checkpoint is taken up: the weights are still the base's
            with stop.deferred():
                base = self._measure_base(stop)
        resumed_from = self._resume()
        clock = Throughput()
        with stop.deferred():
            if resumed_from and resumed_from == job.kept_step:
                self._keep()
            while self.progress.step < job.total_steps:
                clock.start()
                reason = self._step(stop, clock)
                clock.stop(job.training.batch_tokens)
                step = self.progress.step
                if step == job.kept_step:
                    self._keep()
                if reason:
                    self._end_here(reason)
                if step % job.checkpoint_every_steps == 0 or step == job.total_steps:
                    self._checkpoint()
                if step % job.validate_every_steps == 0 and step < job.total_steps:
                    self._validate(stop)
            measured = self._validate(stop)
            self._tell_dead_experts(measured.data.load)
        progress = self.progress
        return Outcome(progress.train_loss, base, measured, resumed_from, clock.tokens_per_second, progress.continued)

    def _tell_dead_experts(self, load: Load | None) -> None:
        """Say which part of a mixture of experts was learnt for nothing."""
        if load is not None and load.dead_experts:
            self._emit_progress(
                message=f"{load.dead_experts} of the {sum(map(len, load.assignments))} experts of all layers were chosen by no "
                "token of the validation data; raise architecture.experts.router_aux_loss_coef, or take fewer experts"
            )

    def leave_checkpoint(self, folder: Path) -> None:
        """Make the by-product: the checkpoint from before the decay, if a sound one is kept."""
        step = self.job.kept_step
        kept = self._kept(lambda text: self._emit_progress(message=text))
        if kept is not None:
            copy_checkpoint(kept, folder)
        elif step:
            self._emit_progress(
                message=f"no checkpoint from before the decay (step {step}) is kept: a run of more tokens starts from scratch"
            )

    def _step(self, stop: StopRequest, clock: Throughput) -> StopReason | None:
        """One optimiser step; returns why to stop, or None."""
        job, training, step = self.job, self.job.training, self.progress.step
        rate = learning_rate(training.schedule, training.optimizer.lr, step, training.batch_tokens, job.total_tokens)
        set_learning_rate(self.optimizer, rate)
        self.optimizer.zero_grad(set_to_none=True)
        balance = Balance(job.architecture, training.batch_tokens, self.world)
        summed_loss = self._accumulate(step * job.batch_sequences + self.world.rank * job.process_sequences, balance)
        load = balance.load()
        asked = stop.reason
        summed_loss, *askers = sum_values([summed_loss, *(float(asked is each) for each in StopReason)], self.world)
        loss = summed_loss / training.batch_tokens
        sum_gradients(self.model.parameters(), self.world)
        norm = self._clip()
        if not math.isfinite(loss) or not math.isfinite(norm) or (load and not math.isfinite(load.aux_loss)):
            balancing = "" if load is None else f" (load-balancing loss {load.aux_loss})"
            raise StepError(
                f"{job.subject}: at step {step + 1} of {job.total_steps} the loss is {loss} and the gradient norm {norm}"
                f"{balancing}; expected finite numbers (learning rate {rate:.3g}). The weights before this step are kept in "
                "the last checkpoint; lower optimizer.lr, lengthen schedule.warmup_tokens or set optimizer.gradient_clip_norm"
            )
        self.optimizer.step()
        self.progress.step, self.progress.train_loss = step + 1, loss
        if clock.event_is_due() or step + 1 in {1, job.total_steps}:
            tokens_per_second = clock.recent_tokens_per_second(training.batch_tokens)
            per_token = flops_per_token(job.architecture, self.corpus.meta.vocab_size, training.sequence_length)
            self._emit_progress(
                loss=loss,
                learning_rate=rate,
                gradient_norm=norm,
                tokens_per_second=tokens_per_second,
                flops_per_second=tokens_per_second * per_token,
                memory_bytes=memory_bytes(self.world.device),
                **({} if load is None else load.figures()),
            )
        return _first_reason(askers)

    def _end_here(self, reason: StopReason) -> None:
        """Leave a checkpoint of the present step, and stop."""
        if not self.progress.step:  # the base was being measured: what earlier attempts left is as it was
            raise StoppedError(f"stopped by {reason} before this attempt's first step")
        if self.progress.previous_checkpoint != self.progress.step:
            self._checkpoint()
        raise StoppedError(
            f"stopped by {reason} after step {self.progress.step} of {self.job.total_steps}; a checkpoint is written"
        )

    def _accumulate(self, position: int, balance: Balance) -> float:
        """Add up the gradients of this rank's share of the batch; returns the sum of its losses."""
        if balance.needs_reading_before(self.job.process_sequences // self.job.micro_batch_sequences):
            with torch.no_grad(), self._autocast():
                batches = self._micro_batches(position)
                outputs = (self.model(batch.inputs, documents_bs=batch.documents, only_routing=True) for batch in batches)
                balance.know([routing for _, routing in map(split, outputs) if routing is not None])
        losses: list[torch.Tensor] = []
        for batch in self._micro_batches(position):
            with self._autocast():
                output = self.model(batch.inputs, batch.targets, batch.documents)
            loss, objective = balance.objective(output)
            objective.backward()  # type: ignore[no-untyped-call, unused-ignore]
            losses.append(loss)
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

    def _clip(self) -> float:
        limit = self.job.training.optimizer.gradient_clip_norm
        if limit is None:
            gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
            return float(get_total_norm(gradients))
        return float(clip_grad_norm_(self.model.parameters(), limit))

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
        for index, batch in enumerate(batches):
            if index % self.world.size == 0:
                asked = stop.reason
                reason = _first_reason(sum_values([float(asked is each) for each in StopReason], self.world))
                if reason:
                    self._end_here(reason)
            count += batch.targets.numel()
            if index % self.world.size == self.world.rank:
                there = self._laid_out(batch)
                with self._autocast():
                    summed += float(balance.measure(self.model(there.inputs, there.targets, there.documents)))
        summed = sum_values([summed], self.world)[0]
        return Validation(summed / count, _bits_per_byte(summed, tokens), balance.load())

    def _autocast(self) -> torch.autocast:
        enabled = self.job.training.precision == "bfloat16"
        return torch.autocast(self.world.device.type, dtype=torch.bfloat16, enabled=enabled)

    def _checkpoint(self) -> None:
        """Write a checkpoint of the present step and remove those before the one before it."""
        if self.world.is_main:
            folder = self.scratch / CHECKPOINTS
            path = self._save(folder)
            if self.progress.previous_checkpoint is not None:
                remove_before(folder, self.progress.previous_checkpoint)
            self._emit_progress(message=f"checkpoint {path.name}")
        self.progress.previous_checkpoint = self.progress.step

    def _keep(self) -> None:
        """Write the checkpoint of the present step that a longer run may go on from, unless a sound one lies there."""
        if self.world.is_main and self._kept(lambda _: None) is None:
            self._save(self.scratch / BEFORE_DECAY)

    def _kept(self, report: Callable[[str], None]) -> Path | None:
        job = self.job
        return find_kept(self.scratch / BEFORE_DECAY, job.kept_step, job.key, bit_environment(job, self.world), report)

    def _save(self, folder: Path) -> Path:
        state = CheckpointState(
            key=self.job.key,
            attempt=self.job.attempt,
            step=self.progress.step,
            tokens=self.progress.step * self.job.training.batch_tokens,
            sequences=self.progress.step * self.job.batch_sequences,
            train_loss=self.progress.train_loss,
            environment=bit_environment(self.job, self.world),
            lineage=self.job.lineage,
            training_tokens=self.job.training.tokens,
            continued=self.progress.continued,
        )
        groups = {
            "model": self.model.state_dict(),
            "optimizer": optimizer_tensors(self.model, self.optimizer),
            "rng": {"cpu": torch.get_rng_state()},
        }
        return save_checkpoint(folder, state, groups)

    def _find_start(self) -> tuple[Checkpoint | None, Continued | None]:
        """The furthest checkpoint to go on from: this run's own, or that of the run it continues; and what it descends from."""
        environment = bit_environment(self.job, self.world)
        own = load_newest(self.scratch / CHECKPOINTS, self.job.key, environment, lambda text: self.emit(message=text))
        if self.job.continues is not None:
            try:
                other = open_continuation(self.job, self.job.continues, environment, 0 if own is None else own.state.step)
            except StepError as error:
                if own is None:
                    raise
                self.emit(message=f"{error}; going on from checkpoint {own.path.name} of this run itself")
            else:
                if other is not None:
                    return other, continued_from(other, self.job.continues)
        return own, None if own is None else own.state.continued

    def _resume(self) -> int:
        """Take up the furthest checkpoint; returns its step, 0 where there is none."""
        found, continued = self._find_start() if self.world.is_main else (None, None)
        path = text_of_main("" if found is None else str(found.path), self.world)
        if not path:
            return 0
        checkpoint = found or load_checkpoint(Path(path))
        state = checkpoint.state
        if state.sequences != state.step * self.job.batch_sequences:
            raise StepError(f"checkpoint {path}: its data position {state.sequences} does not belong to step {state.step}")
        self.model.load_state_dict(checkpoint.groups["model"])
        load_optimizer_tensors(self.model, self.optimizer, checkpoint.groups["optimizer"])
        torch.set_rng_state(checkpoint.groups["rng"]["cpu"])
        own = state.key == self.job.key
        self.progress = _Progress(state.step, state.train_loss, state.step if own else None, continued)
        source = checkpoint.path.name if own else f"of step {state.step} of step key {state.key}"
        self._emit_progress(message=f"resumed from checkpoint {source}")
        return state.step

    def _emit_progress(self, **fields: Any) -> None:
        step = self.progress.step
        self.emit(step=step, tokens=step * self.job.training.batch_tokens, fraction=step / self.job.total_steps, **fields)


def bit_environment(job: TrainJob, world: World) -> dict[str, str]:
    """What the bits of a step depend on beside its key."""
    return {
        "torch": torch.__version__,
        "processor": torch.backends.cpu.get_cpu_capability(),
        "device": world.device.type,
        "threads": str(job.threads),
        "processes": str(job.processes),
    }


def _first_reason(askers: list[float]) -> StopReason | None:
    """The reason that any rank has, from the sums over all ranks."""
    return next((each for each, count in zip(StopReason, askers, strict=True) if count), None)


def _bits_per_byte(summed_nats: float, tokens: TokenFile) -> float:
    return summed_nats / math.log(2) / tokens.split.bytes
