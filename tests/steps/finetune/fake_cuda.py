"""A tuning through TRL on a CUDA device that is not there, by the rules of ``tests.steps.train.fake_cuda``.

Run as ``python -m tests.steps.finetune.fake_cuda LIBRARY REQUEST..``. Prints, for each, a line of JSON: what was written, and
where its tensors lay. Several processes are not passed over: torch's DDP asks for addresses, which a fake tensor has not.
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.steps.fake_device import SPOILT, load_device

if __name__ == "__main__":
    load_device(sys.argv[1])

import torch
from accelerate import data_loader
from tests.steps.deterministic import NothingRefused
from tests.steps.train import fake_cuda
from torch import nn
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import unset_fake_temporarily
from transformers import Trainer
from trl.trainer import dpo_trainer

from forge.contract.messages import StepRequest
from forge.steps.finetune import run as tuning
from forge.steps.finetune import trainer
from forge.steps.run import StepRun
from forge.steps.train.distributed import World
from forge.steps.train.job import read_job

Written = dict[str, list[str]]


class Waits(fake_cuda.Waits):
    """Answers too for how many numbers a mask picks, which only a device knows: all of them."""

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        index = arguments[1] if len(arguments) > 1 else None
        if getattr(function, "__name__", "") == "__getitem__" and getattr(index, "dtype", None) is torch.bool:
            return arguments[0].flatten(0, index.ndim - 1)
        return super().__torch_function__(function, types, arguments, named)


def moved(module: nn.Module, *to: Any, **named: Any) -> nn.Module:
    """In the place of ``Module.to``, which cannot put a fake tensor into a parameter: new ones, and tied ones stay tied."""
    new: dict[int, nn.Parameter] = {}
    for each in module.modules():
        for name, parameter in each._parameters.items():
            if parameter is not None:
                there = parameter.detach().to(*to, **named)
                made = parameter if there.device == parameter.device else nn.Parameter(there, parameter.requires_grad)
                each._parameters[name] = new.setdefault(id(parameter), made)
        for name, buffer in each._buffers.items():
            if buffer is not None:
                each._buffers[name] = buffer.to(*to, **named)
    return module


def patch() -> None:
    """As pretraining's, and what TRL and the Trainer ask of a device."""
    fake_cuda.patch()
    cuda: Any = torch.cuda
    cuda.manual_seed = cuda.manual_seed_all = cuda.empty_cache = cuda.synchronize = lambda *_arguments: None
    cuda.get_device_capability = lambda *_arguments: (9, 0)
    cuda.get_rng_state = lambda *_arguments: torch.zeros(16, dtype=torch.uint8)
    nn.Module.to = moved  # type: ignore[method-assign, assignment]
    dpo_trainer.hash_module = lambda _module: "no numbers"
    trainer.reason_of_any = lambda _asked, _world: None
    trainer.remove_before = lambda *_arguments: None  # type: ignore[assignment]


def run(path: Path) -> Written:
    """Tune; returns what was written, and the devices that it lay on."""
    request = StepRequest.model_validate_json(path.read_bytes())
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    open_world, model_to_train, prepare = tuning.open_world, tuning.model_to_train, Trainer._prepare_input
    send = data_loader.send_to_device
    written: Written = {}

    def note(what: str, tensors: dict[str, torch.Tensor]) -> None:
        written[what] = sorted({tensor.device.type for tensor in tensors.values()})

    @contextmanager
    def faked(*arguments: Any) -> Iterator[World]:
        with open_world(*arguments) as world, FakeTensorMode(allow_non_fake_inputs=True), Waits(), NothingRefused():
            yield world

    def read(*arguments: Any) -> Any:
        with unset_fake_temporarily():
            return model_to_train(*arguments)

    def saved(_subject: str, folder: Path, _state: Any, groups: dict[str, dict[str, torch.Tensor]]) -> Path:
        for name, tensors in groups.items():
            note(name, tensors)
        return folder

    def exported(_place: Path, weights: dict[str, torch.Tensor], *_others: Any) -> None:
        note("weights", weights)

    tuning.open_world, tuning.model_to_train, tuning.export_weights = faked, read, exported  # type: ignore[assignment]
    trainer.save_named = saved
    if request.settings.get(SPOILT):
        Trainer._prepare_input = lambda _trainer, data: data
        data_loader.send_to_device = lambda data, *_arguments, **_named: data
    try:
        tuning.train(StepRun(request, path.parent, None), read_job(request), path.with_suffix(".group"))
    finally:
        tuning.open_world, tuning.model_to_train, Trainer._prepare_input = open_world, model_to_train, prepare
        data_loader.send_to_device = send
    return written


if __name__ == "__main__":
    patch()
    for request_path in sys.argv[2:]:
        try:
            found: dict[str, Any] = run(Path(request_path))
        except Exception as error:  # noqa: BLE001 (which one it is, is the finding)
            found = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(found), flush=True)
