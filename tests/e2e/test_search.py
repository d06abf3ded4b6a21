"""The example of a search, scaled down: from its YAML to a release whose chain holds, and on with another round."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import DEPLOYMENT, ROOT, commit_all, scaled
from tests.searching import write_search

pytestmark = pytest.mark.e2e

EXAMPLE = ROOT / "models" / "examples" / "search"
MODEL = {
    "DataRecipe/handbook": "DataRecipe/small",
    "Tokenizer/handbook": "Tokenizer/small",
    "tokens: 2M": "tokens: 24k",
    "sequence_length: 256": "sequence_length: 64",
    "batch_tokens: 2048": "batch_tokens: 1024",
    "warmup_tokens: 100k, decay_tokens: 500k": "warmup_tokens: 2k, decay_tokens: 6k",
    "hidden_size: 128": "hidden_size: 32",
    "intermediate_size: 344": "intermediate_size: 48",
}
SWEEP = {
    "EvalSuite/handbook-search": "EvalSuite/search",
    "task: handbook_bpb": "task: search_bpb",
    "trials: 7": "trials: 3",
    "startup_trials: 4": "startup_trials: 2",
    "training.tokens: 400k": "training.tokens: 8k",
    "warmup_tokens: 20k": "warmup_tokens: 1k",
    "decay_tokens: 100k": "decay_tokens: 2k",
}
MORE = """\
    - sampler: {name: grid}
      space:
        training.optimizer.lr: {choices: [2.0e-3]}
        training.optimizer.weight_decay: {choices: [0.1]}
  trial:"""


def test_the_example_of_a_search_becomes_a_release(repository: Path, forge: Callable[..., Any]) -> None:
    write_search(repository)
    (repository / "models" / "model.yaml").write_text(scaled(EXAMPLE / "model.yaml", MODEL))
    sweep = scaled(EXAMPLE / "sweep.yaml", SWEEP)
    (repository / "models" / "sweep.yaml").write_text(sweep)
    (repository / "models" / "deployment.yaml").write_text(DEPLOYMENT.replace("Model/small", "Model/handbook-searched"))
    commit_all(repository, "the example of a search in the place of the small model")
    applied = forge(repository, "apply").stderr
    assert len(re.findall(r"train/handbook-searched\.\d: done in", applied)) == 4
    assert re.search(r"train/handbook-searched: done in", applied), "trials have fewer tokens than the model"
    assert "release/small-local: done in" in applied
    verified = forge(repository, "verify", "model/handbook-searched").stdout
    assert "sweep/handbook-searched picked the best of 4 trials" in verified
    assert "to run" not in forge(repository, "plan").stdout

    assert sweep.count("  trial:") == 1
    (repository / "models" / "sweep.yaml").write_text(sweep.replace("  trial:", MORE))
    commit_all(repository, "another round")
    plan = json.loads(forge(repository, "plan", "--format", "json").stdout)
    planned = [action["id"] for action in plan["actions"] if action["kind"] in ("run", "re-evaluate", "release")]
    new = [f"{step}/handbook-searched.4{suite}" for step, suite in (("sweep", ""), ("train", ""), ("evaluate", ".search"))]
    assert planned[:4] == [*new, "sweep/handbook-searched"]
    applied = forge(repository, "apply").stderr
    assert len(re.findall(r"train/handbook-searched\.\d: done in", applied)) == 1
    assert "the chain holds" in forge(repository, "verify", "release/local").stdout


def test_the_whole_example_is_valid() -> None:
    """As docs/sweeps.md has it: with the example's files named in this repository's own forge.toml."""
    from forge.spec.load import load
    from forge.spec.resolve import resolve

    named = [*sorted(EXAMPLE.glob("*.yaml")), *sorted((ROOT / "models" / "handbook").glob("*.yaml"))]
    named += [*sorted((ROOT / "policies").glob("*.yaml")), *sorted((ROOT / "evals").glob("*.yaml"))]
    loaded = load((path.relative_to(ROOT).as_posix(), path.read_bytes()) for path in named)
    assert not loaded.diagnostics
    assert not resolve(loaded.resources).diagnostics
