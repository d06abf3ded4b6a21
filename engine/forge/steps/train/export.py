"""The product ``weights``: a Hugging Face folder that transformers and vLLM load without code of ours.

Invariant: the bytes are a function of weights, tokenizer and chat template; no time, path or host enters. Weights of more than
``SHARD_BYTES`` are several files and their index, as transformers writes them, cut in the order of the model's tensors.
"""

import errno
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from tokenizers import Tokenizer

from forge.errors import StepError
from forge.spec.architecture import Architecture, Experts
from forge.spec.base_folder import INDEX_FILE, WEIGHTS_FILE
from forge.steps.control_tokens import read_control_tokens
from forge.steps.train.data import TokensMeta
from forge.steps.train.job import TrainJob
from forge.steps.train.names import to_files
from forge.steps.train.rotary import scaling_of

SHARD_BYTES = 5_000_000_000
"""The most that one file of weights holds, unless a single tensor is larger; the hub's default."""
_COPIED = ("tokenizer.json", "special_tokens_map.json", "added_tokens.json")
_REQUIRED = ("tokenizer.json", "tokenizer_config.json")
_NO_WINDOW = {"use_sliding_window": False, "sliding_window": None}
_CLASSES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", {"attention_bias": False, "mlp_bias": False, "pretraining_tp": 1}),
    "mistral": ("MistralForCausalLM", {"sliding_window": None}),
    "mixtral": ("MixtralForCausalLM", {"sliding_window": None}),
    "qwen2": ("Qwen2ForCausalLM", _NO_WINDOW),
    "qwen3": ("Qwen3ForCausalLM", {"attention_bias": False, **_NO_WINDOW}),
}
"""transformers' class of each family, and what only its ``config.json`` says."""
_FULL = {errno.ENOSPC, errno.EDQUOT}
_OS_ERROR = re.compile(r"\(os error (\d+)\)")
"""How safetensors, which is written in Rust and raises no ``OSError``, ends the words of one."""


def check_tokenizer(folder: Path, meta: TokensMeta) -> None:
    """Refuse a tokenizer that did not make these tokens, or whose ids leave some out; raises ``StepError``."""
    for name in _REQUIRED:
        if not (folder / name).is_file():
            raise StepError(f"{folder}: the tokenizer lacks {name}")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    found = tokenizer.get_vocab_size(with_added_tokens=True)
    if found != meta.vocab_size:
        raise StepError(
            f"{folder / 'tokenizer.json'}: holds {found} tokens, the token files were made for {meta.vocab_size}; "
            "tokenize with this tokenizer first"
        )
    highest = max(tokenizer.get_vocab(with_added_tokens=True).values())
    if highest >= found:
        raise StepError(
            f"{folder / 'tokenizer.json'}: holds {found} tokens, whose ids go up to {highest}: some of them are no token's; "
            "number the tokens without gaps"
        )
    control = read_control_tokens(folder)
    named = (("bos_token", control.before_text, meta.bos_token_id), ("eos_token", control.eos, meta.eos_token_id))
    for name, text, expected in named:
        if tokenizer.token_to_id(text) != expected:
            raise StepError(f"{folder / 'tokenizer_config.json'}: {name} {text!r} is not token {expected} of the token files")


def export_weights(
    folder: Path,
    state: dict[str, torch.Tensor],
    job: TrainJob,
    meta: TokensMeta,
    tokenizer: Path,
    chat_template: str | None = None,
) -> None:
    """Write the whole folder; weights stay in the type they have. ``chat_template``: in place of the job's.

    Raises ``StepError``, caused by an ``OSError``, where the disk is full.
    """
    with _full_disk_named(job.subject, folder):
        _write_folder(folder, state, job, meta, tokenizer, chat_template)


