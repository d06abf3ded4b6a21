"""What a training keeps of itself, and what it goes on from: one rank's part in writing and in taking up checkpoints.

Rules:
1. A single process on a CPU writes whole tensors, at once: its state is copied as fast as it is written, and a kill costs no
   more than one interval. Every other training writes slices beside the next steps (``shards``), one checkpoint at a time.
2. Where a checkpoint was not written the training ends, with the one before it in place.
3. The state at the last step that a longer run shares (``spec.extend``), and at each step where a branch leaves this run, is
   written once to a folder that no rotation touches; at the end they become by-products. Where a resumed run finds no sound
   one, there is none.
4. A training that goes on in another topology says so, in an event and in every checkpoint after.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import torch

from forge.contract.checkpoints import BEFORE_DECAY, CHECKPOINTS
from forge.contract.messages import Continued
from forge.errors import StepError
from forge.steps.train.checkpoint import (
    TOPOLOGY,
    Checkpoint,
    CheckpointState,
    copy_checkpoint,
    differences_of,
    find_kept,
    load_checkpoint,
    load_newest,
    loss_at,
    read_state,
    remove_after,
    remove_before,
    save_named,
)
from forge.steps.train.continuation import continued_from, open_continuation
from forge.steps.train.distributed import World, text_of_main
from forge.steps.train.job import TrainJob
from forge.steps.train.model import LlamaForCausalLM
from forge.steps.train.optimizer import begin_state, optimizer_tensors
from forge.steps.train.rise import Losses
from forge.steps.train.sharding import fill
from forge.steps.train.shards import ShardWriter, read_shards


@dataclass
class Progress:
    """Where a training stands."""

    step: int = 0
    train_loss: float = math.nan
    losses: Losses = field(default_factory=Losses)
    previous_checkpoint: int | None = None
    good_checkpoint: int | None = None
    """The newest that a later loss spoke well of."""
    continued: Continued | None = None
    earlier_topologies: tuple[str, ...] = ()


class Keeper:
    """Writes and reads the checkpoints of one rank's model and optimiser."""

    def __init__(
        self,
        job: TrainJob,
        world: World,
        model: LlamaForCausalLM,
        optimizer: torch.optim.Optimizer,
        scratch: Path,
        emit: Callable[..., None],
    ) -> None:
        self._job, self._world, self._model, self._optimizer = job, world, model, optimizer
        self._folder, self._kept_folder = scratch / CHECKPOINTS, scratch / BEFORE_DECAY
        self._emit = emit
        self._writer = None if world.mesh is None else ShardWriter(world)
        self._last_stall, self._last_progress = 0.0, Progress()
        self.stalled_seconds = 0.0
        """How long the training has waited for checkpoints."""

    def write(self, progress: Progress) -> None:
        """Write a checkpoint of the present step, or begin to; those before the one before it go when it is in place."""
        self.finish()
        started = time.perf_counter()
        before, good = progress.previous_checkpoint, progress.good_checkpoint

        def clear() -> None:
            if before is not None:
                remove_before(self._folder, before, good)

        if self._writer is not None:
            self._writer.begin(self._folder, self._state(progress), self._flat(), clear)
        else:
            path = self._save(self._folder, progress)
            clear()
            self._say(path, progress, time.perf_counter() - started)
        self._last_stall, self._last_progress = time.perf_counter() - started, progress
        self.stalled_seconds += self._last_stall
        progress.previous_checkpoint = progress.step

    def poll(self) -> None:
        """Say so when a checkpoint has been written since; raises ``StepError`` where it could not be."""
        if self._writer is not None and self._writer.is_done():
            self.finish()

    def finish(self) -> None:
        """Wait until what was begun is written; raises ``StepError`` where it could not be."""
        if self._writer is None:
            return
        started = time.perf_counter()
        path = self._writer.finish()
        waited = time.perf_counter() - started
        self.stalled_seconds += waited
        if path is not None:
            self._say(path, self._last_progress, self._last_stall + waited)

    def go_back(self, progress: Progress) -> tuple[int, float] | None:
        """Remove the checkpoints after the newest that is known to be good; the step and the loss of that one, if there is one.

        Every rank has to call it.
        """
        self.finish()
        good = progress.good_checkpoint
        return None if good is None else back_to(self._folder, good, progress.step, is_main=self._world.is_main)

    def keep(self, progress: Progress) -> None:
        """Write the checkpoint of the present step that a longer run may go on from, unless a sound one lies there."""
        if progress.earlier_topologies:
            return
        lies_there = self._world.is_main and self.kept(progress.step, lambda _: None) is not None
        if text_of_main("yes" if lies_there else "", self._world):
            return
        self.finish()
        started = time.perf_counter()
        if self._writer is None:
            self._save(self._kept_folder, progress)
        else:
            self._writer.begin(self._kept_folder, self._state(progress), self._flat(), lambda: None)
            self._writer.finish()
        self.stalled_seconds += time.perf_counter() - started

    def kept(self, step: int, report: Callable[[str], None]) -> Path | None:
        """The checkpoint of a step that another run may go on from, if a sound one lies there."""
        return find_kept(self._kept_folder, step, self._job.key, bit_environment(self._job, self._world), report)

    def leave(self, place: Callable[[str], Path], say: Callable[[str], None]) -> None:
        """Make the by-products: the checkpoints that other runs may go on from, where sound ones are kept."""
        for step, name in self._job.kept_steps.items():
            kept = self.kept(step, say)
            if kept is not None:
                copy_checkpoint(kept, place(name))
            else:
                say(not_kept(self._job, step))

    def take_up(self) -> tuple[Progress, str]:
        """Load the furthest checkpoint, if there is one; where the training stands then, and what to say of it."""
        found, continued = self._find_start() if self._world.is_main else (None, None)
        path = text_of_main("" if found is None else str(found.path), self._world)
        if not path:
            return Progress(), ""
        state = read_state(Path(path)) if found is None else found.state
        if state.sequences != state.step * self._job.batch_sequences:
            raise StepError(f"checkpoint {path}: its data position {state.sequences} does not belong to step {state.step}")
        self._load(Path(path), state, found)
        own = state.key == self._job.key
        source = Path(path).name if own else f"of step {state.step} of step key {state.key}"
        message = f"resumed from checkpoint {source}"
        earlier = state.earlier_topologies
        changed = differences_of(
            *(
                {name: each.get(name, "") for name in TOPOLOGY}
                for each in (state.environment, bit_environment(self._job, self._world))
            )
        )
        if changed:
            earlier = (*earlier, topology_of(state.environment))
            message += f"; it was made by {earlier[-1]}, this run has {self._job.topology}: it goes on, but not bit for bit"
        return Progress(
            state.step,
            state.train_loss,
            Losses(state.recent_losses, state.lowest_mean_loss),
            state.step if own else None,
            state.good_checkpoint if own else None,
            continued,
            earlier,
        ), message

    def _find_start(self) -> tuple[Checkpoint | None, Continued | None]:
        """The furthest checkpoint to go on from: this run's own, or that of the run it continues; and what it descends from."""
        environment = bit_environment(self._job, self._world)
        job = self._job
        own = load_newest(self._folder, job.key, environment, lambda text: self._emit(message=text), job.inputs)
        artifact = self._job.continues
        if artifact is not None:
            try:
                other = open_continuation(self._job, artifact, environment, 0 if own is None else own.state.step)
            except StepError as error:
                if own is None:
                    raise
                self._emit(message=f"{error}; going on from checkpoint {own.path.name} of this run itself")
            else:
                if other is not None:
                    return other, continued_from(other, artifact)
        return own, None if own is None else own.state.continued

    def _load(self, path: Path, state: CheckpointState, verified: Checkpoint | None) -> None:
        begin_state(self._model, self._optimizer)
        targets = self._flat()
        if state.layout == "sharded":
            read_shards(path, targets, self._world)
            torch.set_rng_state(targets["rng.cpu"])
            return
        groups = (verified or load_checkpoint(path)).groups
        for name, target in targets.items():
            group, _, rest = name.partition(".")
            if rest not in groups.get(group, {}):
                raise StepError(f"checkpoint {path}: holds no tensor {name}; it was made of another model: remove it")
            fill(target, groups[group][rest])
        torch.set_rng_state(groups["rng"]["cpu"])

    def _save(self, folder: Path, progress: Progress) -> Path:
        groups: dict[str, dict[str, torch.Tensor]] = {}
        for name, tensor in self._flat().items():
            group, _, rest = name.partition(".")
            groups.setdefault(group, {})[rest] = tensor
        return save_named(self._job.subject, folder, self._state(progress), groups)

    def _flat(self) -> dict[str, torch.Tensor]:
        """Everything that the next step depends on, as ``<group>.<name>``; the model's own tensors, not copies."""
        groups = {
            "model": self._model.state_dict(),
            "optimizer": optimizer_tensors(self._model, self._optimizer),
            "rng": {"cpu": torch.get_rng_state()},
        }
        return {f"{group}.{name}": tensor.detach() for group, tensors in groups.items() for name, tensor in tensors.items()}

    def _state(self, progress: Progress) -> CheckpointState:
        return CheckpointState(
            key=self._job.key,
            attempt=self._job.attempt,
            step=progress.step,
            tokens=progress.step * self._job.training.batch_tokens,
            sequences=progress.step * self._job.batch_sequences,
            train_loss=progress.train_loss,
            environment=bit_environment(self._job, self._world),
            lineage=self._job.lineage,
            training_tokens=self._job.training.tokens,
            continued=progress.continued,
            layout="whole" if self._writer is None else "sharded",
            earlier_topologies=progress.earlier_topologies,
            lowest_mean_loss=progress.losses.lowest_mean,
            recent_losses=progress.losses.recent,
            good_checkpoint=progress.good_checkpoint,
            inputs=self._job.inputs,
        )

    def _say(self, path: Path, progress: Progress, stalled: float) -> None:
        """Tell of a checkpoint that is in place, at the step where the training stands by now."""
        self._emit(
            message=f"checkpoint {path.name}",
            step=progress.step,
            tokens=progress.step * self._job.training.batch_tokens,
            fraction=progress.step / self._job.total_steps,
            checkpoint_stall_seconds=stalled,
        )


