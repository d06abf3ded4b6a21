"""nanotron's trainer as Forge drives it: one optimiser step, one validation batch, one set of logits, and the whole state.

Invariant: nanotron computes, shards, pipelines and reduces; what a step starts from and what it may do is said here. Its own
initialisation, schedule, data loading, checkpoints and reports are not used, for each of them would be a second truth.

The loader must have run (``loader.load``) and the process group must exist before this module is imported.
"""

import math
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from nanotron.parallel.pipeline_parallel.context_manager import attach_pipeline_state_to_model
from nanotron.parallel.pipeline_parallel.state import PipelineTrainBatchState
from nanotron.trainer import DistributedTrainer

from forge.spec.architecture import Architecture
from forge.spec.training import Optimizer
from forge.steps.nanotron import stand_ins
from forge.steps.nanotron.batches import Micro, Padded, Place, as_micro
from forge.steps.nanotron.config import clip_norm
from forge.steps.nanotron.state import Shard, fill, gather, gather_wholes, join, shard_of
from forge.steps.train.data import Batch
from forge.steps.train.distributed import World
from forge.steps.train.optimizer import follow

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


class _Trainer(DistributedTrainer):  # type: ignore[misc]  # nanotron has no types
    """nanotron's own, which begins with whatever memory holds: ``Engine.load`` follows."""

    def _load_model_checkpoint(self, model: Any) -> Any:
        self.init_checkpoint_path = None
        return model


class _NoSchedule:
    """nanotron steps its schedule after the optimiser; the rates are set before it."""

    def step(self) -> None:
        """Nothing."""


