"""Import nanotron 0.4 as it was published, but for the changes below.

Rules:
1. What is compiled are the bytes that ``wheel`` has compared with the release's digest, after these changes and no others.
2. A change names what it replaces, word for word, and how often that stands there; where it does not, nothing is imported.
3. No change adds or removes a line: tracebacks point at the lines of the release.
4. ``nanotron`` is imported by this loader or not at all: a nanotron that was imported before it is refused.
5. Nothing outside the modules of nanotron is changed: neither torch nor what flash-attn's own name stands for.
"""

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec, spec_from_loader
from pathlib import Path
from types import CodeType, ModuleType

from packaging.version import Version

from forge.errors import StepError
from forge.steps.nanotron.wheel import PACKAGE, read_wheel

_STAND_INS = "forge.steps.nanotron.stand_ins"
_NO_CUDA = "forge_no_cuda"
_FLASH_ATTENTION = "flash-attn"
_OLDEST_FLASH_ATTENTION = Version("2.5.0")
"""What nanotron 0.4 asks for; it can be told to add up in one order since 2.4.1."""


@dataclass(frozen=True)
class Change:
    """One piece of a module's text, and what stands in its place."""

    module: str
    old: str
    new: str
    times: int = 1


ALWAYS = (
    # The module that everybody imports imports the configuration, which imports everybody; it needs the name for an annotation.
    Change("nanotron.logging", "from nanotron.config.config import LoggingArgs", "from typing import Any as LoggingArgs"),
    # Another model, with needs of its own.
    Change("nanotron.trainer", "from nanotron.models.starcoder2 import Starcoder2ForTraining", "Starcoder2ForTraining = None"),
    # It imports datasets and transformers; Forge's own batches are fed.
    Change("nanotron.trainer", "from nanotron.dataloader import sanity_check_dataloader", "sanity_check_dataloader = None"),
    # The root logger is the process's, and so is its level.
    Change(
        "nanotron.trainer",
        "set_ranks_logging_level(parallel_context=self.parallel_context, logging_config=self.config.logging)",
        "pass",
    ),
    # A step tells a network nothing.
    Change("nanotron.trainer", "    import wandb\n", "    wandb = None\n"),
)
WITHOUT_FLASH_ATTENTION = (
    Change("nanotron.models.llama", "from flash_attn import bert_padding", "bert_padding = None  # generation only"),
    Change("nanotron.models.llama", "from flash_attn.flash_attn_interface import (", f"from {_STAND_INS} import ("),
    Change("nanotron.models.llama", "    flash_attn_with_kvcache,\n", "\n"),
    Change("nanotron.models.llama", "from flash_attn.layers.rotary import", f"from {_STAND_INS} import"),
    Change("nanotron.nn.layer_norm", "from flash_attn.ops.triton.layer_norm import", f"from {_STAND_INS} import"),
)
WITH_FLASH_ATTENTION = (
    # In its backward pass flash-attn adds up queries' gradients in whatever order they come, unless it is told not to.
    Change(
        "nanotron.models.llama",
        "causal=causal,\n            return_attn_probs=False,",
        "causal=causal,\n            return_attn_probs=False, deterministic=True,",
    ),
)
_WITHOUT_CUDA = (('"cuda"', '"cpu"'), ("torch.cuda.", f"{_NO_CUDA}."))
"""Of every module: where tensors lie, and what is asked of CUDA's own functions."""


@dataclass(frozen=True)
class Machine:
    """What nanotron is made to run on."""

    cuda: bool
    flash_attention: bool

    def __str__(self) -> str:
        return f"{'cuda' if self.cuda else 'cpu'}, attention by {'flash-attn' if self.flash_attention else 'torch'}"


def machine_for(accelerator: str, precision: str) -> Machine:
    """CUDA where it is asked for; flash-attn where it is installed there and computes the precision (float32 it does not)."""
    cuda = accelerator == "cuda"
    return Machine(cuda, cuda and precision == "bfloat16" and _has_flash_attention())


def flash_attention_version() -> str:
    """Of the flash-attn that is installed; raises ``StepError`` for one that nanotron cannot use."""
    found = version(_FLASH_ATTENTION)
    if Version(found) < _OLDEST_FLASH_ATTENTION:
        raise StepError(
            f"flash-attn {found} is installed, but nanotron 0.4 needs {_OLDEST_FLASH_ATTENTION} or newer; "
            "renew it, or remove it: torch's own attention is used then"
        )
    try:
        importlib.import_module("flash_attn")
    except ImportError as error:  # most often it was built for another torch
        raise StepError(
            f"flash-attn {found} is installed, but it cannot be imported: {error}; build it for this torch, "
            "or remove it: torch's own attention is used then"
        ) from error
    return found


