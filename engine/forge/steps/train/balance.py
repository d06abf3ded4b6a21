"""The load-balancing loss of a mixture of experts, over the whole batch of an optimiser step, and what is told of the load.

Definition (Fedus et al. 2021, equations 4 to 6, as transformers' ``load_balancing_loss_func`` has it): over all layers and
tokens, E * sum over experts of (share of the tokens that chose it) * (mean probability of it). Layers are taken together, as
transformers takes them. The least is k, where all experts are chosen equally often. Its weight is ``router_aux_loss_coef``.

Rules:
1. The batch is the optimiser step's: all micro-batches of all processes. So the weights do not depend on how a batch is cut,
   and a domain that fills a micro-batch is not driven apart over the experts (Qiu et al. 2025).
2. How often an expert was chosen has no gradient, and has to be known before the first one is computed. Where a process has
   several micro-batches they are all read once before, without gradients; with one there is nothing to read twice.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from forge.spec.architecture import Architecture
from forge.steps.train.distributed import World, sum_values
from forge.steps.train.experts import Routing


@dataclass(frozen=True)
class Load:
    """What the routers of a model did with some tokens; layer by layer, expert by expert."""

    tokens: int
    assignments: tuple[tuple[int, ...], ...]
    """[L][E]; each layer's add up to tokens * num_experts_per_tok."""
    probabilities: tuple[tuple[float, ...], ...]
    """[L][E], summed over the tokens."""
    summed_entropy: float

    @property
    def aux_loss(self) -> float:
        """The load-balancing loss, not weighted."""
        rows = self.tokens * len(self.assignments)
        chosen = _over_layers(self.assignments)
        return len(chosen) * sum(a * p for a, p in zip(chosen, _over_layers(self.probabilities), strict=True)) / rows**2

    @property
    def entropy(self) -> float:
        """Of the router's softmax, nats; the mean over tokens and layers."""
        return self.summed_entropy / (self.tokens * len(self.assignments))

    @property
    def max_share(self) -> float:
        """The largest share of a layer's assignments that one expert has."""
        return max(max(layer) / sum(layer) for layer in self.assignments)

    @property
    def dead_experts(self) -> int:
        """Experts, over all layers, that no token was routed to."""
        return sum(not count for layer in self.assignments for count in layer)

    def figures(self) -> dict[str, float | int]:
        """As events and metrics name them."""
        return {
            "router_aux_loss": self.aux_loss,
            "router_entropy": self.entropy,
            "expert_max_share": self.max_share,
            "dead_experts": self.dead_experts,
        }


_Number = TypeVar("_Number", int, float)
Output = torch.Tensor | tuple[torch.Tensor, Routing]
"""What a model gives of tokens and targets: the summed loss, and of a mixture of experts the routing."""


class Balance:
    """The routing of one batch, as its parts come in; of a model without experts it stays empty and costs nothing."""

    def __init__(self, architecture: Architecture, batch_tokens: int, world: World) -> None:
        self._tokens, self._world = batch_tokens, world
        self._layers, self._experts = architecture.num_hidden_layers, architecture.experts
        self._parts: list[Routing] = []
        self._chosen: torch.Tensor | None = None
        """How often each expert was chosen in the whole batch, over all layers and processes [E]; once it is known."""

    def needs_reading_before(self, parts: int) -> bool:
        """Whether a process with so many parts of the batch has to read them before it trains on the first."""
        return self._experts is not None and self._experts.router_aux_loss_coef > 0 and parts > 1

    def know(self, parts: Iterable[Routing]) -> torch.Tensor:
        """The whole batch's choices, from this process's parts of it; every process has to call it."""
        summed = torch.stack([part.assignments.sum(dim=0) for part in parts]).sum(dim=0)
        counts = sum_values([float(count) for count in summed.tolist()], self._world)
        self._chosen = torch.tensor(counts, dtype=torch.float64, device=summed.device)
        return self._chosen

    def objective(self, output: Output) -> tuple[torch.Tensor, torch.Tensor]:
        """A part of the batch: its summed loss, and its share of what is minimised, to go backwards from."""
        loss, routing = split(output)
        objective = loss / self._tokens
        if routing is None or self._experts is None:
            return loss.detach(), objective
        self._parts.append(Routing(*(each.detach() for each in routing)))
        if self._experts.router_aux_loss_coef > 0:
            chosen = self._chosen if self._chosen is not None else self.know([routing])  # the only part of this process
            scale = self._experts.router_aux_loss_coef * self._experts.num_local_experts / (self._tokens * self._layers) ** 2
            objective = objective + scale * (chosen * routing.probabilities.double().sum(dim=0)).sum().float()
        return loss.detach(), objective

    def measure(self, output: Output) -> torch.Tensor:
        """A part that nothing is learnt from: its summed loss."""
        loss, routing = split(output)
        if routing is not None:
            self._parts.append(routing)
        return loss

    def load(self) -> Load | None:
        """What the routers did with the batch, over all processes; every process has to call it. None without experts."""
        if self._experts is None:
            return None
        layers, experts = self._layers, self._experts.num_local_experts
        assignments, probabilities, entropy = [0.0] * (layers * experts), [0.0] * (layers * experts), 0.0
        if self._parts:  # a process may be given none of a short validation split
            assignments = torch.stack([part.assignments for part in self._parts]).sum(dim=0).double().flatten().tolist()
            probabilities = torch.stack([part.probabilities.double() for part in self._parts]).sum(dim=0).flatten().tolist()
            entropy = float(torch.stack([part.entropy for part in self._parts]).double().sum())
        summed = sum_values([entropy, *assignments, *probabilities], self._world)
        entropy, assignments, probabilities = summed[0], summed[1 : 1 + layers * experts], summed[1 + layers * experts :]
        return Load(self._tokens, _rows([int(count) for count in assignments], experts), _rows(probabilities, experts), entropy)


def split(output: Output) -> tuple[torch.Tensor, Routing | None]:
    """The loss, and the routing where the model has experts."""
    return output if isinstance(output, tuple) else (output, None)


def _rows(values: Sequence[_Number], width: int) -> tuple[tuple[_Number, ...], ...]:
    return tuple(tuple(values[first : first + width]) for first in range(0, len(values), width))


def _over_layers(rows: Sequence[Sequence[float]]) -> list[float]:
    return [math.fsum(column) for column in zip(*rows, strict=True)]