def _write_folder(
    folder: Path,
    state: dict[str, torch.Tensor],
    job: TrainJob,
    meta: TokensMeta,
    tokenizer: Path,
    chat_template: str | None,
) -> None:
    dtype = str(next(iter(state.values())).dtype).removeprefix("torch.")
    tensors = {name: tensor.detach().to("cpu").contiguous() for name, tensor in to_files(state).items()}
    _write_tensors(folder, tensors)
    rows = job.rows_for(meta.vocab_size)
    _write_json(folder / "config.json", model_config(job.architecture, meta, dtype, rows))
    never = {"suppress_tokens": list(range(meta.vocab_size, rows))} if rows > meta.vocab_size else {}
    ends = {"bos_token_id": meta.bos_token_id, "eos_token_id": meta.eos_token_id}
    _write_json(folder / "generation_config.json", {**ends, **never})
    for name in _COPIED:
        if (tokenizer / name).is_file():
            (folder / name).write_bytes((tokenizer / name).read_bytes())
    config = json.loads((tokenizer / "tokenizer_config.json").read_text(encoding="utf-8"))
    config["model_max_length"] = job.architecture.max_position_embeddings
    config["chat_template"] = job.chat_template if chat_template is None else chat_template
    _write_json(folder / "tokenizer_config.json", config)


def model_config(architecture: Architecture, meta: TokensMeta, dtype: str, rows: int | None = None) -> dict[str, Any]:
    """Hugging Face's ``config.json``; the rotary base in the old and the new spelling, for readers of either.

    ``rows``: of the embedding; None: one for each token.
    """
    scaling = scaling_of(architecture)
    common = {
        "vocab_size": meta.vocab_size if rows is None else rows,
        "hidden_size": architecture.hidden_size,
        "intermediate_size": architecture.intermediate_size,
        "num_hidden_layers": architecture.num_hidden_layers,
        "num_attention_heads": architecture.num_attention_heads,
        "num_key_value_heads": architecture.num_key_value_heads,
        "head_dim": architecture.head_size,
        "max_position_embeddings": architecture.max_position_embeddings,
        "rope_theta": architecture.rope_theta,
        "rope_parameters": {"rope_theta": architecture.rope_theta, "rope_type": "default", **scaling},
        **({"rope_scaling": scaling} if scaling else {}),
        "rms_norm_eps": architecture.rms_norm_eps,
        "initializer_range": architecture.initializer_range,
        "tie_word_embeddings": architecture.tie_word_embeddings,
        "hidden_act": "silu",
        "attention_dropout": 0.0,
        "use_cache": True,
        "bos_token_id": meta.bos_token_id,
        "eos_token_id": meta.eos_token_id,
        "dtype": dtype,
        "torch_dtype": dtype,
    }
    kind, own = _CLASSES[architecture.family]
    return {"architectures": [kind], "model_type": architecture.family, **common, **own, **_of_experts(architecture.experts)}


def _of_experts(experts: Experts | None) -> dict[str, Any]:
    if experts is None:
        return {}
    return {
        "num_local_experts": experts.num_local_experts,
        "num_experts_per_tok": experts.num_experts_per_tok,
        "router_aux_loss_coef": experts.router_aux_loss_coef,
        "router_jitter_noise": 0.0,
        "output_router_logits": False,
    }


@contextmanager
def _full_disk_named(subject: str, folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        number = _errno_of(error)
        if number not in _FULL:
            raise
        raise StepError(
            f"{subject}: the weights cannot be written to {folder}: {os.strerror(number)}; the last checkpoint holds what was "
            "trained, and the next attempt writes them from there: make room first"
        ) from OSError(number, os.strerror(number), str(folder))


def _errno_of(error: OSError | SafetensorError) -> int | None:
    if isinstance(error, OSError):
        return error.errno
    found = _OS_ERROR.search(str(error))
    return int(found[1]) if found else None


def _write_tensors(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """One file, or several and an index; each is written as it is read from memory, with no second copy of it."""
    metadata = {"format": "pt"}
    if sum(tensor.nbytes for tensor in tensors.values()) <= SHARD_BYTES:
        save_file(tensors, folder / WEIGHTS_FILE, metadata)
        return
    from huggingface_hub import split_torch_state_dict_into_shards  # half a second, and small models need none of it

    split = split_torch_state_dict_into_shards(tensors, max_shard_size=SHARD_BYTES)
    for file, names in split.filename_to_tensors.items():
        save_file({name: tensors[name] for name in names}, folder / file, metadata)
    if split.is_sharded:
        _write_json(folder / INDEX_FILE, {"metadata": split.metadata, "weight_map": split.tensor_to_filename})


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