def _has_flash_attention() -> bool:
    """By the package's name: flash-attn-4, another package, puts a module into a folder of the same name."""
    try:
        return bool(version(_FLASH_ATTENTION))
    except PackageNotFoundError:
        return False


def load(machine: Machine) -> None:
    """Make ``import nanotron`` give the changed release; raises ``StepError`` for any other one. Once a process."""
    present = next((finder for finder in sys.meta_path if isinstance(finder, _Finder)), None)
    if present is not None:
        if present.machine != machine:
            raise StepError(f"nanotron is loaded for {present.machine} in this process, and cannot be for {machine} too")
        return
    if PACKAGE in sys.modules:
        raise StepError("nanotron was imported before Forge's loader: its trainings run in a process that imports nothing else")
    if machine.flash_attention:
        flash_attention_version()
    sys.meta_path.insert(0, _Finder(changed_sources(read_wheel(), machine), machine))
    if not machine.cuda:
        from forge.steps.nanotron.stand_ins import average_on_gloo

        average_on_gloo(importlib.import_module("nanotron.distributed"))


def changed_sources(sources: dict[str, bytes], machine: Machine) -> dict[str, str]:
    """Module -> text with the changes made; raises ``StepError`` for a change that finds not what it is made for."""
    modules = {_module_of(path): data.decode("utf-8") for path, data in sources.items()}
    for name in list(modules):  # a folder without an __init__.py is a package too
        modules.setdefault(name.rpartition(".")[0] or PACKAGE, "")
    for change in ALWAYS + (WITH_FLASH_ATTENTION if machine.flash_attention else WITHOUT_FLASH_ATTENTION):
        found = modules.get(change.module, "").count(change.old)
        if found != change.times:
            raise StepError(f"{change.module}: {change.old!r} stands there {found} times, expected {change.times}")
        modules[change.module] = modules[change.module].replace(change.old, change.new)
    if not machine.cuda:
        for old, new in _WITHOUT_CUDA:
            modules = {name: text.replace(old, new) for name, text in modules.items()}
    return modules


class _Finder(MetaPathFinder):
    """Answers for nanotron's modules, and only for them."""

    def __init__(self, sources: dict[str, str], machine: Machine) -> None:
        spec = find_spec(PACKAGE)
        if spec is None or spec.origin is None:
            raise StepError("nanotron went away while it was being loaded")
        self._folder = Path(spec.origin).parent
        self._sources = sources
        self.machine = machine

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,  # noqa: ARG002
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] != PACKAGE:
            return None
        if fullname not in self._sources:
            raise ModuleNotFoundError(f"nanotron 0.4 has no module {fullname}", name=fullname)
        parts = fullname.split(".")[1:]
        is_package = any(name.startswith(f"{fullname}.") for name in self._sources)
        origin = (
            self._folder.joinpath(*parts, "__init__.py") if is_package else self._folder.joinpath(*parts).with_suffix(".py")
        )
        loader = _Loader(self._sources[fullname], origin, self.machine)
        spec = spec_from_loader(fullname, loader, origin=str(origin), is_package=is_package)
        if spec is not None:
            spec.has_location = True  # inspect, which torch.jit asks, finds the lines by the file's name
        return spec


class _Loader(InspectLoader):
    """Compiles one module's changed text."""

    def __init__(self, source: str, origin: Path, machine: Machine) -> None:
        self._source, self._origin, self._machine = source, origin, machine

    def get_source(self, fullname: str) -> str:  # noqa: ARG002
        """The changed text."""
        return self._source

    def get_code(self, fullname: str) -> CodeType:  # noqa: ARG002
        """The changed text, compiled under the file's own name."""
        return compile(self._source, str(self._origin), "exec", dont_inherit=True)

    def is_package(self, fullname: str) -> bool:  # noqa: ARG002
        """As the file's name says."""
        return self._origin.name == "__init__.py"

    def exec_module(self, module: ModuleType) -> None:
        """Run it; without CUDA it knows the stand-in by a name of its own."""
        if not self._machine.cuda:
            from forge.steps.nanotron.stand_ins import NoCuda

            module.__dict__[_NO_CUDA] = NoCuda
        super().exec_module(module)


def _module_of(path: str) -> str:
    parts = path.removesuffix(".py").split("/")
    return ".".join([PACKAGE, *(parts[:-1] if parts[-1] == "__init__" else parts)])
