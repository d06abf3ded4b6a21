"""The training loop of the nanotron backend: what ``train.loop`` is for the torch backend, by the same rules.

Rules:
1. A step reads only weights, optimiser state, its position and the seed; so a resumed run takes the same steps.
2. Nothing that is not finite reaches the weights.
3. All ranks agree on stopping, because the request to stop travels with the loss of the same step, and between two rounds of
   a validation in a sum of its own.
4. A checkpoint holds whole tensors under Hugging Face's names in the form of the torch backend's: safetensors and JSON, shown
   at once, read only where the bytes are those of its manifest. Nothing of nanotron's own format is written or unpickled.
5. The state before the decay, and at each step where a branch leaves this run, is kept where another run may go on from it,
   as the torch backend keeps it.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from forge.contract.checkpoints import BEFORE_DECAY, CHECKPOINTS
from forge.contract.messages import Continued
from forge.errors import StepError
from forge.plan.compute import flops_per_token
from forge.steps.interruption import StoppedError, StopReason, StopRequest
from forge.steps.nanotron.batches import padded_validation_batches, training_batches
from forge.steps.nanotron.engine import Engine
from forge.steps.train.checkpoint import (
    Checkpoint,
    CheckpointState,
    copy_checkpoint,
    find_kept,
    load_checkpoint,
    load_newest,
    remove_before,
    save_named,
)
from forge.steps.train.continuation import continued_from, open_continuation
from forge.steps.train.data import Corpus
from forge.steps.train.distributed import World, sum_values, text_of_main
from forge.steps.train.job import TrainJob
from forge.steps.train.keeping import back_to, not_kept
from forge.steps.train.loop import Measured, Outcome, Validation
from forge.steps.train.rise import Losses, NotFiniteError, has_risen, is_calm, risen_error
from forge.steps.train.schedule import learning_rate
from forge.steps.train.throughput import Throughput, memory_bytes

Emit = Callable[..., None]


@dataclass
class _Progress:
    """Where the training stands."""

    step: int = 0
    train_loss: float = math.nan
    losses: Losses = field(default_factory=Losses)
    previous_checkpoint: int | None = None
    good_checkpoint: int | None = None
    """The newest that a later loss spoke well of."""
    continued: Continued | None = None


@dataclass
class Loop:
    """One rank's engine on its way from the first step, or the last checkpoint, to the end."""

    job: TrainJob
    corpus: Corpus
    world: World
    engine: Engine
    environment: dict[str, str]
    """What the bits of a step depend on beside its key; a checkpoint of another one is refused."""
    scratch: Path
    emit: Emit
    progress: _Progress = field(default_factory=_Progress)
    stalled_seconds: float = 0.0
    """How long the training has waited for checkpoints."""

    def fit(self, stop: StopRequest) -> Outcome:
        """Train to the end; raises ``StepError`` for a loss that is not finite, ``StoppedError`` for a request to stop."""
        job = self.job
        resumed_from = self._resume()
        clock = Throughput()
        with stop.deferred():
            if resumed_from and resumed_from in job.kept_steps:
                self._keep()
            try:
                self._train(stop, clock)
            except NotFiniteError as error:
                if not job.searched:
                    raise
                self._emit_progress(message=error.end_of_trial())
            measured = self._validate(stop)
        progress = self.progress
        return Outcome(
            progress.train_loss,
            progress.step,
            None,
            Measured(measured, None),
            resumed_from,
            clock.tokens_per_second,
            progress.continued,
            self.stalled_seconds,
            (),  # a checkpoint of another layout is refused
        )

    def _train(self, stop: StopRequest, clock: Throughput) -> None:
        """All steps that are left."""
        job = self.job
        while self.progress.step < job.total_steps:
            clock.start()
            reason = self._step(stop, clock)
            clock.stop(job.training.batch_tokens)
            step = self.progress.step
            if step in job.kept_steps:
                self._keep()
            if reason:
                self._end_here(reason)
            if step % job.checkpoint_every_steps == 0 or step == job.total_steps:
                self._checkpoint()
            if step % job.validate_every_steps == 0 and step < job.total_steps:
                self._validate(stop)

    def leave_checkpoints(self, place: Callable[[str], Path]) -> None:
        """Make the by-products on rank 0: the checkpoints that other runs may go on from, where sound ones are kept."""

        def say(text: str) -> None:
            self._emit_progress(message=text)

        for step, name in self.job.kept_steps.items():
            kept = self._kept(step, say)
            if kept is not None:
                copy_checkpoint(kept, place(name))
            else:
                say(not_kept(self.job, step))

    def _step(self, stop: StopRequest, clock: Throughput) -> StopReason | None:
        """One optimiser step; returns why to stop, or None."""
        job, training, step = self.job, self.job.training, self.progress.step
        way = job.way_of(step)
        rate = learning_rate(way.schedule, way.optimizer.lr, step, training.batch_tokens, way.total_tokens)
        batches = training_batches(job, self.corpus.train, step, self.engine.place.copy)
        own_loss, norm = self.engine.step(batches, way.optimizer, rate)
        asked = stop.reason
        loss, *askers = sum_values([own_loss, *(float(asked is each) for each in StopReason)], self.world)
        if not math.isfinite(loss) or not math.isfinite(norm):
            what = f"the loss is {loss} and the gradient norm {norm} (learning rate {rate:.3g})"
            raise NotFiniteError(job, step + 1, what)
        self._watch(step + 1, loss, rate)
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
            )
        return _first_reason(askers)

    def _watch(self, step: int, loss: float, rate: float) -> None:
        """Remember the loss of a step (from 1), and what it says of the last checkpoint; raises ``StepError`` for a rise."""
        limit, progress = self.job.training.max_loss_rise, self.progress
        progress.losses = progress.losses.then(loss)
        if has_risen(progress.losses, limit):
            folder, good = self.scratch / CHECKPOINTS, progress.good_checkpoint
            kept = None if good is None else back_to(folder, good, progress.step, is_main=self.world.is_main)
            raise risen_error(self.job, step, progress.losses, rate, kept)
        if is_calm(progress.losses, limit):
            progress.good_checkpoint = progress.previous_checkpoint

    def _end_here(self, reason: StopReason) -> None:
        """Leave a checkpoint of the present step, and stop."""
        if self.progress.previous_checkpoint != self.progress.step:
            self._checkpoint()
        raise StoppedError(
            f"stopped by {reason} after step {self.progress.step} of {self.job.total_steps}; a checkpoint is written"
        )

    @torch.no_grad()
    def _validate(self, stop: StopRequest) -> Validation:
        """Measure the whole validation split, each copy of the model its share of the batches, and say so."""
        job, tokens, place = self.job, self.corpus.validation, self.engine.place
        batches = list(padded_validation_batches(tokens, job.training.sequence_length, job.micro_batch_sequences))
        summed = 0.0
        for first in range(0, len(batches), job.copies):
            asked = stop.reason
            reason = _first_reason(sum_values([float(asked is each) for each in StopReason], self.world))
            if reason:
                self._end_here(reason)
            if first + place.copy < len(batches):
                summed += self.engine.summed_loss(batches[first + place.copy])
        summed = sum_values([summed], self.world)[0]
        count = sum(int(each.counts.sum()) for each in batches)
        result = Validation(summed / count, summed / math.log(2) / tokens.split.bytes, None)
        self._emit_progress(message="validation", loss=result.loss, bits_per_byte=result.bits_per_byte)
        return result

    def _checkpoint(self) -> None:
        """Write a checkpoint of the present step and remove those before the one before it."""
        folder, started = self.scratch / CHECKPOINTS, time.perf_counter()
        path = self._save(folder)
        if path is not None and self.progress.previous_checkpoint is not None:
            remove_before(folder, self.progress.previous_checkpoint, self.progress.good_checkpoint)
        stalled = time.perf_counter() - started
        self.stalled_seconds += stalled
        if path is not None:
            self._emit_progress(message=f"checkpoint {path.name}", checkpoint_stall_seconds=stalled)
        self.progress.previous_checkpoint = self.progress.step

    def _keep(self) -> None:
        """Write the checkpoint of the present step that another run may go on from, unless a sound one lies there."""
        kept = self.world.is_main and self._kept(self.progress.step, lambda _: None) is not None
        if not text_of_main("kept" if kept else "", self.world):
            self._save(self.scratch / BEFORE_DECAY)

    def _kept(self, step: int, report: Callable[[str], None]) -> Path | None:
        return find_kept(self.scratch / BEFORE_DECAY, step, self.job.key, self.environment, report)

    def _save(self, folder: Path) -> Path | None:
        """Bring the shards together and write them on rank 0; every rank has to call it, and fails where rank 0 does."""
        groups = {"model": self.engine.weights(), "optimizer": self.engine.moments(), "rng": {"cpu": torch.get_rng_state()}}
        if not self.world.is_main:
            return None
        state = CheckpointState(
            key=self.job.key,
            attempt=self.job.attempt,
            step=self.progress.step,
            tokens=self.progress.step * self.job.training.batch_tokens,
            sequences=self.progress.step * self.job.batch_sequences,
            train_loss=self.progress.train_loss,
            environment=self.environment,
            lineage=self.job.lineage,
            training_tokens=self.job.training.tokens,
            continued=self.progress.continued,
            lowest_mean_loss=self.progress.losses.lowest_mean,
            recent_losses=self.progress.losses.recent,
            good_checkpoint=self.progress.good_checkpoint,
            inputs=self.job.inputs,
        )
        return save_named(self.job.subject, folder, state, groups)

    def _find_start(self) -> tuple[Checkpoint | None, Continued | None]:
        """The furthest checkpoint to go on from: this run's own, or that of the run it continues; and what it descends from."""
        folder, job = self.scratch / CHECKPOINTS, self.job
        own = load_newest(folder, job.key, self.environment, lambda text: self.emit(message=text), job.inputs)
        if self.job.continues is not None:
            try:
                beyond = 0 if own is None else own.state.step
                other = open_continuation(self.job, self.job.continues, self.environment, beyond)
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
        self.engine.load(checkpoint.groups["model"], checkpoint.groups["optimizer"])
        torch.set_rng_state(checkpoint.groups["rng"]["cpu"])
        own = state.key == self.job.key
        self.progress = _Progress(
            state.step,
            state.train_loss,
            Losses(state.recent_losses, state.lowest_mean_loss),
            state.step if own else None,
            state.good_checkpoint if own else None,
            continued,
        )
        source = checkpoint.path.name if own else f"of step {state.step} of step key {state.key}"
        self._emit_progress(message=f"resumed from checkpoint {source}")
        return state.step

    def _emit_progress(self, **fields: Any) -> None:
        step = self.progress.step
        self.emit(step=step, tokens=step * self.job.training.batch_tokens, fraction=step / self.job.total_steps, **fields)


def _first_reason(askers: list[float]) -> StopReason | None:
    """The reason that any rank has, from the sums over all ranks."""
    return next((each for each, count in zip(StopReason, askers, strict=True) if count), None)
