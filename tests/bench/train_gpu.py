"""Training speed on CUDA devices: a Llama of 1.1 B parameters, sequences of 2,048, bfloat16; rate, MFU, memory, stalls.

Run as ``python tests/bench/train_gpu.py [--processes N] [--data fsdp2] [--tensor N] [--micro N] [--steps N] [--no-compile]``.
``make bench-gpu PYTHON=..`` runs it with any interpreter that has what docs/training.md names. It needs no ledger and no
network: tokens are drawn by chance, and the tokenizer only has to fit them. What runs is the train step as the executor starts
it, with its checkpoints. Without a CUDA device it says so in one line and measures nothing.

MFU = tokens/s * (6*N + 12*L*H*S) / (989e12 * devices): PaLM's count (attention in full), the H200's datasheet figure for dense
bfloat16. Steps count from the fifth on, by the times of their events; what checkpoints held the training up is told apart, and
a run in which fewer than two of them fell between those steps measures nothing.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # before any of it is imported, here or by the train step
    needed = ("numpy", "psutil", "pydantic", "rfc8785", "safetensors", "tokenizers", "torch")
    if missing := [name for name in needed if find_spec(name) is None]:
        sys.exit(f"train_gpu: {sys.executable} lacks {', '.join(missing)}: install them there, or name another by PYTHON=..")
    if find_spec("forge") is None:
        sys.exit("train_gpu: Forge is not on the path: run `make bench-gpu`, or set PYTHONPATH=engine:.")

import numpy as np
from tests.bench.goals import Goals, at_least, at_most
from tokenizers import AddedToken, Tokenizer, models

from forge.contract.kinds import STEPS, StepKind
from forge.plan.compute import FLOPS_FORMULA, flops_per_token, num_parameters
from forge.spec.architecture import Architecture

PEAK_FLOPS = 989e12
"""Of one H100 or H200, dense bfloat16, as its datasheet says."""
WARM_STEPS = 5
LEAST_CHECKPOINTS = 2
STEPS_OF_A_RUN = 60
GOALS = {"tokens_per_second": at_least(55_000), "mfu": at_least(50, "%"), "stall": at_most(2, "%")}


@dataclass(frozen=True)
class Scale:
    """What is trained, and on what."""

    architecture: dict[str, Any]
    vocab_size: int
    sequence_length: int
    batch_sequences: int
    micro_sequences: int
    steps: int
    checkpoint_steps: int
    accelerator: str = "cuda"
    processes: int = 1
    data: str = "ddp"
    tensor: int = 1
    compile: bool = True


BILLION = {
    "family": "llama",
    "hidden_size": 2048,
    "num_hidden_layers": 22,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "intermediate_size": 5632,
    "max_position_embeddings": 2048,
}
"""TinyLlama's shape (Zhang et al. 2024)."""


