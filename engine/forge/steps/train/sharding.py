"""One model over many processes: FSDP2 and tensor parallelism, the sum of gradients, and their norm.

Rules:
1. The model's parameters keep their names; spread ones are DTensors, so a checkpoint knows which slice it holds.
2. Gradients are sums over the shares of a batch, never means: a training over n processes takes the steps of one process, but
   for the order of additions.
3. Gradients are summed once per optimiser step, after accumulation.
4. Tensor parallelism is Megatron's (Shoeybi et al. 2019): the first projections of attention and feed-forward are cut by rows,
   the last by columns; norms, embedding and loss are computed on every process of a row alike.
"""

import functools
from collections.abc import Iterable
from typing import cast

import torch
from torch import distributed, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module
from torch.utils.checkpoint import checkpoint

from forge.steps.train.distributed import DATA, TENSOR, World
from forge.steps.train.job import TrainJob
from forge.steps.train.model import LlamaForCausalLM

_BY_ROWS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj")
_BY_COLUMNS = ("self_attn.o_proj", "mlp.down_proj")


def spread(model: LlamaForCausalLM, job: TrainJob, world: World) -> None:
    """Cut the model as the job asks, in place; what is computed again on the way back and what is compiled is set here too."""
    mesh = world.mesh
    for layer in model.model.layers:
        if mesh is not None and mesh[TENSOR].size() > 1:
            styles: dict[str, ParallelStyle] = {name: ColwiseParallel() for name in _BY_ROWS}
            parallelize_module(layer, mesh[TENSOR], styles | {name: RowwiseParallel() for name in _BY_COLUMNS})
        if job.training.activation_checkpointing:
            layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=False)
        if job.training.compile:
            layer.compile()
    if mesh is not None and job.shards_data:
        for module in (*model.model.layers, model):
            fully_shard(module, mesh=mesh[DATA])
            sharded = cast("FSDPModule", module)
            sharded.set_gradient_divide_factor(1.0)
            sharded.set_force_sum_reduction_for_comms(enable=True)


def sum_later(model: nn.Module, *, later: bool) -> None:
    """Whether the next backward pass only accumulates; FSDP2 sums gradients inside the pass."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(not later)


def sum_gradients(model: nn.Module, world: World) -> None:
    """Replace each gradient by its sum over the shares of a batch, in one collective; FSDP2 has done so by itself."""
    if world.mesh is None or world.data_size == 1 or isinstance(model, FSDPModule):
        return
    gradients = _local_gradients(model.parameters())
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat, group=world.mesh[DATA].get_group())
    for gradient, summed in zip(gradients, torch.split(flat, [gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(summed.view_as(gradient))


def clip_gradients(model: nn.Module, limit: float | None, world: World) -> float:
    """Scale the gradients so that the norm of all of them is at most ``limit``; returns the norm before."""
    parameters = [parameter for parameter in model.parameters() if parameter.grad is not None]
    gradients = _local_gradients(parameters)
    squares = torch.stack(torch._foreach_norm(gradients)).double().square()  # noqa: SLF001 (as torch's own clip_grad_norm_)
    total = squares.sum() if world.mesh is None else _sum_of_slices(parameters, squares, world)
    norm = float(total.sqrt())
    if limit is not None and norm > limit:
        torch._foreach_mul_(gradients, limit / norm)
    return norm


def whole_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """The state dict with every slice gathered; all ranks have to ask together."""
    return {
        name: tensor.full_tensor() if isinstance(tensor, DTensor) else tensor for name, tensor in model.state_dict().items()
    }


def fill(target: torch.Tensor, whole: torch.Tensor) -> None:
    """Write a whole tensor, or this rank's slice of it, over a parameter or moment; every rank holds the whole."""
    with torch.no_grad():
        if isinstance(target, DTensor):
            slices = distribute_tensor(
                whole.to(target.to_local().device), target.device_mesh, target.placements, src_data_rank=None
            )
            target.to_local().copy_(slices.to_local())
        else:
            target.copy_(whole)


def _local_gradients(parameters: Iterable[nn.Parameter]) -> list[torch.Tensor]:
    gradients = (parameter.grad for parameter in parameters if parameter.grad is not None)
    return [gradient.to_local() if isinstance(gradient, DTensor) else gradient for gradient in gradients]


def _sum_of_slices(parameters: list[nn.Parameter], squares: torch.Tensor, world: World) -> torch.Tensor:
    """The squared norm over all slices: each is added along those directions of the grid in which its tensor is cut."""
    total = torch.zeros((), dtype=torch.float64, device=squares.device)
    cuts = [_cuts(parameter) for parameter in parameters]
    for cut in sorted(set(cuts)):
        part = squares[[index for index, each in enumerate(cuts) if each == cut]].sum()
        for direction in cut:
            if world.mesh is not None:
                distributed.all_reduce(part, group=world.mesh[direction].get_group())
        total += part
    return total


def _cuts(parameter: nn.Parameter) -> tuple[str, ...]:
    """The directions of the grid in which a parameter is cut."""
    if not isinstance(parameter, DTensor):
        return ()
    names = parameter.device_mesh.mesh_dim_names or ()
    return tuple(name for name, placement in zip(names, parameter.placements, strict=True) if not placement.is_replicate())