class Engine:
    """One rank's part of a model and its optimiser."""

    def __init__(self, config: Path, world: World, architecture: Architecture) -> None:
        self._world, self._architecture = world, architecture
        self._trainer: Any = _Trainer(str(config))
        self._model: Any = self._trainer.unwrapped_model
        trainer, context = self._trainer, self._trainer.parallel_context
        self._tensor_rank = _rank(context.tp_pg)
        self.place = Place(_rank(context.dp_pg), _rank(context.pp_pg), self._model.input_pp_rank, self._model.output_pp_rank)
        trainer.pipeline_engine = trainer.config.parallelism.pp_engine
        trainer.pipeline_engine.nb_microbatches = trainer.n_micro_batches_per_batch
        trainer.lr_scheduler = _NoSchedule()
        trainer.iteration_step = 5  # before that it reports memory at each step
        self._optimizer: torch.optim.Optimizer = trainer.optimizer.get_base_optimizer()
        self._exempt_from_decay()
        self._guard()

    @property
    def reports(self) -> bool:
        """Whether this rank's losses are its copy's: they are known where the last stage ends, by each rank of that stage."""
        return self.place.stage == self.place.last and self._tensor_rank == 0

    def step(self, batches: Iterable[Batch], settings: Optimizer, rate: float) -> tuple[float, float]:
        """One optimiser step; returns this rank's part of the mean loss (0 where it knows none) and the gradient's norm.

        Where the norm is not finite, neither weights nor moments change.
        """
        follow(self._optimizer, settings, rate)
        self._trainer.config.optimizer.clip_grad = clip_norm(settings)
        _, loss = self._trainer.training_step(dataloader=self._micros(batches))
        norm = float(self._trainer.grad_norm_unclipped)
        return (float(loss) if self.reports and self.place.copy == 0 else 0.0), norm

    @torch.no_grad()
    def summed_loss(self, padded: Padded) -> float:
        """Nats of the targets that count; 0 on a rank that does not report."""
        micro = as_micro(padded.batch, padded.counts, self.place, self._world.device)
        with self._pipeline():
            loss = self._model(**micro)["loss"]
        return float(loss) * int(padded.counts.sum()) if self.reports else 0.0

    @torch.no_grad()
    def logits(self, inputs: torch.Tensor) -> torch.Tensor | None:
        """Of whole sequences [B, S]: float32 [B, S, V] on rank 0, None elsewhere. All ranks have to call it."""
        micro = as_micro(Batch(inputs, inputs), None, self.place, self._world.device)
        with self._pipeline():
            found = self._model.model(input_ids=micro["input_ids"], input_mask=micro["input_mask"])
        shards: list[Shard] = []
        if self.place.stage == self.place.last and self.place.copy == 0:
            sbv = found.float()
            columns, ranks = sbv.shape[-1], self._trainer.parallel_context.tp_pg.size()
            here = slice(self._tensor_rank * columns, (self._tensor_rank + 1) * columns)
            everything = (slice(None), slice(None))
            pair = ((*everything, slice(None)), (*everything, here))
            shards.append(Shard("logits", sbv, (pair,), (*sbv.shape[:2], columns * ranks)))
        wholes = gather_wholes(shards, self._world)
        return wholes["logits"].transpose(0, 1).contiguous() if self._world.is_main else None

    def logits_in_float32(self, inputs: torch.Tensor) -> torch.Tensor | None:
        """As ``logits``, of the same weights computed in float32: for the end of a training, which cannot go on after it."""
        for parameter in self._model.parameters():
            parameter.data = parameter.data.float()
        llama: Any = sys.modules["nanotron.models.llama"]  # imported before the trainer it would close a circle
        llama.flash_attn_varlen_func = stand_ins.flash_attn_varlen_func  # flash-attn itself computes no float32
        return self.logits(inputs)

    def weights(self) -> dict[str, torch.Tensor]:
        """Whole, under Hugging Face's names, on rank 0; float32 masters, where there are some. All ranks have to call it."""
        return gather((shard for _, shard in self._shards(None)), self._world, self._architecture)

    def moments(self) -> dict[str, torch.Tensor]:
        """The optimiser's state likewise, as ``<moment>.<name>``."""
        return {
            f"{moment}.{name}": tensor
            for moment in _MOMENTS
            for name, tensor in gather((shard for _, shard in self._shards(moment)), self._world, self._architecture).items()
        }

    def load(self, weights: dict[str, torch.Tensor], moments: dict[str, torch.Tensor] | None = None) -> None:
        """Take this rank's part of whole weights and, of a checkpoint, of the moments."""
        accumulator = self._trainer.grad_accumulator
        for name, parameter in self._named():
            master = self._optimized(name, parameter)
            fill(shard_of(name, parameter, master), join(name, weights, self._architecture))
            if accumulator is not None:
                with torch.no_grad():
                    parameter.copy_(master)
            if moments is None:
                continue
            state: dict[str, torch.Tensor] = {}
            for moment in _MOMENTS:
                whole = join(name, _of_moment(moments, moment), self._architecture)
                state[moment] = torch.zeros_like(master, requires_grad=False) if whole.ndim else whole.to(master.device)
                if whole.ndim:
                    fill(shard_of(name, parameter, state[moment]), whole)
            self._optimizer.state[master] = state

    def _named(self) -> Iterator[tuple[str, Any]]:
        yield from self._model.get_named_params_with_correct_tied()

    def _optimized(self, name: str, parameter: Any) -> torch.Tensor:
        """What the optimiser changes: the parameter, or its float32 master."""
        accumulator = self._trainer.grad_accumulator
        master: torch.Tensor = parameter if accumulator is None else accumulator.get_parameter_for_optimizer(name)
        return master

    def _shards(self, moment: str | None) -> Iterator[tuple[str, Shard]]:
        """Those of which this rank is the first holder, of the weights or of a moment."""
        if self.place.copy:
            return
        for name, parameter in self._named():
            if parameter.is_tied and self._world.rank != parameter.get_tied_info().global_ranks[0]:
                continue
            tensor = self._optimized(name, parameter)
            yield name, shard_of(name, parameter, tensor if moment is None else self._optimizer.state[tensor][moment])

    def _exempt_from_decay(self) -> None:
        """Norms and embeddings do not decay, as in the torch backend; nanotron decays everything."""
        decayed: list[torch.Tensor] = []
        kept: list[torch.Tensor] = []
        for name, parameter in self._named():
            decays = parameter.ndim == 2 and not name.endswith("token_embedding.weight")
            (decayed if decays else kept).append(self._optimized(name, parameter))
        (group,) = self._optimizer.param_groups
        groups = [
            {**group, "params": decayed, "decays": True},
            {**group, "params": kept, "weight_decay": 0.0, "decays": False},
        ]
        self._optimizer.param_groups = [each for each in groups if each["params"]]

    def _guard(self) -> None:
        """Nothing that is not finite reaches the weights. Every rank has the same norm, so they leave out the step together."""
        optimizer = self._trainer.optimizer
        take = optimizer.step

        def step(closure: Any = None) -> Any:
            return take(closure) if math.isfinite(float(self._trainer.grad_norm_unclipped)) else None

        optimizer.step = step

    def _micros(self, batches: Iterable[Batch]) -> Iterator[Micro]:
        return (as_micro(batch, None, self.place, self._world.device) for batch in batches)

    @contextmanager
    def _pipeline(self) -> Iterator[None]:
        """A forward pass through all stages, without one back; nanotron's own (0.4) wants a gradient of every loss.

        All of nanotron's pipeline states share their queues, so what a pass back would have taken is taken here.
        """
        state = PipelineTrainBatchState()
        with attach_pipeline_state_to_model(model=self._model, pipeline_state=state):
            state.new_micro_batch_forward()
            yield
            while state.microbatches_activations_to_send:
                state.microbatches_activations_to_send.popleft()()
            state.pop_last_activations_requiring_backward()
            state.check_buffers_empty()


def _rank(group: Any) -> int:
    return int(torch.distributed.get_rank(group))


def _of_moment(moments: dict[str, torch.Tensor], moment: str) -> dict[str, torch.Tensor]:
    prefix = f"{moment}."
    return {name.removeprefix(prefix): tensor for name, tensor in moments.items() if name.startswith(prefix)}
