"""The small example with a search: a suite that only the search reads, a Sweep, and a model that names it."""

import gzip
import json
from pathlib import Path

from tests.conftest import MODEL, ROOT, SUITE, TASK

SWEEP = """\
apiVersion: forge/v1
kind: Sweep
metadata: {name: small}
spec:
  objective: {suite: EvalSuite/search, task: search_bpb, metric: bits_per_byte, direction: minimize}
  rounds:
    - sampler: {name: grid}
      space:
        training.optimizer.lr: {choices: [1.0e-3, 1.0e-2]}
"""
"""Two trials beside the model as it is written, whose learning rate of 0.005 lies between them."""


def searched(spec: str, sweep: str = "small") -> str:
    """A Model's file that names a sweep."""
    objective = next(line for line in spec.splitlines(keepends=True) if line.startswith("  objective:"))
    return spec.replace(objective, f"{objective}  sweep: Sweep/{sweep}\n")


def write_search(folder: Path, sweep: str = SWEEP) -> None:
    """Beside the files of the small example: the sweep, its suite, and the model that it is for."""
    (folder / "models" / "model.yaml").write_text(searched(MODEL))
    (folder / "models" / "sweep.yaml").write_text(sweep)
    own = SUITE.replace("small_bpb", "search_bpb").replace("name: small", "name: search").replace("tasks/*", "tasks/search_*")
    (folder / "evals" / "search.yaml").write_text(own)
    other = SUITE.replace("tasks/*", "tasks/small_*")  # else the search's files were the gate's, too
    (folder / "evals" / "small.yaml").write_text(other)
    tasks = folder / "evals" / "tasks"
    (tasks / "search_bpb.yaml").write_text(TASK.replace("small_bpb", "search_bpb"))
    corpus = ROOT / "models" / "handbook" / "corpus" / "developers-reference.jsonl.gz"
    with gzip.open(corpus, "rt", encoding="utf-8") as lines:
        held_out = [json.loads(line)["text"][:600] for line in lines][60:64]
    (tasks / "search_bpb.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in held_out))
