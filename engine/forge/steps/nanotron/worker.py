"""One rank of a training by nanotron: from a request to trained weights.

It runs in the step's own process, or under torchrun as ``python -m forge.steps.nanotron.worker REQUEST RESULT``, as the torch
backend's ranks do. A process group exists either way, because nanotron asks for one.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from forge.errors import StepError
from forge.plan.compute import FLOPS_FORMULA, flops_per_token, num_parameters
from forge.spec.architecture import Architecture
from forge.steps.nanotron.config import nanotron_yaml
from forge.steps.nanotron.loader import Machine, flash_attention_version, load, machine_for
from forge.steps.nanotron.parity import IN_BFLOAT16, IN_FLOAT32, check_parity, exported_logits
from forge.steps.nanotron.stand_ins import KERNELS
from forge.steps.nanotron.wheel import provenance
from forge.steps.run import Metrics, StepRun
from forge.steps.train.allocator import memory_named
from forge.steps.train.data import Corpus, TokensMeta, count_windows, validation_batches
from forge.steps.train.distributed import World, open_world, text_of_main
from forge.steps.train.export import check_tokenizer, export_weights
from forge.steps.train.job import TrainJob, read_job
from forge.steps.train.keeping import device_name
from forge.steps.train.loop import Outcome
from forge.steps.train.mixing import metrics_of_mixture, open_mixture
from forge.steps.train.start import initial_model
from forge.steps.train.worker import main, make_deterministic

if TYPE_CHECKING:  # nanotron can be imported only after the loader ran
    from forge.steps.nanotron.engine import Engine

_CONFIG_FILE = "nanotron.yaml"
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_LESS_MEMORY = "spread the model by nanotron.tensor_parallel or pipeline_parallel (the same one, but from the first step)"
_ALONE = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "GLOO_SOCKET_IFNAME": "lo"}


def train_alone(run: StepRun) -> Metrics:
    """Train in this process."""
    meeting_point = run.folder / "alone.group"
    meeting_point.unlink(missing_ok=True)
    with _environment(_ALONE):
        return train(run, meeting_point)


def train(run: StepRun, meeting_point: Path) -> Metrics:
    """Train one rank's share; rank 0 writes events, checkpoints and the product."""
    job = read_job(run.request)
    make_deterministic(job)
    corpus = open_mixture(run, job)
    windows = count_windows(corpus.train, job.training.sequence_length)
    check_tokenizer(run.input("tokenizer"), corpus.meta)
    check_spread(job, corpus.meta)
    machine = machine_for(job.accelerator, job.training.precision)
    # nanotron's asynchronous tensor parallelism counts on it, and CUDA reads it when it starts.
    variables = _environment({"CUDA_DEVICE_MAX_CONNECTIONS": "1"})
    grid = open_world(job.accelerator, job.processes, meeting_point)
    with memory_named(job.subject, _LESS_MEMORY), variables, grid as world:
        load(machine)
        from forge.steps.nanotron.engine import Engine
        from forge.steps.nanotron.loop import Loop

        engine = Engine(_write_config(run.folder, job, corpus.meta, world), world, job.architecture)
        engine.load(initial_model(job, corpus.meta.vocab_size).state_dict())
        emit = run.emit if world.is_main else _discard
        loop = Loop(job, corpus, world, engine, bit_environment(job, machine, world.device), run.scratch, emit)
        outcome = loop.fit(run.stop)
        run.stop.check()  # the last checkpoint holds all that the next attempt needs to write the product
        weights = engine.weights()
        if world.is_main:
            held = {name: tensor.to(_DTYPES[job.training.precision]) for name, tensor in weights.items()}
            export_weights(run.product("weights"), held, job, corpus.meta, run.input("tokenizer"))
        difference = _compare(run, engine, corpus, job, machine, world)
        if world.is_main:
            loop.leave_checkpoints(run.byproduct)
            if outcome.continued is not None:
                run.continued = outcome.continued
    metrics = {**_metrics(job, outcome, corpus.meta.vocab_size, windows), **metrics_of_mixture(job, corpus, outcome.steps)}
    return {**metrics, "logits_difference": difference, **provenance()}


