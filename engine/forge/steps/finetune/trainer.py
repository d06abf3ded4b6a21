"""The loop of a fine-tuning: TRL's trainer of a lesson between our data order, our optimiser and our checkpoints.

What is TRL's: batches, the loss, gradient accumulation, clipping. What is ours, so that a killed run ends with the bytes of
one that was not:
1. The rows stand in reading order, and are read one after another. A resumed run is given the rows that are left.
2. The learning rate is a function of the step.
3. Checkpoints are ``steps.train.checkpoint``'s: safetensors and digests, no pickle. The Trainer's own hold three pickles.
4. Random numbers (an adapter's dropout) go on from a checkpoint at its first step, after the reader of the rows was made,
   for making it draws one.
5. Several processes (torchrun's) take the steps of one: TRL deals each batch out in order, counts the tokens of all, and sums
   gradients; rank 0 writes. All agree on stopping.
6. A loss that is not finite, or that rises far above what it was, ends the training before a checkpoint is written of it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import accelerate
import peft
import torch
import transformers
import trl
from transformers import PreTrainedTokenizerFast, PrinterCallback, TrainerCallback

from forge.contract.checkpoints import CHECKPOINTS
from forge.plan.compute import flops_per_token
from forge.steps.control_tokens import read_control_tokens
from forge.steps.finetune.lesson import LOSS, Apprentice, Lesson
from forge.steps.finetune.model import load_trained_tensors, trained_tensors
from forge.steps.interruption import StoppedError
from forge.steps.run import StepRun
from forge.steps.train.checkpoint import Checkpoint, CheckpointState, load_checkpoint, load_newest, remove_before, save_named
from forge.steps.train.distributed import World, reason_of_any, tensors_of_all, text_of_main
from forge.steps.train.experts import through_experts
from forge.steps.train.job import TrainJob
from forge.steps.train.keeping import back_to, bit_environment, topology_of
from forge.steps.train.optimizer import build_optimizer, load_optimizer_tensors, optimizer_tensors
from forge.steps.train.rise import Losses, NotFiniteError, has_risen, is_calm, risen_error
from forge.steps.train.schedule import learning_rate_fraction
from forge.steps.train.throughput import Throughput, memory_bytes


@dataclass(frozen=True)
class Outcome:
    """What a finished fine-tuning has to say; losses are its lesson's."""

    train_loss: float
    steps: int
    """All of them, but for a trial of a search that diverged."""
    base: Mapping[str, float]
    """What was measured of the base."""
    now: Mapping[str, float]
    resumed_from_step: int
    tokens_per_second: float


