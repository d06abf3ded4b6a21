"""A mixture of experts in the place of a feed-forward part, as transformers' ``MixtralForCausalLM`` computes it.

Invariants:
1. Every token goes through exactly k experts. None is dropped: an expert takes as many tokens as choose it (no capacity).
2. Equal inputs give equal bits, forwards and backwards: tokens are brought to their experts and back by permutations, whose
   gradients are permutations again. Nothing is added up in an order that threads decide.
3. The router computes in float32 whatever the rest computes in: a rounded logit sends a token elsewhere.

Shapes: T tokens, E experts, k of them for a token, R = T * k rows sorted by expert, H hidden size, I inner size of an expert.
"""

from typing import Any, NamedTuple, cast

import torch
from torch import nn
from torch.nn import functional

from forge.spec.architecture import Experts


class Routing(NamedTuple):
    """Where a router sent some tokens; of one layer [E], or of all layers [L, E]. Sums over tokens, so that parts add up."""

    assignments: torch.Tensor
    """How often each expert was chosen; int64."""
    probabilities: torch.Tensor
    """The softmax over all experts, summed; float32. The balancing loss goes backwards through it."""
    entropy: torch.Tensor
    """Of that softmax, in nats, summed over the tokens; float32, without gradient."""


class MixtureOfExperts(nn.Module):
    """Token choice (Shazeer et al. 2017): the k most likely experts, weighted by their softmax over each other."""

    def __init__(self, hidden: int, inner: int, experts: Experts) -> None:
        super().__init__()
        self.per_token = experts.num_experts_per_tok
        self.gate = nn.Linear(hidden, experts.num_local_experts, bias=False)
        self.experts = StackedExperts(experts.num_local_experts, hidden, inner)

    def forward(self, x_bsh: torch.Tensor) -> tuple[torch.Tensor, Routing]:
        """Transform each position by its own experts; and say which they were."""
        x_th = x_bsh.flatten(0, -2)
        with torch.autocast(x_th.device.type, enabled=False):
            probabilities_te = self.gate(x_th.float()).softmax(dim=-1)
        chosen_tk, experts_tk = probabilities_te.topk(self.per_token, dim=-1)
        weights_tk = chosen_tk / chosen_tk.sum(dim=-1, keepdim=True)
        order_r, ends_e = sort_by_expert(experts_tk, self.gate.out_features)
        y_th = self.experts(x_th, weights_tk, order_r, ends_e)
        entropy = torch.special.entr(probabilities_te.detach()).sum()
        return y_th.view_as(x_bsh), Routing(ends_e.diff(prepend=ends_e.new_zeros(1)), probabilities_te.sum(dim=0), entropy)


class StackedExperts(nn.Module):
    """The SwiGLU of every expert, one tensor for all: a group of rows is multiplied with a matrix of its own."""

    def __init__(self, count: int, hidden: int, inner: int) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.empty(count, 2 * inner, hidden))
        self.down_proj = nn.Parameter(torch.empty(count, hidden, inner))

    def forward(
        self, x_th: torch.Tensor, weights_tk: torch.Tensor, order_r: torch.Tensor, ends_e: torch.Tensor
    ) -> torch.Tensor:
        """As ``through_experts``."""
        return through_experts(x_th, weights_tk, order_r, ends_e, self.gate_up_proj, self.down_proj)


def sort_by_expert(experts_tk: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Which of all T * k choices stands where when they are sorted by expert, int64 [R]; and where each expert's end, [E]."""
    sorted_r, order_r = experts_tk.flatten().sort(stable=True)
    every_e = torch.arange(count, device=experts_tk.device)
    return order_r, torch.searchsorted(sorted_r, every_e, right=True)


def through_experts(
    x_th: torch.Tensor,
    weights_tk: torch.Tensor,
    order_r: torch.Tensor,
    ends_e: torch.Tensor,
    gate_up_eih: torch.Tensor,
    down_ehi: torch.Tensor,
) -> torch.Tensor:
    """The weighted sum of each token's experts; the rows of expert e end before ``ends_e[e]`` in the sorted order.

    Gate and up stand in one tensor, [E, 2 * I, H]. Computed in autocast's type where that is in force.
    """
    device = x_th.device.type
    compute = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x_th.dtype
    places_r = order_r.argsort()  # where in the sorted order each of a token's k rows stands
    with torch.autocast(device, enabled=False):
        groups = ends_e.to(torch.int32)
        x_rh = cast("torch.Tensor", _ToExperts.apply(x_th, order_r, places_r, compute))  # type: ignore[no-untyped-call]
        gate_up_ehi, down_eih = (_turned(each, groups, compute) for each in (gate_up_eih, down_ehi))
        both_ri = functional.grouped_mm(x_rh, gate_up_ehi, offs=groups)
        gate_ri, up_ri = both_ri.chunk(2, dim=-1)
        y_rh = functional.grouped_mm(functional.silu(gate_ri) * up_ri, down_eih, offs=groups)
        y_tkh = cast("torch.Tensor", _FromExperts.apply(y_rh, order_r, places_r))  # type: ignore[no-untyped-call]
        y_tkh = y_tkh.view(*weights_tk.shape, -1)
        return (y_tkh.float() * weights_tk[..., None]).sum(dim=1).to(x_th.dtype)


def _turned(weight: torch.Tensor, groups: torch.Tensor, compute: torch.dtype) -> torch.Tensor:
    """The matrices of all experts as their rows are multiplied with them, in the type that they compute in."""
    if weight.device.type == "cpu":
        return weight.to(compute).transpose(1, 2)
    return cast("torch.Tensor", _Turned.apply(weight, groups, compute))  # type: ignore[no-untyped-call]


class _Turned(torch.autograd.Function):
    """The same, and backwards nothing for an expert that no row went to.

    torch's kernel for Blackwell leaves there what the memory held before (pytorch/pytorch#172439).
    """

    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, groups: torch.Tensor, compute: torch.dtype) -> torch.Tensor:
        ctx.save_for_backward(groups)
        ctx.dtype = weight.dtype
        return weight.to(compute).transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (groups,) = ctx.saved_tensors
        unused_e = groups.diff(prepend=groups.new_zeros(1)) == 0
        return grad_outputs[0].transpose(1, 2).masked_fill(unused_e[:, None, None], 0.0).to(ctx.dtype), None, None


class _ToExperts(torch.autograd.Function):
    """Each token's row k times, sorted by expert, in the type that experts compute in.

    Backwards a token's k rows are added in the order of its choice, in the type that it came in.
    """

    @staticmethod
    def forward(
        ctx: Any, x_th: torch.Tensor, order_r: torch.Tensor, places_r: torch.Tensor, compute: torch.dtype
    ) -> torch.Tensor:
        ctx.save_for_backward(places_r)
        ctx.tokens, ctx.dtype = x_th.shape[0], x_th.dtype
        return x_th.to(compute)[order_r // (order_r.shape[0] // x_th.shape[0])]

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (places_r,) = ctx.saved_tensors
        rows_tkh = grad_outputs[0][places_r].view(ctx.tokens, -1, grad_outputs[0].shape[-1])
        return rows_tkh.sum(dim=1, dtype=ctx.dtype), None, None, None


class _FromExperts(torch.autograd.Function):
    """Rows back in the order of tokens and their choices; backwards the other way."""

    @staticmethod
    def forward(ctx: Any, y_rh: torch.Tensor, order_r: torch.Tensor, places_r: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(order_r)
        return y_rh[places_r]

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (order_r,) = ctx.saved_tensors
        return grad_outputs[0][order_r], None, None
