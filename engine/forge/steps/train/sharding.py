"""One model over many processes: FSDP2 and tensor parallelism, and the norm of gradients (their sum: ``summing``).

Rules:
1. The model's parameters keep their names; spread ones are DTensors, so a checkpoint knows which slice it holds.
2. Gradients are sums over the shares of a batch, never means: a training over n processes takes the steps of one process, but
   for the order of additions.
3. Gradients are summed once per optimiser step, after accumulation.
4. A model is cut while it is an outline, before any process has memory for it.
5. Under FSDP2 and bfloat16 the layers' weights travel in bfloat16, which autocast would round them to anyway; gradients are
   summed in float32, and embedding, head and routers stay float32.
6. Tensor parallelism is Megatron's (Shoeybi et al. 2019): the first projections of attention and feed-forward are cut by rows,
   the last by columns; norms, embedding and loss are computed on every process of a row alike. A norm of heads (Qwen3) is held
   by all of a row and applied by each to the heads that are its own, so its gradient is summed over them.
"""

import functools
import os
import shutil
import sysconfig
from pathlib import Path
from typing import Any, cast

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module

from forge.errors import StepError
from forge.steps.train.distributed import DATA, TENSOR, World
from forge.steps.train.experts import MixtureOfExperts
from forge.steps.train.job import TrainJob
from forge.steps.train.model import DecoderLayer, LlamaForCausalLM

_BY_ROWS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj")
_BY_COLUMNS = ("self_attn.o_proj", "mlp.down_proj")


def spread(model: LlamaForCausalLM, job: TrainJob, world: World) -> None:
    """Cut the model as the job asks, in place; what is computed again on the way back and what is compiled is set here too."""
    mesh = world.mesh
    layers = [cast("DecoderLayer", layer) for layer in model.model.layers]
    if job.training.compile:
        _check_compiler(job.subject)
    for layer in layers:
        if mesh is not None and mesh[TENSOR].size() > 1:
            _cut(layer, mesh[TENSOR])
        if job.training.activation_checkpointing:
            layer.is_recomputed = True
        if job.training.compile:
            layer.compile()
    if mesh is not None and job.shards_data:
        whole = MixedPrecisionPolicy(cast_forward_inputs=False)
        in_bfloat16 = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
        for layer in layers:
            if isinstance(layer.mlp, MixtureOfExperts):
                _shard(layer.mlp.gate, mesh[DATA], whole)
            _shard(layer, mesh[DATA], in_bfloat16 if job.training.precision == "bfloat16" else whole)
        _shard(model, mesh[DATA], whole)


def _cut(layer: DecoderLayer, mesh: DeviceMesh) -> None:
    styles: dict[str, ParallelStyle] = {name: ColwiseParallel() for name in _BY_ROWS}
    parallelize_module(layer, mesh, styles | {name: RowwiseParallel() for name in _BY_COLUMNS})
    for norm in (layer.self_attn.q_norm, layer.self_attn.k_norm):
        if norm is not None:
            norm.whole_gradient = functools.partial(_SummedGradient.apply, mesh.get_group())


class _SummedGradient(torch.autograd.Function):
    """The tensor itself; its gradient is the sum of those of all processes of a group."""

    @staticmethod
    def forward(ctx: Any, group: distributed.ProcessGroup, tensor: torch.Tensor) -> torch.Tensor:
        ctx.group = group
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[None, torch.Tensor]:
        summed = grad_outputs[0].clone()
        distributed.all_reduce(summed, group=ctx.group)
        return None, summed


def _shard(module: nn.Module, mesh: DeviceMesh, precision: MixedPrecisionPolicy) -> None:
    fully_shard(module, mesh=mesh, mp_policy=precision)
    sharded = cast("FSDPModule", module)
    sharded.set_gradient_divide_factor(1.0)
    sharded.set_force_sum_reduction_for_comms(enable=True)


def clip_gradients(model: nn.Module, limit: float | None, world: World) -> float:
    """Scale the gradients so that the norm of all of them is at most ``limit``; returns the norm before."""
    parameters = [parameter for parameter in model.parameters() if parameter.grad is not None]
    gradients = [local(cast("torch.Tensor", parameter.grad)) for parameter in parameters]
    squares = torch.stack(torch._foreach_norm(gradients)).double().square()  # noqa: SLF001 (as torch's own clip_grad_norm_)
    total = squares.sum() if world.mesh is None else _sum_of_slices(parameters, squares, world)
    norm = float(total.sqrt())
    if limit is not None and norm > limit:
        torch._foreach_mul_(gradients, limit / norm)
    return norm


def whole_tensors(model: nn.Module, world: World) -> dict[str, torch.Tensor]:
    """The state dict with every slice gathered, on the CPU of rank 0 and empty elsewhere; all ranks have to ask together."""
    found: dict[str, torch.Tensor] = {}
    for name, tensor in model.state_dict().items():
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if world.is_main:
            found[name] = whole.detach().to("cpu")
    return found


def local(tensor: torch.Tensor) -> torch.Tensor:
    """What this process holds of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


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


def _check_compiler(subject: str) -> None:
    """Refuse to compile where there is no C++ compiler, or nothing of Python for it: torch would say so in the first step."""
    wanted = [os.environ["CXX"]] if "CXX" in os.environ else ["g++", "clang++", "c++"]
    header = Path(sysconfig.get_path("include"), "Python.h")  # what is compiled is loaded as a module, on CUDA too
    if not any(shutil.which(name) for name in wanted):
        lacking = f"a C++ compiler where the step runs; {', '.join(wanted)} is not on the PATH"
    elif not header.is_file():
        lacking = f"Python's headers where the step runs; {header} is not there"
    else:
        return
    raise StepError(f"{subject}: training.compile needs {lacking}: install it, or leave compile out")


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
