"""One rank of a training: from a request to trained weights.

It runs in the step's own process, or under torchrun as ``python -m forge.steps.train.worker REQUEST RESULT``, where
REQUEST lies in the attempt's folder. Under torchrun rank 0 leaves its metrics in RESULT; a rank that fails leaves why
beside it, for the step process to say.
"""

import errno
import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from forge.contract.messages import StepRequest
from forge.errors import StepError
from forge.plan.compute import flops_formula, flops_per_token, num_active_parameters, num_parameters
from forge.steps.interruption import StoppedError, StopRequest
from forge.steps.run import Metrics, StepRun
from forge.steps.train.allocator import keep_freed_memory, memory_named
from forge.steps.train.data import Corpus, count_windows, open_corpus
from forge.steps.train.distributed import open_world
from forge.steps.train.export import check_tokenizer, export_weights
from forge.steps.train.job import TrainJob, read_job
from forge.steps.train.keeping import Keeper
from forge.steps.train.loop import Outcome, Trainer
from forge.steps.train.mixing import metrics_of_mixture, open_mixture
from forge.steps.train.model import outline
from forge.steps.train.optimizer import build_optimizer
from forge.steps.train.served_tokenizer import check_served_tokenizer
from forge.steps.train.sharding import spread, whole_tensors
from forge.steps.train.start import begin_weights

_LESS_MEMORY = "set training.activation_checkpointing or parallelism.data: fsdp2 over more processes (the same one)"


def train(run: StepRun, meeting_point: Path | None = None) -> Metrics:
    """Train one rank's share; rank 0 writes events, checkpoints and the product.

    ``meeting_point`` is the file where ranks under torchrun find each other, None for a single process.
    """
    job = read_job(run.request)
    make_deterministic(job)
    keep_freed_memory()
    corpus = open_mixture(run, job)
    windows = count_windows(corpus.train, job.training.sequence_length)
    replay = open_replay(run.input("replay"), corpus, job) if job.replay_fraction is not None else None
    check_tokenizer(run.input("tokenizer"), corpus.meta)
    check_served_tokenizer(run.input("tokenizer"), corpus.meta, job)
    rows = job.rows_for(corpus.meta.vocab_size)
    if meeting_point is None and job.accelerator != "cpu":
        meeting_point = run.folder / "world"
        meeting_point.unlink(missing_ok=True)
    grid = open_world(job.accelerator, job.processes, meeting_point, job.training.parallelism.tensor)
    with memory_named(job.subject, _LESS_MEMORY), grid as world:
        emit = run.emit if world.is_main else _discard
        model = outline(job.architecture, rows)
        spread(model, job, world)
        begin_weights(model, job, world.device)
        optimizer = build_optimizer(model, job.training.optimizer)
        keeper = Keeper(job, world, model, optimizer, run.scratch, emit)
        outcome = Trainer(job, corpus, world, model, optimizer, keeper, emit, replay).fit(run.stop)
        weights = whole_tensors(model, world)
        if world.is_main:
            run.stop.check()  # the last checkpoint holds all that the next attempt needs to write the product
            export_weights(run.product("weights"), weights, job, corpus.meta, run.input("tokenizer"))
            keeper.leave(run.byproduct, lambda text: emit(message=text))
            if outcome.continued is not None:
                run.continued = outcome.continued
    metrics = {**_metrics(job, outcome, rows, windows), **_metrics_of_base(job, outcome, replay)}
    return {**metrics, **metrics_of_mixture(job, corpus, outcome.steps)}


def open_replay(folder: Path, corpus: Corpus, job: TrainJob) -> Corpus:
    """The data to replay; raises ``StepError`` for tokens of another tokenizer."""
    replay = open_corpus(folder)
    count_windows(replay.train, job.training.sequence_length)
    for name in ("vocab_size", "eos_token_id", "bos_token_id"):
        own, other = getattr(corpus.meta, name), getattr(replay.meta, name)
        if own != other:
            raise StepError(f"{folder}: {name} is {other}, the model's own data has {own}: another tokenizer made these tokens")
    return replay


def make_deterministic(job: TrainJob) -> None:
    """Pin everything in this process that could make the same step give other bits."""
    torch.set_num_threads(job.threads)
    torch.manual_seed(job.training.seed % 2**63)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS may add in another order each time
    torch.set_float32_matmul_precision("highest")  # float32 is not TF32, whatever a container's environment asks of cuBLAS
    torch.use_deterministic_algorithms(True)
    # Filling fresh memory with NaN finds reads of uninitialised memory; it makes no result more deterministic.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined, unused-ignore]