def back_to(folder: Path, good: int, last: int, *, is_main: bool) -> tuple[int, float] | None:
    """Step and loss of the checkpoint ``good``, and those after it, up to ``last``, removed by the main rank."""
    loss = loss_at(folder, good)
    if loss is None:
        return None
    if is_main:
        remove_after(folder, good, last)
    return good, loss


def not_kept(job: TrainJob, step: int) -> str:
    """In words, what it means that no checkpoint of a step is left."""
    if step == job.kept_step:
        return f"no checkpoint from before the decay (step {step}) is kept: a run of more tokens starts from scratch"
    return f"no checkpoint of step {step} is kept: what branches there trains those steps again"


def bit_environment(job: TrainJob, world: World) -> dict[str, str]:
    """What the bits of a step depend on beside its key."""
    return {
        "torch": torch.__version__,
        "processor": torch.backends.cpu.get_cpu_capability(),
        "device": device_name(world.device),
        "threads": str(job.threads),
        "processes": str(job.processes),
        **({"topology": job.topology} if job.processes > 1 else {}),
        **({"compile": "true"} if job.training.compile else {}),
        **({"transformers": version("transformers")} if job.architecture.rope_scaling is not None else {}),
    }


def device_name(device: torch.device) -> str:
    """What computes, as a checkpoint names it: the model of an accelerator, for another one rounds otherwise."""
    return "cpu" if device.type == "cpu" else torch.cuda.get_device_name(device)


def topology_of(environment: dict[str, str]) -> str:
    """In words, how the training of an environment was spread; an older engine's says the number of processes alone."""
    count = environment.get("processes", "1")
    return environment.get("topology") or ("1 process" if count == "1" else f"{count} processes")
