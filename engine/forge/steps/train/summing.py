"""The sum of gradients over the shares of a batch, while the backward pass is still at work.

Rules:
1. Gradients are summed once per optimiser step, in the pass of its last micro-batch; before it they are accumulated.
2. They are summed in buckets, which are made of the parameters once, from the last to the first, as their gradients become
   ready; a bucket is begun when it and those before it are ready (as in Li et al. 2020). So every rank begins the same
   collectives in the same order, whatever order its own pass takes.
3. FSDP2 sums by itself, inside the pass, into each process's slices.
"""

from typing import Any

import torch
from torch import distributed, nn
from torch.distributed.fsdp import FSDPModule

from forge.steps.train.distributed import DATA, World
from forge.steps.train.sharding import local

BUCKET_BYTES = 25 * 2**20
"""What one collective sums, as in torch's own DistributedDataParallel: small ones cost latency, large ones begin late."""


class GradientSum:
    """Replaces each gradient of a model by its sum over the shares of a batch."""

    def __init__(self, model: nn.Module, world: World) -> None:
        self._model = model
        self._group: Any = None
        self._buckets: list[list[nn.Parameter]] = []
        self._is_last = False
        self._ready: list[int] = []
        """Gradients of each bucket that are ready."""
        self._begun: list[tuple[list[torch.Tensor], torch.Tensor, Any]] = []
        """Of each bucket begun: its gradients, their copies in one piece, and the collective that sums these."""
        if world.mesh is None or world.data_size == 1 or isinstance(model, FSDPModule):
            return
        self._group = world.mesh[DATA].get_group()
        self._buckets = _buckets(model)
        for number, bucket in enumerate(self._buckets):
            for parameter in bucket:
                parameter.register_post_accumulate_grad_hook(self._hook(number))  # type: ignore[no-untyped-call]

    def before(self, *, is_last: bool) -> None:
        """Say which micro-batch the next backward pass is of: the step's last, or one that only accumulates."""
        self._is_last = is_last
        if isinstance(self._model, FSDPModule):
            self._model.set_requires_gradient_sync(is_last)

    def finish(self) -> None:
        """Wait for all sums, after the last backward pass of a step."""
        while len(self._begun) < len(self._buckets):  # a parameter that took part in nothing was never ready
            self._begin()
        for gradients, flat, work in self._begun:
            work.wait()
            parts = torch.split(flat, [gradient.numel() for gradient in gradients])
            for gradient, summed in zip(gradients, parts, strict=True):
                gradient.copy_(summed.view_as(gradient))
        self._begun, self._ready = [], []

    def _hook(self, number: int) -> Any:
        def is_ready(_parameter: torch.Tensor) -> None:
            if not self._is_last:
                return
            self._ready = self._ready or [0] * len(self._buckets)
            self._ready[number] += 1
            while len(self._begun) < len(self._buckets) and self._ready[len(self._begun)] == len(
                self._buckets[len(self._begun)]
            ):
                self._begin()

        return is_ready

    def _begin(self) -> None:
        bucket = self._buckets[len(self._begun)]
        for parameter in bucket:
            if parameter.grad is None:  # as another rank may have one, and copies of a model stay equal
                parameter.grad = torch.zeros_like(parameter)
        gradients = [local(parameter.grad) for parameter in bucket if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        self._begun.append((gradients, flat, distributed.all_reduce(flat, group=self._group, async_op=True)))


def _buckets(model: nn.Module) -> list[list[nn.Parameter]]:
    found: list[list[nn.Parameter]] = []
    size = 0
    for parameter in reversed([parameter for parameter in model.parameters() if parameter.requires_grad]):
        if not found or size >= BUCKET_BYTES:
            found.append([])
            size = 0
        found[-1].append(parameter)
        size += local(parameter).nbytes
    return found
