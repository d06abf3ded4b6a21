"""Attention and normalisation for a CPU: the same functions as torch's own, with backward passes that cost less there.

Why: torch computes the backward pass of its CPU attention at a fraction of the speed of its matrix products, and its RMS
normalisation as a chain of elementwise passes. At the sizes that a CPU can train these two were half of a step. Elsewhere
torch has fused kernels, and they are used.

Invariant: which kernel runs is a function of device and shapes alone, so a run gives the same bits whether or not it was
interrupted. Probabilities are rounded to the type of the queries, as in every attention that is not fused; sums over a
softmax and over H are float32 (torch's own kernels do the same).

Shapes: B sequences, N heads, K key/value heads, G = N / K, S tokens, D head size, H hidden size.
"""

from typing import Any, cast

import torch
from torch.nn import functional

_BLOCK = 128
"""Queries of one block: what a block must not see (the keys after it) is never computed."""
_LONGEST = 1024
"""Longer sequences go to torch's kernel, which keeps no probabilities: S * S / 2 of them for each head are kept here."""


def causal_attention(
    query_bnsd: torch.Tensor, key_bksd: torch.Tensor, value_bksd: torch.Tensor, visible_b1ss: torch.Tensor | None = None
) -> torch.Tensor:
    """Causal attention with grouped queries (Ainslie et al. 2023), scaled by D ** -1/2.

    ``visible_b1ss`` says which of the places before it a place sees, itself at least; None: all of them.
    """
    device = query_bnsd.device.type
    compute = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else query_bnsd.dtype
    if device == "cpu" and query_bnsd.shape[-2] <= _LONGEST:
        with torch.autocast(device, enabled=False):
            inputs = (tensor.to(compute) for tensor in (query_bnsd, key_bksd, value_bksd))
            return cast("torch.Tensor", _CausalAttention.apply(*inputs, visible_b1ss))  # type: ignore[no-untyped-call]
    if visible_b1ss is None and (device == "cpu" or compute != torch.float32):
        return functional.scaled_dot_product_attention(query_bnsd, key_bksd, value_bksd, is_causal=True, enable_gqa=True)
    # On CUDA no fused kernel takes a mask, or float32, with fewer keys than queries; the one that takes all would keep S * S
    # probabilities of every head. So the keys of a group are repeated, and the memory-efficient kernel takes them.
    groups = query_bnsd.shape[1] // key_bksd.shape[1]
    key_bnsd, value_bnsd = (_repeated(tensor, groups) for tensor in (key_bksd, value_bksd))
    return functional.scaled_dot_product_attention(
        query_bnsd, key_bnsd, value_bnsd, attn_mask=visible_b1ss, is_causal=visible_b1ss is None
    )


def rms_norm(x_bsh: torch.Tensor, weight_h: torch.Tensor, eps: float) -> torch.Tensor:
    """Root mean square normalisation (Zhang & Sennrich 2019); under autocast on a CPU the result has autocast's type."""
    device = x_bsh.device.type
    if device != "cpu":
        return functional.rms_norm(x_bsh, weight_h.shape, weight_h.to(x_bsh.dtype), eps)  # of one type: else it is not fused
    compute = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x_bsh.dtype
    with torch.autocast(device, enabled=False):
        return cast("torch.Tensor", _RmsNorm.apply(x_bsh, weight_h, eps, compute))  # type: ignore[no-untyped-call]


