"""The nanotron backend of the train step: nanotron 0.4 computes, Forge decides and keeps (docs/nanotron.md).

Invariant: from the request to the product everything but the arithmetic is the torch backend's: the same initial weights, the
same batches in the same order, the same rates, the same form of checkpoints, events, metrics and weights. So what reads them
asks for no backend, and two backends can be held against each other.

How the files hang together: ``wheel`` (which release) -> ``loader`` with ``stand_ins`` (how it is imported) -> ``config`` (our
spec in its YAML) -> ``worker`` (one rank) -> ``loop`` (steps, validation, checkpoints) over ``engine`` (nanotron's trainer),
``batches``, ``state`` (its shards as our tensors) -> ``parity`` (is the exported model the trained one?).
"""

from forge.steps.nanotron.wheel import provenance, read_wheel
from forge.steps.run import Metrics, StepRun
from forge.steps.train.job import TrainJob
from forge.steps.train.launch import under_torchrun

_WORKER = "forge.steps.nanotron.worker"


def train(run: StepRun, job: TrainJob) -> Metrics:
    """Train, and write the product ``weights``; raises ``StepError`` for what a user can mend."""
    read_wheel()  # said here once, not by every rank
    run.environment.update(provenance())
    if job.processes > 1:
        return under_torchrun(run, job, _WORKER)
    from forge.steps.nanotron.worker import train_alone

    return train_alone(run)
