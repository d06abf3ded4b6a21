"""The examples that learn to answer, scaled down: from their YAML through ``forge apply`` to ``forge verify``."""

import json
import re
import shutil
from pathlib import Path

import pytest
from tests.admission.test_attacks import record_of
from tests.conftest import DEPLOYMENT, ROOT, commit_all, run_forge

pytestmark = pytest.mark.e2e

EXAMPLES = ("handbook-answers", "handbook-preferred")
SMALLER = {
    r"Model/handbook\}": "Model/small}",
    r"tokens: \d+k\n": "tokens: 4096\n",
    r"sequence_length: \d+": "sequence_length: 128",
    r"batch_tokens: \d+": "batch_tokens: 2048",
    r"micro_batch_sequences: \d+": "micro_batch_sequences: 16",
    r"warmup_tokens: \d+k": "warmup_tokens: 0",
}


def write_examples(folder: Path) -> None:
    """Both as they are in this repository, on the small model, and with a training of two steps."""
    for name in EXAMPLES:
        shutil.copytree(ROOT / "models" / "examples" / name, folder / "models" / "examples" / name)
        path = folder / "models" / "examples" / name / "model.yaml"
        text = path.read_text()
        for old, new in SMALLER.items():
            text, count = re.subn(old, new, text)
            assert count or "Model/" in new, f"{old} is not in {path}"
        path.write_text(text)


def test_they_run_and_their_chain_holds(copy_of_applied: Path, config_home: Path) -> None:
    write_examples(copy_of_applied)
    deployment = DEPLOYMENT.replace("small-local", "preferred").replace("environment: local", "environment: preferred")
    deployment = deployment.replace("Model/small", "Model/handbook-preferred").replace("max: 7.0", "max: 20.0")
    (copy_of_applied / "models" / "preferred.yaml").write_text(deployment)
    commit_all(copy_of_applied, "models that learn to answer")
    run_forge(copy_of_applied, config_home, "apply", "--yes")
    tuned, preferring = (record_of(copy_of_applied, f"train/{name}") for name in EXAMPLES)
    assert preferring.inputs["base"] == tuned.products["weights"]
    assert tuned.metrics["conversations"] + tuned.metrics["validation_conversations"] == 339
    assert preferring.metrics["pairs"] + preferring.metrics["validation_pairs"] == 339
    assert 0 <= preferring.metrics["validation_reward_accuracy"] <= 1
    said = run_forge(copy_of_applied, config_home, "verify", "release/preferred").stdout
    assert "release/preferred: the chain holds" in said
    assert "train/handbook-answers" in said
    again = json.loads(run_forge(copy_of_applied, config_home, "plan", "--format", "json").stdout)
    assert {action["kind"] for action in again["actions"]} == {"nothing"}


def test_a_fault_in_their_data_is_named_as_the_commit_names_it(copy_of_applied: Path, config_home: Path) -> None:
    write_examples(copy_of_applied)
    folder = copy_of_applied / "models" / "examples" / "handbook-answers"
    (folder / "chats" / "added.jsonl").write_text('{"messages": [{"role": "user", "content": "hello?"}]}\n')
    commit_all(copy_of_applied, "a question that nobody answers")
    done = run_forge(copy_of_applied, config_home, "apply", "--yes", "--target", "Model/handbook-answers", code=1)
    assert "models/examples/handbook-answers/chats/added.jsonl:1: the assistant says nothing" in done.stdout + done.stderr
