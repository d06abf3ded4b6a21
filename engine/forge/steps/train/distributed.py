"""The device and the process group: the only file that knows how many processes there are and what they compute on.

Processes form a grid of ``data`` x ``tensor``: those of one row (the same ``data`` place) hold the slices of one model and read
the same sequences, those of one column hold the same slice and read others. A single process on a CPU needs no group and pays
nothing; everything else has one, because checkpoints are written through it.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import distributed
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from forge.errors import StepError
from forge.steps.interruption import StopReason

_BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}
DATA, TENSOR = "data", "tensor"


@dataclass(frozen=True)
class World:
    """This process's place among those that train together."""

    rank: int
    size: int
    device: torch.device
    data_rank: int = 0
    """Which share of a batch this process reads."""
    data_size: int = 1
    mesh: DeviceMesh | None = None
    """The grid; None for a single process on a CPU."""

    @property
    def is_main(self) -> bool:
        """Whether this rank writes events and products."""
        return self.rank == 0

    def autocast(self, precision: str) -> torch.autocast:
        """What passes over a model stand in: matrix products in bfloat16 where that is the training's precision."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")


@contextmanager
def open_world(accelerator: str, processes: int, meeting_point: Path | None, tensor_size: int = 1) -> Iterator[World]:
    """Join the group that torchrun's variables describe, at a file that all ranks see (None for a single process on a CPU).

    Raises ``StepError`` for a world of another size than asked for, and for an accelerator that is not here.
    """
    if accelerator not in _BACKENDS:
        raise StepError(f"accelerator {accelerator!r} is unknown to the train step; known: {', '.join(_BACKENDS)}")
    found = int(os.environ.get("WORLD_SIZE", "1"))
    if found != processes:
        raise StepError(
            f"the request asks for {processes} training processes, but this process belongs to a world of {found}; "
            "start it with the step's own launcher and without WORLD_SIZE in the environment"
        )
    rank = int(os.environ.get("RANK", "0"))
    device = _device(accelerator, processes, rank)
    if meeting_point is None:
        yield World(0, 1, device)
        return
    for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):  # one machine: nobody else may knock
        os.environ.setdefault(variable, "lo")
    store = distributed.FileStore(str(meeting_point), processes)  # type: ignore[attr-defined]
    distributed.init_process_group(_BACKENDS[accelerator], store=store, rank=rank, world_size=processes)
    try:
        mesh = init_device_mesh(accelerator, (processes // tensor_size, tensor_size), mesh_dim_names=(DATA, TENSOR))
        yield World(rank, processes, device, rank // tensor_size, processes // tensor_size, mesh)
    finally:
        distributed.destroy_process_group()


def sum_values(values: list[float], world: World) -> list[float]:
    """Sum each number over the shares of a batch, in float64; every rank is told the same."""
    if world.mesh is None:
        return values
    summed = torch.tensor(values, dtype=torch.float64, device=world.device)
    distributed.all_reduce(summed)
    return [float(value) / (world.size // world.data_size) for value in summed.tolist()]


def first_reason(askers: list[float]) -> StopReason | None:
    """The reason that any rank has, from the sums over all ranks of who asked for each."""
    return next((each for each, count in zip(StopReason, askers, strict=True) if count), None)


def reason_of_any(asked: StopReason | None, world: World) -> StopReason | None:
    """Why to stop, where any rank was asked to; all ranks have to ask together, and are told the same."""
    return first_reason(sum_values([float(asked is each) for each in StopReason], world))


def text_of_main(text: str, world: World) -> str:
    """The text that rank 0 holds, on every rank."""
    if world.mesh is None:
        return text
    box: list[str] = [text]
    distributed.broadcast_object_list(box, src=0)
    return box[0]


def shares_together(values: torch.Tensor, world: World) -> torch.Tensor:
    """The sum over all ranks of a tensor on the CPU; where each filled places of its own and left 0 elsewhere, all of them."""
    if world.mesh is not None:
        distributed.all_reduce(values)
    return values


def tensors_of_all(tensor: torch.Tensor, world: World) -> list[torch.Tensor]:
    """Every rank's tensor on the CPU, all alike in shape and type, in the order of ranks."""
    if world.mesh is None:
        return [tensor]
    found = [torch.empty_like(tensor) for _ in range(world.size)]
    distributed.all_gather(found, tensor)
    return found


def _device(accelerator: str, processes: int, rank: int) -> torch.device:
    if accelerator == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise StepError(
            f"accelerator 'cuda' is asked for, but this machine offers torch {torch.__version__} no CUDA device; "
            "run the step where there is one, or set resources.accelerator to cpu"
        )
    if torch.cuda.device_count() < processes:
        raise StepError(
            f"the request asks for {processes} training processes, one for each CUDA device, but this machine has "
            f"{torch.cuda.device_count()}; lower resources.count or run it where there are more"
        )
    device = torch.device("cuda", rank)
    torch.cuda.set_device(device)
    return device
