"""What nanotron takes from flash-attn and from CUDA, computed by torch and by the torch backend's own kernels.

Invariant: each function gives what the one that it stands in for gives where nanotron's training calls it, and refuses what
nanotron's training never asks for. Shapes: B sequences, S tokens, N heads, K key/value heads, D head size.
"""

from typing import Any

import torch
from torch import nn

from forge.steps.train.kernels import causal_attention, rms_norm

KERNELS = "torch and forge.steps.train.kernels"
"""What computes here, as a checkpoint names it: one of another is not gone on from, for it rounds differently."""


def flash_attn_varlen_func(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    *,
    causal: bool,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    return_attn_probs: bool = False,
    deterministic: bool = True,  # noqa: ARG001 (it always is)
) -> torch.Tensor:
    """Causal attention of B sequences of one length, [B*S, N, D] with keys and values [B*S, K, D] -> [B*S, N, D]."""
    batch = cu_seqlens_q.numel() - 1
    if q.shape[0] != batch * max_seqlen_q or k.shape[0] != batch * max_seqlen_k or cu_seqlens_k.numel() - 1 != batch:
        raise ValueError(f"expected {batch} full sequences of {max_seqlen_q}, found {q.shape[0]} queries and {k.shape[0]} keys")
    if return_attn_probs or dropout_p or softmax_scale is not None or not causal:
        raise ValueError("only causal attention is computed here: no probabilities, no dropout, no scale of one's own")
    query_bnsd, key_bksd, value_bksd = (each.view(batch, -1, *each.shape[1:]).transpose(1, 2) for each in (q, k, v))
    return causal_attention(query_bnsd, key_bksd, value_bksd).transpose(1, 2).flatten(0, 1)


class RotaryEmbedding(nn.Module):
    """Interleaved rotary embedding: dimension 2i turns with 2i + 1 (Su et al. 2021)."""

    def __init__(self, dim: int, base: float = 10000.0, *, interleaved: bool = False) -> None:
        super().__init__()
        if not interleaved:
            raise ValueError("only the interleaved form is computed here")
        self.dim, self.base = dim, base
        self._cached: tuple[torch.Tensor, torch.Tensor] | None = None

    def forward(self, query_bsnd: torch.Tensor, kv: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Turn queries [B, S, N, D] and the keys of ``kv`` [B, S, 2, K, D] by their positions."""
        cos, sin = self._angles(query_bsnd)
        key, value = kv.unbind(dim=2)
        return _turned(query_bsnd, cos, sin), torch.stack((_turned(key, cos, sin), value), dim=2)

    def _angles(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        length = like.shape[1]
        if self._cached is None or self._cached[0].shape[0] < length or self._cached[0].device != like.device:
            powers = torch.arange(0, self.dim, 2, dtype=torch.int64).float() / self.dim
            angles = torch.outer(torch.arange(length).float(), 1.0 / (self.base**powers)).to(like.device)
            self._cached = angles.cos(), angles.sin()
        cos, sin = (each[:length, None].to(like.dtype) for each in self._cached)
        return cos, sin


def layer_norm_fn(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    *,
    eps: float,
    is_rms_norm: bool,
    residual: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    prenorm: bool = False,
    residual_in_fp32: bool = False,  # noqa: ARG001 (without a residual it says nothing)
    return_dropout_mask: bool = False,
) -> torch.Tensor:
    """Root mean square normalisation over the last dimension, computed in float32 whatever comes in."""
    if not is_rms_norm or bias is not None or residual is not None or dropout_p or prenorm or return_dropout_mask:
        raise ValueError("only plain root mean square normalisation is computed here")
    return rms_norm(x, weight.float(), eps)


class NoCuda:
    """``torch.cuda`` of a machine without it: nothing is held, nothing has to be waited for."""

    @staticmethod
    def is_available() -> bool:
        """No."""
        return False

    @staticmethod
    def device(index: int) -> int:
        """The rank's number, which ``set_device`` passes over."""
        return index

    @staticmethod
    def set_device(_device: int) -> None:
        """There is one device."""

    @staticmethod
    def memory_allocated() -> int:
        """None of an accelerator's."""
        return 0

    max_memory_allocated = max_memory_reserved = memory_allocated

    @staticmethod
    def synchronize() -> None:
        """Nothing runs behind the caller's back."""

    empty_cache = reset_peak_memory_stats = synchronize


class Reduced:
    """Sums under way, which are divided when they are waited for."""

    def __init__(self, works: list[Any], tensors: list[torch.Tensor], divisor: int) -> None:
        self._works, self._tensors, self._divisor = works, tensors, divisor

    def wait(self) -> None:
        """Wait, and divide once."""
        for work in self._works:
            work.wait()
        for tensor in self._tensors:
            tensor.div_(self._divisor)
        self._works, self._tensors = [], []


def average_on_gloo(distributed: Any) -> None:
    """Give ``nanotron.distributed`` reductions that know AVG, which gloo does not: SUM, then a division.

    Several tensors are reduced one by one: torch will do away with the call that takes them together.
    """
    average, total = distributed.ReduceOp.AVG, distributed.ReduceOp.SUM
    reduce = distributed.all_reduce

    def all_reduce(tensor: torch.Tensor, op: Any = total, group: Any = None, async_op: bool = False) -> Any:
        """As torch's, and AVG."""
        return all_reduce_coalesced([tensor], op, group, async_op)

    def all_reduce_coalesced(tensors: list[torch.Tensor], op: Any = total, group: Any = None, async_op: bool = False) -> Any:
        """As nanotron's, and AVG."""
        averaged = op == average
        works = [reduce(tensor, op=total if averaged else op, group=group, async_op=True) for tensor in tensors]
        reduced = Reduced(works, list(tensors) if averaged else [], _ranks(group))
        return reduced if async_op else reduced.wait()

    distributed.all_reduce, distributed.all_reduce_coalesced = all_reduce, all_reduce_coalesced


def _ranks(group: Any) -> int:
    return torch.distributed.get_world_size(group)


def _turned(x_bsnd: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    even, odd = x_bsnd.view(*x_bsnd.shape[:-1], -1, 2).unbind(-1)
    return torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2)