class _CausalAttention(torch.autograd.Function):
    """Blocks of queries against the keys up to their end; the queries of one key/value head share a matrix product."""

    @staticmethod
    def forward(
        ctx: Any,
        query_bnsd: torch.Tensor,
        key_bksd: torch.Tensor,
        value_bksd: torch.Tensor,
        visible_b1ss: torch.Tensor | None,
    ) -> torch.Tensor:
        query, key, value = (tensor.contiguous() for tensor in (query_bnsd, key_bksd, value_bksd))
        batch, kv_heads, length, head = key.shape
        flat_key, flat_value = (tensor.view(-1, length, head) for tensor in (key, value))
        scaled = query * head**-0.5
        mixed = torch.empty_like(query)
        kept: list[torch.Tensor] = []
        for start, end in _blocks(length):
            scores = torch.bmm(_rows(scaled, kv_heads, start, end), flat_key[:, :end].transpose(1, 2))
            by_query = scores.view(batch * kv_heads, -1, end - start, end)
            by_query[..., start:].masked_fill_(_after(end - start, scores.device), float("-inf"))
            if visible_b1ss is not None:
                hidden = visible_b1ss[:, :, None, start:end, :end].logical_not()
                by_query.view(batch, kv_heads, -1, end - start, end).masked_fill_(hidden, float("-inf"))
            probabilities = torch.softmax(by_query, dim=-1).view_as(scores)
            mixed[:, :, start:end] = torch.bmm(probabilities, flat_value[:, :end]).view(batch, -1, end - start, head)
            kept.append(probabilities)
        ctx.save_for_backward(scaled, key, value, mixed, *kept)
        return mixed

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grad = grad_outputs[0]
        scaled, key, value, mixed, *kept = ctx.saved_tensors
        batch, kv_heads, length, head = key.shape
        flat_key, flat_value = (tensor.view(-1, length, head) for tensor in (key, value))
        weighted = (grad.float() * mixed.float()).sum(-1, keepdim=True).to(grad.dtype)
        grad_query = torch.empty_like(scaled)
        grad_key, grad_value = (torch.zeros_like(tensor, dtype=torch.float32) for tensor in (flat_key, flat_value))
        for (start, end), probabilities in zip(_blocks(length), kept, strict=True):
            rows = _rows(grad, kv_heads, start, end)
            grad_value[:, :end] += torch.bmm(probabilities.transpose(1, 2), rows)
            scores = torch.bmm(rows, flat_value[:, :end].transpose(1, 2))
            scores.sub_(_rows(weighted, kv_heads, start, end)).mul_(probabilities)
            grad_query[:, :, start:end] = torch.bmm(scores, flat_key[:, :end]).view(batch, -1, end - start, head)
            grad_key[:, :end] += torch.bmm(scores.transpose(1, 2), _rows(scaled, kv_heads, start, end))
        grad_query *= head**-0.5
        return grad_query, grad_key.to(key.dtype).view_as(key), grad_value.to(key.dtype).view_as(value), None


class _RmsNorm(torch.autograd.Function):
    """Only the input and one number a row are kept for the way back."""

    @staticmethod
    def forward(ctx: Any, x_bsh: torch.Tensor, weight_h: torch.Tensor, eps: float, compute: torch.dtype) -> torch.Tensor:
        hidden = x_bsh.shape[-1]
        norm = torch.linalg.vector_norm(x_bsh, dim=-1, keepdim=True, dtype=torch.float32)
        inverse = norm.square_().div_(hidden).add_(eps).rsqrt_()
        ctx.save_for_backward(x_bsh, weight_h, inverse)
        return cast("torch.Tensor", (x_bsh * inverse).mul_(weight_h).to(compute))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None, None]:
        x_bsh, weight_h, inverse = ctx.saved_tensors
        normalised = x_bsh * inverse
        by_output = grad_outputs[0] * normalised
        grad_weight = by_output.flatten(0, -2).sum(0)
        share = by_output.mul_(weight_h).sum(-1, keepdim=True).div_(x_bsh.shape[-1])
        grad_input = (grad_outputs[0] * weight_h).sub_(normalised.mul_(share)).mul_(inverse)
        return grad_input, grad_weight, None, None


def _repeated(x_bksd: torch.Tensor, groups: int) -> torch.Tensor:
    """Each key/value head once for every query that it serves, in the order of the queries: [B, N, S, D]."""
    return x_bksd[:, :, None].expand(-1, -1, groups, -1, -1).flatten(1, 2)


def _blocks(length: int) -> list[tuple[int, int]]:
    return [(start, min(start + _BLOCK, length)) for start in range(0, length, _BLOCK)]


def _rows(x_bnsd: torch.Tensor, kv_heads: int, start: int, end: int) -> torch.Tensor:
    """The block's queries (or what belongs to them), those of one key/value head as rows of one matrix: [B*K, G*S', D]."""
    return x_bnsd[:, :, start:end].reshape(x_bnsd.shape[0] * kv_heads, -1, x_bnsd.shape[-1])


def _after(length: int, device: torch.device) -> torch.Tensor:
    """Where a key stands after the query, inside one block."""
    return torch.ones(length, length, dtype=torch.bool, device=device).triu_(1)