def bit_environment(job: TrainJob, machine: Machine, device: torch.device) -> dict[str, str]:
    """What the bits of a step depend on beside its key: the torch backend's list, nanotron and how it spreads the model."""
    layout = job.nanotron
    spread = (1, 1) if layout is None else (layout.tensor_parallel, layout.pipeline_parallel)
    return {
        "torch": torch.__version__,
        "processor": torch.backends.cpu.get_cpu_capability(),
        "device": device_name(device),
        "threads": str(job.threads),
        "processes": str(job.processes),
        "backend": provenance()["backend"],
        "wheel": provenance()["backend_wheel_digest"],
        "attention": f"flash-attn {flash_attention_version()}" if machine.flash_attention else KERNELS,
        "layout": f"{job.copies} copies, tensor parallel {spread[0]}, pipeline parallel {spread[1]}",
    }


def _compare(run: StepRun, engine: "Engine", corpus: Corpus, job: TrainJob, machine: Machine, world: World) -> float:
    """Hold what was exported against what was trained; every rank fails where rank 0 finds a difference.

    In float32, where a row in the wrong place shows; before it as flash-attn computes, where that was trained with.
    """
    inputs = next(validation_batches(corpus.validation, job.training.sequence_length, 1)).inputs
    trained = [(engine.logits(inputs), IN_BFLOAT16)] if machine.flash_attention else []
    trained.append((engine.logits_in_float32(inputs), IN_FLOAT32))
    mine = [(logits, tolerance) for logits, tolerance in trained if logits is not None]
    said, difference = "", 0.0
    if mine:
        exported = exported_logits(run.product("weights"), inputs)
        try:
            for logits, tolerance in mine:
                difference = check_parity(exported, logits, job.subject, tolerance)
        except StepError as error:
            said = str(error)
    said = text_of_main(said, world)
    if said:
        raise StepError(said)
    return difference


def check_spread(job: TrainJob, meta: TokensMeta) -> None:
    """Refuse what only shows once the vocabulary is known; raises ``StepError``."""
    tensor = 1 if job.nanotron is None else job.nanotron.tensor_parallel
    pipeline = 1 if job.nanotron is None else job.nanotron.pipeline_parallel
    if meta.vocab_size % tensor:
        raise StepError(
            f"{job.subject}: the vocabulary of {meta.vocab_size} tokens is no multiple of nanotron.tensor_parallel = {tensor}: "
            "nanotron would add tokens that no text has; choose another vocab_size or tensor_parallel"
        )
    empty = pipeline - stages_with_weights(job.architecture, meta.vocab_size, pipeline)
    if empty:
        raise StepError(
            f"{job.subject}: nanotron deals out layers by their cost, and the projection to {meta.vocab_size} tokens costs so "
            f"much that {empty} of {pipeline} stages would hold no weights; lower nanotron.pipeline_parallel"
        )


def stages_with_weights(architecture: Architecture, vocab_size: int, stages: int) -> int:
    """How many stages nanotron 0.4 gives a layer or the projection (``nanotron.models.base.build_model``)."""
    hidden = architecture.hidden_size
    layer = 4 * hidden * hidden + 3 * architecture.intermediate_size * hidden
    costs = [0, *[layer] * architecture.num_hidden_layers, 0, vocab_size * hidden]  # embedding, layers, norm, projection
    total, done, stage = sum(costs), 0, 0
    held = set()
    for cost in costs:
        done += cost
        held.add(stage)
        if done > total * ((stage + 1) / stages):
            stage += 1
    return len(held)


def _write_config(folder: Path, job: TrainJob, meta: TokensMeta, world: World) -> Path:
    """Every rank writes the same bytes, under a name of its own first."""
    temporary = folder / f"{_CONFIG_FILE}.{world.rank}.tmp"
    temporary.write_text(nanotron_yaml(job, meta), encoding="utf-8")
    return temporary.replace(folder / _CONFIG_FILE)


def _metrics(job: TrainJob, outcome: Outcome, vocab_size: int, windows: int) -> Metrics:
    per_token = flops_per_token(job.architecture, vocab_size, job.training.sequence_length)
    return {
        "train_loss": outcome.train_loss,
        "validation_loss": outcome.measured.data.loss,
        "validation_bits_per_byte": outcome.measured.data.bits_per_byte,
        "tokens": outcome.steps * job.training.batch_tokens,
        "epochs": outcome.steps * job.batch_sequences / windows,
        "parameters": num_parameters(job.architecture, vocab_size),
        "optimizer_steps": outcome.steps,
        "resumed_from_step": outcome.resumed_from_step,
        "tokens_per_second": outcome.tokens_per_second,
        "flops": float(per_token * outcome.steps * job.training.batch_tokens),
        "flops_per_second": per_token * outcome.tokens_per_second,
        "flops_formula": FLOPS_FORMULA,
    }


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Variables of this process, for as long as nanotron reads them."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _discard(**_fields: object) -> None:
    """Events of a rank that writes none."""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], train))