def main(argv: list[str], train_rank: Callable[[StepRun, Path], Metrics] = train) -> int:
    """Run one rank under torchrun; returns the exit status. ``train_rank`` is given the file where the ranks meet."""
    request_path, result_path = (Path(argument) for argument in argv)
    request = StepRequest.model_validate_json(request_path.read_bytes())
    rank = int(os.environ["RANK"])
    stop = StopRequest(watch_stdin=True)
    try:
        with stop.listening():
            run = StepRun(request, request_path.parent, stop, tells=rank == 0)
            metrics = train_rank(run, result_path.with_suffix(".group"))
    except (Exception, StoppedError) as error:  # noqa: BLE001 (a rank that leaves no word counts as killed: every other end has one)
        known = isinstance(error, StepError | OSError | MemoryError | StoppedError)
        message = str(error) if known else f"{type(error).__name__}: {error}"
        failure = {"rank": rank, "message": message, "errno": _errno_of(error), "stopped": isinstance(error, StoppedError)}
        _write_json(result_path.with_suffix(f".failure-{rank}"), {**failure, "known": known})
        if not known:
            traceback.print_exc()
        print(f"rank {rank}: {message}", file=sys.stderr)
        return 1
    if rank == 0:
        _write_json(result_path, metrics)
    return 0


def _metrics(job: TrainJob, outcome: Outcome, rows: int, windows: int) -> Metrics:
    per_token = flops_per_token(job.architecture, rows, job.training.sequence_length)
    sequences = outcome.steps * job.batch_sequences
    return {
        "train_loss": outcome.train_loss,
        "validation_loss": outcome.measured.data.loss,
        "validation_bits_per_byte": outcome.measured.data.bits_per_byte,
        "tokens": outcome.steps * job.training.batch_tokens,
        "epochs": (sequences - job.replayed_sequences(outcome.steps)) / windows,
        "parameters": num_parameters(job.architecture, rows),
        "optimizer_steps": outcome.steps,
        "resumed_from_step": outcome.resumed_from_step,
        "tokens_per_second": outcome.tokens_per_second,
        # A float, because canonical JSON holds no integer above 2**53.
        "flops": float(per_token * outcome.steps * job.training.batch_tokens),
        "flops_per_second": per_token * outcome.tokens_per_second,
        "flops_formula": flops_formula(job.architecture),
        "checkpoint_stall_seconds": outcome.checkpoint_stall_seconds,
        **({"earlier_topologies": "; ".join(outcome.earlier_topologies)} if outcome.earlier_topologies else {}),
        **_metrics_of_experts(job, outcome, rows),
    }


def _metrics_of_experts(job: TrainJob, outcome: Outcome, rows: int) -> Metrics:
    """What the router makes of the validation split; nothing for a model without experts."""
    load = outcome.measured.data.load
    if load is None:
        return {}
    return {"active_parameters": num_active_parameters(job.architecture, rows), **load.figures()}


def _metrics_of_base(job: TrainJob, outcome: Outcome, replay: Corpus | None) -> Metrics:
    """What a continued model is held against: its base, and what it may have forgotten."""
    metrics: Metrics = {}
    measured = {"base_validation": outcome.base.data} if outcome.base is not None else {}
    if replay is not None and outcome.measured.replay is not None:
        length = job.training.sequence_length
        metrics["replay_tokens"] = job.replayed_sequences(outcome.steps) * length
        metrics["replay_epochs"] = job.replayed_sequences(outcome.steps) / count_windows(replay.train, length)
        measured["replay_validation"] = outcome.measured.replay
        if outcome.base is not None and outcome.base.replay is not None:
            measured["base_replay_validation"] = outcome.base.replay
    for name, validation in measured.items():
        metrics |= {f"{name}_loss": validation.loss, f"{name}_bits_per_byte": validation.bits_per_byte}
    return metrics


def _errno_of(error: BaseException) -> int | None:
    """The first error number down the chain of causes: it says whether the machine or the input is at fault."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, OSError | MemoryError):
            return link.errno if isinstance(link, OSError) else errno.ENOMEM
        link = link.__cause__
    return None


def _write_json(path: Path, value: Any) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(value), encoding="utf-8")
    temporary.replace(path)


def _discard(**_fields: Any) -> None:
    """Events of a rank that writes none."""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
