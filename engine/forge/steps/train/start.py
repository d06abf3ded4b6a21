"""The weights that a training begins with: drawn by the seed, or the base's, tensor by tensor."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from forge.errors import StepError
from forge.steps.train.base import weights_of
from forge.steps.train.job import TrainJob
from forge.steps.train.model import LlamaForCausalLM, drawn_tensors, give_memory, outline, shapes_of
from forge.steps.train.names import from_files, to_files
from forge.steps.train.sharding import fill

_TIED = "lm_head.weight"
_EMBEDDING = "model.embed_tokens.weight"


def initial_model(job: TrainJob, rows: int) -> LlamaForCausalLM:
    """The whole model before its first step, its embedding of so many rows, in float32 on the CPU.

    Raises ``StepError`` for a base of another shape.
    """
    model = outline(job.architecture, rows)
    begin_weights(model, job, torch.device("cpu"))
    return model


def begin_weights(model: LlamaForCausalLM, job: TrainJob, device: torch.device) -> None:
    """Give an outline memory and its weights, of which each process keeps the slices that are its own.

    Whole tensors pass by one after another, so that no process ever holds the whole of a model that is cut. Raises
    ``StepError`` for a base that is not of its shape.
    """
    give_memory(model, device)
    shapes = shapes_of(model)
    whole = drawn_tensors(job.architecture, shapes, job.training.seed) if job.base is None else base_tensors(job.base, shapes)
    for name, tensor in whole:
        fill(model.get_parameter(name), tensor)


def base_tensors(base: Path, shapes: Mapping[str, torch.Size]) -> Iterator[tuple[str, torch.Tensor]]:
    """The base's tensors by the model's names, in float32, one after another: never all of them are in memory.

    ``shapes`` are those of the model. Raises ``StepError``: none may be missing, left over, of another shape, or not finite.
    """
    with ExitStack() as opened:
        place, files = _open(base, opened)
        wanted = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
        in_files = to_files(wanted)
        if _EMBEDDING in files and _TIED in files and _TIED not in in_files:
            head, embedding = (_read(files, name) for name in (_TIED, _EMBEDDING))
            if torch.equal(head, embedding):
                del files[_TIED]  # some writers store the tied projection a second time
        missing, left_over = sorted(in_files.keys() - files.keys()), sorted(files.keys() - in_files.keys())
        if missing or left_over:
            raise StepError(
                f"{place}: is not the model of its config.json: {len(missing)} tensors are missing "
                f"({', '.join(missing[:3]) or 'none'}), {len(left_over)} are left over ({', '.join(left_over[:3]) or 'none'})"
            )
        for name, tensor in wanted.items():
            parts = {part: _checked(files, part, shaped.shape) for part, shaped in to_files({name: tensor}).items()}
            yield name, from_files(parts)[name]


_Files = dict[str, tuple[Path, Any]]
"""Name of a tensor -> the file that holds it, and the same file opened."""


def _open(base: Path, opened: ExitStack) -> tuple[Path, _Files]:
    """The place that says what there is, and the file of each tensor; raises ``StepError`` where the two disagree."""
    place, index = weights_of(base)
    files: _Files = {}
    for path in sorted({place} if index is None else set(index.values())):
        try:
            file = opened.enter_context(safe_open(path, framework="pt"))
            found = list(file.keys())
        except (OSError, SafetensorError) as error:
            raise StepError(f"{path}: cannot be read as safetensors: {error}") from error
        for name in found:
            if index is not None and index.get(name) != path:
                said = "nowhere" if name not in index else f"in {index[name].name}"
                raise StepError(f"{path}: holds {name}, which lies {said} by {place.name}")
            files[name] = path, file
    for name, path in (index or {}).items():
        if name not in files:
            raise StepError(f"{place}: says that {name} lies in {path.name}, which does not hold it")
    return place, files


def _read(files: _Files, name: str) -> torch.Tensor:
    path, file = files[name]
    try:
        tensor: torch.Tensor = file.get_tensor(name)
    except (OSError, SafetensorError) as error:
        raise StepError(f"{path}: {name} cannot be read as safetensors: {error}") from error
    return tensor


def _checked(files: _Files, name: str, shape: torch.Size) -> torch.Tensor:
    """One tensor of the base, in float32."""
    path, tensor = files[name][0], _read(files, name)
    if tensor.shape != shape:
        raise StepError(f"{path}: {name} has the shape {list(tensor.shape)}, its config.json asks for {list(shape)}")
    if not tensor.is_floating_point() or tensor.dtype.itemsize < 2:  # quantised: numbers that need a scale to be read
        raise StepError(f"{path}: {name} holds {tensor.dtype}; expected float32, bfloat16, float16 or float64")
    if not torch.isfinite(tensor).all():
        raise StepError(f"{path}: {name} holds numbers that are not finite; training on from it would give nothing else")
    return tensor.to(torch.float32)
