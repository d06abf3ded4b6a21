"""The weights that a training begins with: drawn by the seed, or the base's, tensor by tensor."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from forge.errors import StepError
from forge.steps.train.base import vocab_size_of, weights_file
from forge.steps.train.job import TrainJob
from forge.steps.train.model import LlamaForCausalLM, build_model
from forge.steps.train.names import from_files, to_files

_TIED = "lm_head.weight"


def initial_model(job: TrainJob, vocab_size: int) -> LlamaForCausalLM:
    """The model before its first step, on the CPU in float32; raises ``StepError`` for a base that is not of its shape."""
    if job.base is not None:
        rows = vocab_size_of(job.base)
        if rows != vocab_size:
            raise StepError(
                f"{job.base}: its embedding has {rows} rows, the tokens were made for a vocabulary of {vocab_size}; "
                "continue with the tokenizer that the base was trained with"
            )
    model = build_model(job.architecture, vocab_size, job.training.seed)
    if job.base is not None:
        _load(model, weights_file(job.base))
    return model


def _load(model: LlamaForCausalLM, path: Path) -> None:
    """Replace every weight by the file's; none may be missing, left over, of another shape, or not finite."""
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise StepError(f"{path}: cannot be read as safetensors: {error}") from error
    wanted = to_files(model.state_dict())
    if model.lm_head is None and _TIED in tensors and torch.equal(tensors[_TIED], tensors["model.embed_tokens.weight"]):
        del tensors[_TIED]  # some writers store the tied projection a second time
    missing, left_over = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    if missing or left_over:
        raise StepError(
            f"{path}: is not the model of its config.json: {len(missing)} tensors are missing "
            f"({', '.join(missing[:3]) or 'none'}), {len(left_over)} are left over ({', '.join(left_over[:3]) or 'none'})"
        )
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape:
            raise StepError(
                f"{path}: {name} has the shape {list(tensor.shape)}, its config.json asks for {list(wanted[name].shape)}"
            )
        if not tensor.is_floating_point() or tensor.dtype.itemsize < 2:  # quantised: numbers that need a scale to be read
            raise StepError(f"{path}: {name} holds {tensor.dtype}; expected float32, bfloat16, float16 or float64")
        if not torch.isfinite(tensor).all():
            raise StepError(f"{path}: {name} holds numbers that are not finite; training on from it would give nothing else")
    model.load_state_dict(from_files({name: tensor.to(torch.float32) for name, tensor in tensors.items()}))
