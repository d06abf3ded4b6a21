"""A train step on a CUDA device that is not there: torch's fake tensors carry shapes, types and devices, and no numbers.

Run as ``python -m tests.steps.train.fake_cuda LIBRARY REQUEST..`` in a process of its own, for what it patches is torch. Each
request is a train step's, and its own file names what to put in the way (``SPOILT``). Prints, for each, a line of JSON.

What a device does not do here: hold numbers (whatever asks for one is told 1), write a checkpoint, and add over processes.
What it does: refuse an operator whose tensors lie on two devices, one that has no rule for its shapes, and one that a device
refuses because it is not deterministic.
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.steps.fake_device import SPOILT, load_device

if __name__ == "__main__":
    load_device(sys.argv[1])

import torch
from tests.steps.deterministic import NothingRefused
from torch import distributed
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.overrides import TorchFunctionMode
from torch.testing._internal.distributed.fake_pg import FakeStore

from forge.contract.messages import StepRequest
from forge.steps.run import StepRun
from forge.steps.train import distributed as ranks
from forge.steps.train import keeping, loop, worker
from forge.steps.train.data import Batch
from forge.steps.train.distributed import World

_NUMBERS = {"__float__": 1.0, "item": 1.0, "__int__": 1, "__bool__": True}


class Waits(TorchFunctionMode):
    """Answers whatever asks a device for a number, and counts that: the training waits for the device there."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, function: Any, _types: Any, arguments: Any = (), named: Any = None) -> Any:
        name = getattr(function, "__name__", "")
        tensor = arguments[0] if arguments else None
        if name in {"scatter_", "scatter_add_"} and tensor.device.type == "cuda":  # of a matrix torch's deterministic one waits
            self.count += tensor.ndim > 1
        if not isinstance(tensor, torch.Tensor) or name not in {*_NUMBERS, "tolist"}:
            return function(*arguments, **(named or {}))
        self.count += tensor.device.type == "cuda"
        return _ones(tuple(tensor.shape), 1.0 if tensor.is_floating_point() else 1) if name == "tolist" else _NUMBERS[name]


def _ones(shape: tuple[int, ...], one: float) -> Any:
    return [_ones(shape[1:], one) for _ in range(shape[0])] if shape else one


class Nothing:
    """A stream or an event of a device that is not there."""

    def __init__(self, *_positional: Any, **_named: Any) -> None:
        pass

    def __getattr__(self, _name: str) -> Any:
        return lambda *_positional, **_named: Nothing()


class NoWriter:
    """In the place of ``ShardWriter``: looks at what it would copy."""

    def __init__(self, _world: World) -> None:
        pass

    def begin(self, _folder: Path, _state: Any, tensors: dict[str, torch.Tensor], _then: Any) -> None:
        assert {name for name, tensor in tensors.items() if tensor.device.type != "cuda"} == {"rng.cpu"}

    def is_done(self) -> bool:
        return False

    def finish(self) -> None:
        return None


def patch() -> None:
    """Let torch say that a device is there; a process group that adds nothing; no number decides anything."""
    cuda: Any = torch.cuda
    said = {"is_available": True, "is_initialized": True, "is_bf16_supported": True, "device_count": 8, "current_device": 0}
    for name, value in {**said, "max_memory_allocated": 1, "get_device_name": "none", "set_device": None}.items():
        setattr(cuda, name, lambda *_arguments, value=value: value)
    cuda.amp.common.amp_definitely_not_available = lambda: False
    cuda.Stream = cuda.Event = torch.Stream = torch.Event = Nothing
    cuda.current_stream, cuda.stream = Nothing, lambda _stream: nullcontext()
    FakeTensorMode.avoid_device_init = True
    distributed.FileStore = lambda *_arguments: FakeStore()  # type: ignore[attr-defined]
    ranks._BACKENDS["cuda"] = "fake"
    keeping.ShardWriter = NoWriter  # type: ignore[assignment, misc]
    for module in (ranks, loop):
        module.first_reason = lambda _askers: None  # type: ignore[attr-defined]


def run(path: Path) -> int:
    """Train; returns how often its steps waited for the device, validations and checkpoints not counted."""
    request = StepRequest.model_validate_json(path.read_bytes())
    os.environ |= {"RANK": "0", "WORLD_SIZE": str(request.resources.processes)}
    waits, in_steps = Waits(), 0
    open_world, outline, move, step = ranks.open_world, worker.outline, Batch.to, loop.Trainer._step

    @contextmanager
    def faked(*arguments: Any) -> Iterator[World]:
        with open_world(*arguments) as world, FakeTensorMode(allow_non_fake_inputs=True), waits, NothingRefused():
            yield world

    def outlined(*arguments: Any) -> Any:
        with unset_fake_temporarily():  # a fake tensor of the meta device is given no memory
            return outline(*arguments)

    def exported(_place: Path, weights: dict[str, torch.Tensor], *_others: Any) -> None:
        assert weights
        assert {tensor.device.type for tensor in weights.values()} == {"cpu"}

    def stepped(trainer: loop.Trainer, *arguments: Any) -> Any:
        nonlocal in_steps
        before = waits.count
        reason = step(trainer, *arguments)
        in_steps += waits.count - before
        return reason

    changes: dict[str, Any] = {"open_world": faked, "outline": outlined, "export_weights": exported}
    before = {name: getattr(worker, name) for name in changes}
    try:
        for name, change in changes.items():
            setattr(worker, name, change)
        loop.Trainer._step = stepped  # type: ignore[method-assign]
        if request.settings.get(SPOILT):
            Batch.to = lambda self, device: replace(move(self, device), documents=self.documents)  # type: ignore[method-assign]
        worker.train(StepRun(request, path.parent, None))
    finally:
        for name, value in before.items():
            setattr(worker, name, value)
        Batch.to, loop.Trainer._step = move, step  # type: ignore[method-assign]
    return in_steps


if __name__ == "__main__":
    patch()
    for request_path in sys.argv[2:]:
        try:
            found: dict[str, Any] = {"waits": run(Path(request_path))}
        except Exception as error:  # noqa: BLE001 (which one it is, is the finding)
            found = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(found), flush=True)
