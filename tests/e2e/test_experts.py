"""The example of a mixture of experts, scaled down: from its YAML to a release whose chain holds, and what is seen of it."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import DEPLOYMENT, ROOT, commit_all, scaled

pytestmark = pytest.mark.e2e

EXAMPLE = ROOT / "models" / "examples" / "experts" / "model.yaml"
SCALED = {
    "DataRecipe/handbook": "DataRecipe/small",
    "Tokenizer/handbook": "Tokenizer/small",
    "tokens: 2M": "tokens: 24k",
    "sequence_length: 256": "sequence_length: 64",
    "batch_tokens: 2048": "batch_tokens: 1024",
    "warmup_tokens: 100k, decay_tokens: 500k": "warmup_tokens: 2k, decay_tokens: 6k",
    "hidden_size: 128": "hidden_size: 32",
    "intermediate_size: 176": "intermediate_size: 48",
}


def test_the_example_of_experts_becomes_a_release(repository: Path, forge: Callable[..., Any]) -> None:
    (repository / "models" / "model.yaml").write_text(scaled(EXAMPLE, SCALED))
    (repository / "models" / "deployment.yaml").write_text(DEPLOYMENT.replace("Model/small", "Model/handbook-experts"))
    commit_all(repository, "the example with experts in the place of the small model")
    applied = forge(repository, "apply")
    assert re.search(r"[0-9.]+ k parameters \([0-9.]+ k active\), [0-9.]+ k tokens", applied.stdout)
    assert "not those of all experts" in applied.stdout
    assert "release/small-local: done in" in applied.stderr
    assert "the chain holds" in forge(repository, "verify", "model/handbook-experts").stdout
    assert "sync" in forge(repository, "plan").stdout

    drawn = forge(repository, "plot", "train/handbook-experts", "--metric", "expert_max_share").stdout
    assert "largest share of one expert" in drawn
    assert "router entropy" in forge(repository, "plot", "train/handbook-experts", "--metric", "router_entropy").stdout
    (config,) = [path for path in (repository / ".forge" / "store").rglob("*") if path.is_file() and _is_mixtral(path)]
    entry = json.loads(config.read_text())
    assert (entry["num_local_experts"], entry["num_experts_per_tok"], entry["router_aux_loss_coef"]) == (8, 2, 0.01)


def _is_mixtral(path: Path) -> bool:
    data = path.read_bytes()[:10_000]
    return b'"MixtralForCausalLM"' in data and b'"model_type": "mixtral"' in data
