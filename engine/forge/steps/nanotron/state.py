"""nanotron's shards as whole tensors under Hugging Face's names, and back.

Rules:
1. Names, shapes and layout outside are the torch backend's. Inside, nanotron keeps query, key and value in one matrix and gate
   and up in another, and its rotary embedding turns neighbouring dimensions: rows of query and key stand in another order.
2. Every change of form is a permutation of numbers: weights and both moments go through it alike, and none changes a bit.
3. What several processes hold is taken from the first of them; the process that writes is given one tensor after the other.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed

from forge.spec.architecture import Architecture
from forge.steps.train.distributed import World

_LAYER = re.compile(r"model\.decoder\.(\d+)\.pp_block\.(.+)")
_WHOLE = {
    "model.token_position_embeddings.pp_block.token_embedding.weight": "model.embed_tokens.weight",
    "model.final_layer_norm.pp_block.weight": "model.norm.weight",
    "model.lm_head.pp_block.weight": "lm_head.weight",
}
_PARTS = {
    "input_layernorm.weight": ("input_layernorm.weight",),
    "post_attention_layernorm.weight": ("post_attention_layernorm.weight",),
    "attn.qkv_proj.weight": ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"),
    "attn.o_proj.weight": ("self_attn.o_proj.weight",),
    "mlp.gate_up_proj.weight": ("mlp.gate_proj.weight", "mlp.up_proj.weight"),
    "mlp.down_proj.weight": ("mlp.down_proj.weight",),
}


def hugging_face_names(name: str) -> tuple[str, ...]:
    """The tensors that one of nanotron's holds, in the order of its rows; raises ``KeyError`` for an unknown one."""
    if name in _WHOLE:
        return (_WHOLE[name],)
    match = _LAYER.fullmatch(name)
    if match is None:
        raise KeyError(name)
    return tuple(f"model.layers.{match[1]}.{part}" for part in _PARTS[match[2]])


def split(name: str, tensor: torch.Tensor, architecture: Architecture) -> dict[str, torch.Tensor]:
    """One of nanotron's whole tensors as Hugging Face's; numbers that stand for all of it (a step count) are repeated."""
    names = hugging_face_names(name)
    if tensor.ndim == 0:
        return {each: tensor.clone() for each in names}
    parts = torch.split(tensor, _rows(names, tensor.shape[0], architecture))
    return {
        each: (_halves(part, architecture) if _is_turned(each) else part).contiguous()
        for each, part in zip(names, parts, strict=True)
    }


def join(name: str, tensors: Mapping[str, torch.Tensor], architecture: Architecture) -> torch.Tensor:
    """The inverse of ``split``."""
    parts = [tensors[each] for each in hugging_face_names(name)]
    if parts[0].ndim == 0:
        return parts[0].clone()
    turned = [_is_turned(each) for each in hugging_face_names(name)]
    return torch.cat([_pairs(part, architecture) if is_turned else part for part, is_turned in zip(parts, turned, strict=True)])


@dataclass(frozen=True)
class Shard:
    """What one process holds of one of nanotron's tensors."""

    name: str
    tensor: torch.Tensor
    slices: tuple[tuple[tuple[slice, ...], tuple[slice, ...]], ...]
    """(where in ``tensor``, where in the whole); empty where it is whole."""
    whole: tuple[int, ...]


def shard_of(name: str, parameter: Any, tensor: torch.Tensor) -> Shard:
    """A parameter's shard; ``tensor`` is the parameter itself or something of its shape that belongs to it."""
    if not parameter.is_sharded or tensor.ndim == 0:
        return Shard(name, tensor, (), tuple(tensor.shape))
    info = parameter.get_sharded_info()
    pairs = tuple((pair.local_slices, pair.global_slices) for pair in info.local_global_slices_pairs)
    return Shard(name, tensor, pairs, tuple(info.unsharded_shape))


def fill(shard: Shard, whole: torch.Tensor) -> None:
    """Take this process's part out of the whole."""
    with torch.no_grad():
        if not shard.slices:
            shard.tensor.copy_(whole)
        for local, everywhere in shard.slices:
            shard.tensor[local] = whole[everywhere].to(shard.tensor.device, shard.tensor.dtype)


def gather(shards: Iterable[Shard], world: World, architecture: Architecture) -> dict[str, torch.Tensor]:
    """Every tensor under Hugging Face's names; as ``gather_wholes``."""
    wholes = gather_wholes(shards, world)
    return {each: tensor for name, whole in wholes.items() for each, tensor in split(name, whole, architecture).items()}


def gather_wholes(shards: Iterable[Shard], world: World) -> dict[str, torch.Tensor]:
    """Every tensor whole, in rank 0's memory on the CPU; empty on the other ranks.

    ``shards``: those of which this rank is the first holder. All ranks have to call it.
    """
    own = list(shards)
    wholes: dict[str, torch.Tensor] = {}
    for rank, described in enumerate(_descriptions(own, world)):
        for index, (name, shape, dtype, slices, whole) in enumerate(described):
            part = _moved(own[index].tensor if rank == world.rank else None, shape, dtype, rank, world)
            if part is None:
                continue
            target = wholes.setdefault(name, torch.empty(whole, dtype=dtype))
            if not slices:
                target.copy_(part)
            for local, everywhere in slices:
                target[everywhere] = part[local]
    return wholes


_Description = tuple[
    str, tuple[int, ...], torch.dtype, tuple[tuple[tuple[slice, ...], tuple[slice, ...]], ...], tuple[int, ...]
]


def _descriptions(own: list[Shard], world: World) -> Iterator[list[_Description]]:
    mine: list[_Description] = [
        (shard.name, tuple(shard.tensor.shape), shard.tensor.dtype, shard.slices, shard.whole) for shard in own
    ]
    boxes: list[Any] = [None] * world.size
    distributed.all_gather_object(boxes, mine)
    yield from boxes


def _moved(
    tensor: torch.Tensor | None, shape: tuple[int, ...], dtype: torch.dtype, rank: int, world: World
) -> torch.Tensor | None:
    """A tensor of ``rank`` on rank 0's CPU; None elsewhere."""
    if rank == 0:
        return tensor.detach().to("cpu", copy=True) if tensor is not None else None
    if tensor is not None:
        distributed.send(tensor.detach().contiguous().to(world.device), dst=0)
    if not world.is_main:
        return None
    box = torch.empty(shape, dtype=dtype, device=world.device)
    distributed.recv(box, src=rank)
    return box.to("cpu")


def _rows(names: tuple[str, ...], rows: int, architecture: Architecture) -> list[int]:
    if len(names) == 3:
        head = architecture.hidden_size // architecture.num_attention_heads
        key_value = head * architecture.num_key_value_heads
        return [architecture.hidden_size, key_value, key_value]
    return [rows // len(names)] * len(names)


def _is_turned(name: str) -> bool:
    return name.endswith(("q_proj.weight", "k_proj.weight"))


def _halves(weight: torch.Tensor, architecture: Architecture) -> torch.Tensor:
    """Rows of a head from (0, 1), (2, 3), .. to 0, 2, .., 1, 3, ..: dimension i then turns with i + D/2."""
    head = architecture.hidden_size // architecture.num_attention_heads
    return weight.reshape(-1, head // 2, 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def _pairs(weight: torch.Tensor, architecture: Architecture) -> torch.Tensor:
    head = architecture.hidden_size // architecture.num_attention_heads
    return weight.reshape(-1, 2, head // 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)