def measure(scale: Scale, folder: Path) -> dict[str, float]:
    """Train once; raises ``RuntimeError`` with the step's own words where it fails."""
    request = request_of(scale, folder)
    (folder / "request.json").write_text(json.dumps(request))
    command = [sys.executable, "-m", "forge.steps", str(folder / "request.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ})
    if done.returncode:
        raise RuntimeError(f"the train step ended with {done.returncode}: {done.stderr[-2000:]}")
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    result = json.loads((folder / "result.json").read_text())
    return figures_of(scale, events, result["metrics"])


def figures_of(scale: Scale, events: list[dict[str, Any]], metrics: dict[str, Any]) -> dict[str, float]:
    """What the table says, from a run's events; raises ``RuntimeError`` where too few checkpoints are among them."""
    steps = [event for event in events if "learning_rate" in event and event["step"] >= WARM_STEPS]
    first, last = steps[0], steps[-1]
    stalls = [
        event for event in events if "checkpoint_stall_seconds" in event and first["time"] < event["time"] <= last["time"]
    ]
    if len(stalls) < LEAST_CHECKPOINTS:
        raise RuntimeError(
            f"{len(stalls)} checkpoints were written between steps {first['step']} and {last['step']}, and a stall is measured "
            f"over {LEAST_CHECKPOINTS} or more: train more steps (--steps)"
        )
    stalled, seconds = sum(event["checkpoint_stall_seconds"] for event in stalls), last["time"] - first["time"]
    rate = (last["tokens"] - first["tokens"]) / max(1e-9, seconds - stalled)
    per_token = flops_per_token(Architecture(**scale.architecture), scale.vocab_size, scale.sequence_length)
    return {
        "tokens_per_second": rate,
        "mfu": rate * per_token / (PEAK_FLOPS * scale.processes),
        "memory_gib": max(event["memory_bytes"] for event in steps) / 2**30,
        "stall": stalled / max(1e-9, seconds),
        "stalled_seconds": stalled / max(1, len(stalls)),
        "train_loss": metrics["train_loss"],
    }


def checkpoint_steps_of(steps: int) -> int:
    """Steps between two checkpoints: one is due after each quarter of a run, and two are in place before its last step."""
    return max(1, steps // 4)


def request_of(scale: Scale, folder: Path) -> dict[str, Any]:
    """The train step's request, its inputs beside it."""
    inputs = {
        "tokens": write_tokens(folder / "tokens", scale),
        "tokenizer": write_tokenizer(folder / "tokenizer", scale.vocab_size),
    }
    batch = scale.batch_sequences * scale.sequence_length
    return {
        "schema_version": 1,
        "step": "train",
        "step_version": STEPS[StepKind.TRAIN].version,
        "key": "sha256:" + "0" * 64,
        "subject": "Model/bench",
        "parameters": {
            "objective": "pretrain",
            "architecture": scale.architecture,
            "training": {
                "tokens": scale.steps * batch,
                "sequence_length": scale.sequence_length,
                "batch_tokens": batch,
                "micro_batch_sequences": scale.micro_sequences,
                "optimizer": {"lr": 3e-4},
                "schedule": {"name": "cosine", "warmup_tokens": 2 * batch},
                "precision": "bfloat16",
            },
        },
        "settings": {
            "training": {
                "checkpoint_every_tokens": scale.checkpoint_steps * batch,
                "parallelism": {"data": scale.data, "tensor": scale.tensor},
                "compile": scale.compile,
            }
        },
        "inputs": {
            name: {"digest": f"sha256:{number}" + "0" * 63, "path": str(path)}
            for number, (name, path) in enumerate(inputs.items())
        },
        "output": str(folder / "output"),
        "scratch": str(folder / "scratch"),
        "attempt": 1,
        "resources": {
            "accelerator": scale.accelerator,
            "processes": scale.processes,
            "threads": max(1, (os.cpu_count() or 1) // 2),
        },
    }


def write_tokens(folder: Path, scale: Scale) -> Path:
    """Documents of 500 tokens drawn by chance: the product ``tokens``."""
    folder.mkdir()
    splits = {}
    for name, windows in (("train", 4 * scale.batch_sequences), ("validation", scale.processes)):
        documents = max(1, windows * scale.sequence_length // 500 + 1)
        tokens = np.random.default_rng(0).integers(3, scale.vocab_size, size=(documents, 500), dtype="<u2")
        tokens[:, -1] = 2
        tokens.tofile(folder / f"{name}.ds")
        (np.arange(1, documents + 1, dtype="<u8") * 500).tofile(folder / f"{name}.ds.index")
        splits[name] = {"documents": documents, "tokens": tokens.size, "bytes": 4 * tokens.size}
    meta = {"schema_version": 1, "dtype": "uint16", "vocab_size": scale.vocab_size, "eos_token_id": 2, "bos_token_id": 1}
    (folder / "meta.json").write_text(json.dumps({**meta, "splits": splits}))
    return folder


def write_tokenizer(folder: Path, vocab_size: int) -> Path:
    """A tokenizer of so many characters: the product ``tokenizer``."""
    folder.mkdir()
    pieces = ["<unk>", "<s>", "</s>", *(chr(0x3400 + index) for index in range(vocab_size - 3))]
    tokenizer = Tokenizer(models.BPE({piece: index for index, piece in enumerate(pieces)}, [], unk_token="<unk>"))
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in pieces[:3]])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def main(arguments: list[str]) -> int:
    """Measure and print a table, or say in one line why not."""
    import torch

    if not torch.cuda.is_available():
        print(f"train_gpu: torch {torch.__version__} finds no CUDA device here: nothing is measured", file=sys.stderr)
        return 1
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--data", choices=("ddp", "fsdp2"), default="ddp")
    parser.add_argument("--tensor", type=int, default=1)
    parser.add_argument("--micro", type=int, default=16)
    parser.add_argument("--steps", type=int, default=STEPS_OF_A_RUN)
    parser.add_argument("--no-compile", action="store_true")
    given = parser.parse_args(arguments)
    batch = 4 * given.micro * (given.processes // given.tensor)
    scale = Scale(
        BILLION, 32_000, 2048, batch, given.micro, given.steps, checkpoint_steps_of(given.steps), "cuda", given.processes,
        given.data, given.tensor, not given.no_compile,
    )  # fmt: skip
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        try:
            found = measure(scale, Path(folder))
        except RuntimeError as error:
            print(f"train_gpu: {error}", file=sys.stderr)
            return 1
    number = num_parameters(Architecture(**scale.architecture), scale.vocab_size)
    device = f"{given.processes} x {torch.cuda.get_device_name()}"
    print(f"{number / 1e9:.2f} B parameters, {device}, {scale.data}; MFU by {FLOPS_FORMULA}, of 989 TFLOP/s")
    print("| what | figure | goal |\n|---|---|---|")
    goals = Goals()
    rate = found["tokens_per_second"] / given.processes
    print(f"| tokens/s a device | {rate:,.0f} | {goals.judge('tokens/s a device', rate, GOALS['tokens_per_second'])} |")
    print(f"| MFU | {found['mfu']:.1%} | {goals.judge('MFU', 100 * found['mfu'], GOALS['mfu'])} |")
    print(f"| memory (GiB, most of one device) | {found['memory_gib']:.1f} | |")
    judged = goals.judge("stall of a checkpoint", 100 * found["stall"], GOALS["stall"])
    print(f"| stall of a checkpoint (s, share) | {found['stalled_seconds']:.2f}, {found['stall']:.2%} | {judged} |")
    print("| peers | MPT-1B 45,455 tokens/s, 41.8% MFU (H100, llm-foundry); TinyLlama 1.1B 52% MFU (A100, litgpt) | |")
    print(f"\n{goals.summary()}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