class Finetuning(TrainerCallback):  # type: ignore[misc, unused-ignore]
    """One run on its way from the base, or the last checkpoint, to the end."""

    def __init__(
        self, job: TrainJob, world: World, model: torch.nn.Module, vocab_size: int, lesson: Lesson, run: StepRun
    ) -> None:
        self._vocab_size = vocab_size
        self._job, self._world, self._model, self._lesson, self._run = job, world, model, lesson, run
        self._rows_of_a_step = job.batch_sequences // lesson.sequences_of_a_row
        self._optimizer = build_optimizer(model, job.training.optimizer)
        self._resumed: Checkpoint | None = None
        self._first = 0
        """The step that this attempt begins with."""
        self._step = 0
        self._written: int | None = None
        self._loss = math.nan
        self._good: int | None = None
        """The newest checkpoint that a later loss spoke well of."""
        self._losses = Losses()
        self._tokens = 0
        self._clock = Throughput()

    def fit(self) -> Outcome:
        """Train to the end; raises ``StepError`` for a loss that is not finite, ``StoppedError`` for a request to stop."""
        job, stop = self._job, self._run.stop
        with stop.deferred():
            base = self._validate("validation of the base")
            self._take_up()
            if self._first < job.total_steps:
                try:
                    self._train()
                except NotFiniteError as error:
                    if not job.searched:
                        raise
                    self._emit(message=error.end_of_trial())
            now = self._validate("validation")
        return Outcome(self._loss, self._step, base, now, self._first, self._clock.tokens_per_second)

    def on_step_begin(self, *_positional: Any, **_others: Any) -> None:
        """Put the checkpoint's numbers in place, once nothing draws any more."""
        if self._resumed is not None:
            load_trained_tensors(self._model, self._resumed.groups["model"])
            load_optimizer_tensors(self._model, self._optimizer, self._resumed.groups["optimizer"])
            self._set_random_states(self._resumed.groups["rng"])
            self._resumed = None
        self._clock.start()

    def on_pre_optimizer_step(self, _args: Any, state: Any, _control: Any, **_others: Any) -> None:
        """Before each step: end a trial whose gradient is not finite, while its weights still are."""
        gradients = (tensor.grad for tensor in self._model.parameters() if tensor.grad is not None)
        if self._job.searched and not torch.stack([gradient.isfinite().all() for gradient in gradients]).all():
            raise NotFiniteError(self._job, self._first + int(state.global_step) + 1, "the gradient is not finite")

    def on_log(self, _args: Any, state: Any, _control: Any, logs: dict[str, Any] | None = None, **_others: Any) -> None:
        """After each step: check the loss, say how far it is, leave a checkpoint where one is due."""
        if logs is None or "loss" not in logs:  # the Trainer's farewell
            return
        job = self._job
        self._loss = float(logs["loss"])
        norm = float(logs["grad_norm"]) if "grad_norm" in logs else None
        step = self._first + int(state.global_step)
        if not math.isfinite(self._loss) or not math.isfinite(norm or 0.0):
            raise NotFiniteError(job, step, f"the loss is {self._loss} and the gradient norm {norm}")
        tokens = self._lesson.num_tokens(self._step * self._rows_of_a_step, step * self._rows_of_a_step)
        rate = job.training.optimizer.lr * self._rate(step - 1)
        self._watch(step, rate)
        self._step, self._tokens = step, self._tokens + tokens
        if self._clock.event_is_due() or step in {1, job.total_steps}:
            speed = self._clock.recent_tokens_per_second(tokens)
            self._emit(
                loss=self._loss,
                learning_rate=rate,
                gradient_norm=norm,
                tokens_per_second=speed,
                flops_per_second=speed * self._flops_per_token,
                memory_bytes=memory_bytes(self._world.device),
            )
        self._clock.stop(tokens)
        reason = reason_of_any(self._run.stop.reason, self._world)
        if reason or step % job.checkpoint_every_steps == 0 or step == job.total_steps:
            self._checkpoint()
        if reason:
            raise StoppedError(f"stopped by {reason} after step {step} of {job.total_steps}; a checkpoint is written")
        if step % job.validate_every_steps == 0 and step < job.total_steps:
            self._validate("validation")

    def _watch(self, step: int, rate: float) -> None:
        """Remember the loss of a step, and what it says of the last checkpoint; raises ``StepError`` for a rise."""
        limit = self._job.training.max_loss_rise
        self._losses = self._losses.then(self._loss)
        if has_risen(self._losses, limit):
            folder, good = self._run.scratch / CHECKPOINTS, self._good
            kept = None if good is None else back_to(folder, good, self._step, is_main=self._world.is_main)
            raise risen_error(self._job, step, self._losses, rate, kept)
        if is_calm(self._losses, limit):
            self._good = self._written

    def _train(self) -> None:
        """The steps that are left, by TRL's trainer."""
        job, training = self._job, self._job.training
        arguments = {
            "output_dir": str(self._run.scratch / "trainer"),
            "per_device_train_batch_size": job.micro_batch_sequences // self._lesson.sequences_of_a_row,
            "gradient_accumulation_steps": job.process_sequences // job.micro_batch_sequences,
            "max_steps": job.total_steps - self._first,
            "max_grad_norm": training.optimizer.gradient_clip_norm or 0.0,
            "bf16": training.precision == "bfloat16",
            "use_cpu": self._world.device.type == "cpu",
            **({"ddp_backend": "gloo"} if self._world.device.type == "cpu" and self._world.size > 1 else {}),
            "ddp_find_unused_parameters": False,
            "seed": training.seed % 2**32,
            "train_sampling_strategy": "sequential",
            "gradient_checkpointing": False,
            "logging_steps": 1,
            "logging_nan_inf_filter": False,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "dataloader_pin_memory": False,
        }
        schedule = torch.optim.lr_scheduler.LambdaLR(self._optimizer, lambda step: self._rate(self._first + step))
        apprentice = Apprentice(self._model, arguments, self._tokenizer(), (self._optimizer, schedule), [self], self._world)
        trainer = self._lesson.trainer(apprentice, self._first * self._rows_of_a_step, self._check_stop)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        if self._step != job.total_steps:
            raise RuntimeError(f"{job.subject}: the trainer ended after step {self._step} of {job.total_steps}")

    def _rate(self, step: int) -> float:
        """The share of the peak rate of optimiser step ``step`` (from 0): the schedule at the middle of its places."""
        training = self._job.training
        return learning_rate_fraction(training.schedule, (step + 0.5) * training.batch_tokens, self._job.total_tokens)

    def _take_up(self) -> None:
        """Find the furthest checkpoint, which is loaded now where nothing is left to train, else at the first step."""
        found = None
        if self._world.is_main:
            job, folder = self._job, self._run.scratch / CHECKPOINTS
            found = load_newest(folder, job.key, self._environment(), lambda text: self._emit(message=text), job.inputs)
        path = text_of_main("" if found is None else str(found.path), self._world)
        if not path:
            return
        found = found or load_checkpoint(Path(path))
        load_trained_tensors(self._model, found.groups["model"])
        self._lesson.take_up(found.groups)
        self._resumed, self._first = found, found.state.step
        self._step = self._written = found.state.step
        self._loss, self._good = found.state.train_loss, found.state.good_checkpoint
        self._losses = Losses(found.state.recent_losses, found.state.lowest_mean_loss)
        self._tokens = self._lesson.num_tokens(0, self._first * self._rows_of_a_step)
        before, now = topology_of(found.state.environment), self._job.topology
        goes_on = "" if before == now else f"; it was made by {before}, this run has {now}: it goes on, but not bit for bit"
        self._emit(message=f"resumed from checkpoint {found.path.name}{goes_on}")

    def _checkpoint(self) -> None:
        job, folder = self._job, self._run.scratch / CHECKPOINTS
        state = CheckpointState(
            key=job.key,
            attempt=job.attempt,
            step=self._step,
            tokens=self._tokens,
            sequences=self._step * job.batch_sequences,
            train_loss=self._loss,
            environment=self._environment(),
            lowest_mean_loss=self._losses.lowest_mean,
            recent_losses=self._losses.recent,
            good_checkpoint=self._good,
            inputs=job.inputs,
        )
        groups = {
            "model": trained_tensors(self._model),
            "optimizer": optimizer_tensors(self._model, self._optimizer),
            "rng": self._random_states(),
            **{name: dict(tensors) for name, tensors in self._lesson.state().items()},
        }
        if self._world.is_main:
            path = save_named(job.subject, folder, state, groups)
            if self._written is not None:
                remove_before(folder, self._written, self._good)
            self._emit(message=f"checkpoint {path.name}")
        self._written = self._step

    def _random_states(self) -> dict[str, torch.Tensor]:
        """Of every rank, whose dropout has numbers of its own."""
        own = {"cpu": torch.get_rng_state()}
        if self._world.device.type == "cuda":
            own["cuda"] = torch.cuda.get_rng_state(self._world.device)
        if self._world.mesh is None:
            return own
        return {
            f"{name}.{rank}": found
            for name, state in own.items()
            for rank, found in enumerate(tensors_of_all(state, self._world))
        }

    def _set_random_states(self, states: Mapping[str, torch.Tensor]) -> None:
        """The inverse, for this rank; one that was not there draws what its seed says."""
        place = "" if self._world.mesh is None else f".{self._world.rank}"
        if f"cpu{place}" in states:
            torch.set_rng_state(states[f"cpu{place}"])
        if f"cuda{place}" in states:
            torch.cuda.set_rng_state(states[f"cuda{place}"], self._world.device)

    @torch.no_grad()
    def _validate(self, message: str) -> Mapping[str, float]:
        """What the lesson measures of its held-out rows, in the training's precision.

        TRL's trainer leaves the model in that precision once it has been made: without asking for it here, the base and a model
        that was only taken up again would be measured in float32.
        """
        was_training = self._model.training
        self._model.eval()
        with self._world.autocast(self._job.training.precision):
            found = self._lesson.measure(self._model, self._world, self._check_stop)
        self._model.train(was_training)
        self._emit(message=message, loss=found[LOSS])
        return found

    def _check_stop(self) -> None:
        """Raise ``StoppedError`` where a stop was asked for between two steps, with a checkpoint of the last one.

        All ranks have to ask together.
        """
        reason = reason_of_any(self._run.stop.reason, self._world)
        if reason:
            if self._step and self._written != self._step:
                self._checkpoint()
            raise StoppedError(f"stopped by {reason} while measuring, after step {self._step}")

    def _environment(self) -> dict[str, str]:
        libraries = {module.__name__: module.__version__ for module in (accelerate, peft, transformers, trl)}
        experts = {} if self._job.architecture.experts is None else {"experts": through_experts.__module__}
        return {**bit_environment(self._job, self._world), **libraries, **experts}

    def _tokenizer(self) -> PreTrainedTokenizerFast:
        """What TRL asks for its padding."""
        folder = self._run.input("tokenizer")
        control = read_control_tokens(folder)
        tokens = {"bos_token": control.bos, "eos_token": control.eos, "pad_token": control.eos, "unk_token": control.unk}
        named = {name: token for name, token in tokens.items() if token is not None}
        return PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **named)

    @cached_property
    def _flops_per_token(self) -> int:
        job = self._job
        return flops_per_token(job.architecture, self._vocab_size, job.training.sequence_length)

    def _emit(self, **fields: Any) -> None:
        self._run.emit(step=self._step, tokens=self._tokens, fraction=self._step / self._job.total_steps, **fields)
