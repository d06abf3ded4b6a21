"""The device and the process group: the only file that knows how many processes there are and what they compute on.

Gradients are summed once per optimiser step, after accumulation. Every rank sees the same sums bit for bit, so the
replicas stay equal without ever being compared. One process needs no group and pays nothing.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import distributed

from forge.errors import StepError

_BACKENDS = {"cpu": "gloo"}


@dataclass(frozen=True)
class World:
    """This process's place among those that train together."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this rank writes events, checkpoints and products."""
        return self.rank == 0


@contextmanager
def open_world(accelerator: str, processes: int, meeting_point: Path | None) -> Iterator[World]:
    """Join the group that torchrun's variables describe, at a file that all ranks see (None for a single process).

    Raises ``StepError`` for a world of another size than asked for.
    """
    if accelerator not in _BACKENDS:
        raise StepError(f"accelerator {accelerator!r} is unknown to the train step; known: {', '.join(_BACKENDS)}")
    device = torch.device(accelerator)
    found = int(os.environ.get("WORLD_SIZE", "1"))
    if found != processes:
        raise StepError(
            f"the request asks for {processes} training processes, but this process belongs to a world of {found}; "
            "start it with the step's own launcher and without WORLD_SIZE in the environment"
        )
    if meeting_point is None:
        yield World(0, 1, device)
        return
    rank = int(os.environ["RANK"])
    store = distributed.FileStore(str(meeting_point), processes)  # type: ignore[attr-defined]
    distributed.init_process_group(_BACKENDS[accelerator], store=store, rank=rank, world_size=processes)
    try:
        yield World(rank, processes, device)
    finally:
        distributed.destroy_process_group()


def sum_gradients(parameters: Iterable[torch.nn.Parameter], world: World) -> None:
    """Replace each gradient by its sum over all ranks, in one collective."""
    if world.size == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    for gradient, summed in zip(gradients, torch.split(flat, [gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(summed.view_as(gradient))


def sum_values(values: list[float], world: World) -> list[float]:
    """Sum each number over all ranks, in float64."""
    if world.size == 1:
        return values
    summed = torch.tensor(values, dtype=torch.float64, device=world.device)
    distributed.all_reduce(summed)
    return [float(value) for value in summed.tolist()]


def text_of_main(text: str, world: World) -> str:
    """The text that rank 0 holds, on every rank."""
    if world.size == 1:
        return text
    box: list[str] = [text]
    distributed.broadcast_object_list(box, src=0)
    return box[0]
