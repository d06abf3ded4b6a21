"""The two backends side by side on this machine's CPU: the example's architecture, one process or two.

Run as ``python tests/bench/nanotron.py [TOKENS]`` (default 40960). The token files are made up, for a rate does not depend on
what they hold; so it needs no store. Each round runs all of them, each as a step of its own, so that what else the machine does
falls on all. Rates count training steps alone; the seconds are those of the whole step, to its result. Medians of five rounds.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.bench.goals import Goals  # noqa: E402
from tests.steps.train.conftest import VOCAB_SIZE, Attempt, chain_documents, write_tokenizer, write_tokens  # noqa: E402

ROUNDS = 5
TRAINING = {"sequence_length": 256, "batch_tokens": 2048, "micro_batch_sequences": 8, "optimizer": {"lr": 4e-3}, "seed": 17}
RUNS: dict[str, tuple[str, dict[str, int], int]] = {
    "torch, 1 process of 2 threads": ("torch", {}, 1),
    "nanotron, 1 process of 2 threads": ("nanotron", {}, 1),
    "torch, 2 processes": ("torch", {}, 2),
    "nanotron, 2 copies": ("nanotron", {}, 2),
    "nanotron, 2 tensor-parallel ranks": ("nanotron", {"tensor_parallel": 2}, 2),
    "nanotron, 2 stages": ("nanotron", {"pipeline_parallel": 2}, 2),
}


def main(tokens: int) -> None:
    """Measure in turns and print a table."""
    architecture = yaml.safe_load((ROOT / "models" / "handbook" / "model.yaml").read_text())["spec"]["architecture"]
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in RUNS}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        inputs = {
            "tokens": write_tokens(folder / "tokens", chain_documents(400, seed=1), chain_documents(20, seed=2)),
            "tokenizer": write_tokenizer(folder / "tokenizer"),
        }
        for number in range(ROUNDS):
            for name in RUNS:
                attempt = Attempt(
                    root=folder / f"{name}-{number}",
                    **inputs,
                    architecture=architecture,
                    training={**TRAINING, "tokens": tokens},
                )
                measured[name].append(run(attempt, name))
                print(f"round {number + 1}: {name} {measured[name][-1]}", file=sys.stderr)
    print(f"| backend (float32, vocabulary {VOCAB_SIZE}) | tokens/s, median of 5 | the whole step, s |\n|---|---|---|")
    for name, rows in measured.items():
        rate, seconds = (statistics.median(column) for column in zip(*rows, strict=True))
        print(f"| {name} | {rate:,.0f} | {seconds:.1f} |")
    print(f"\n{Goals().summary()}")


def run(attempt: Attempt, name: str) -> tuple[float, float]:
    """Tokens a second, and seconds from request to result."""
    backend, layout, processes = RUNS[name]
    request: dict[str, Any] = json.loads(attempt.request().model_dump_json())
    request["resources"] |= {"processes": processes, "threads": 2 // processes}
    if backend == "nanotron":
        request["parameters"]["backend"] = backend
        request["settings"]["nanotron"] = layout
    path = attempt.folder / "request.json"
    path.write_text(json.dumps(request))
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "forge.steps", str(path)], check=True, stderr=subprocess.DEVNULL)
    return float(attempt.result()["metrics"]["tokens_per_second"]), time.perf_counter() - started


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 40_960)
