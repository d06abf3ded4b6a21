"""The example of docs/nanotron.md, from YAML through `forge apply`: trained, released, verified and shown as any other."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.conftest import ROOT, commit_all, git, run_forge

from forge.contract.record import Record
from forge.ledger.ledger import Ledger
from forge.repo.repository import Repository
from forge.steps.nanotron.wheel import WHEEL, WHEEL_DIGEST

EXAMPLE = ROOT / "models" / "examples" / "nanotron" / "model.yaml"
TINY = {"tokens": "20k", "sequence_length": 64, "batch_tokens": 1024}


def tiny_example() -> str:
    """The example on the small repository's data, in its model's place, and with a short training."""
    document: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text())
    spec = document["spec"]
    document["metadata"]["name"] = "small"
    spec |= {"data": "DataRecipe/small", "tokenizer": "Tokenizer/small"}
    spec["training"] |= {**TINY, "schedule": {"name": "wsd", "warmup_tokens": "2k", "decay_tokens": "5k"}}
    return yaml.safe_dump(document)


@pytest.mark.e2e
def test_a_model_trained_by_nanotron_is_released_and_verified_as_any_other(copy_of_applied: Path, config_home: Path) -> None:
    folder = copy_of_applied

    def forge(*arguments: str) -> str:
        return run_forge(folder, config_home, *arguments).stdout

    (folder / "models" / "model.yaml").write_text(tiny_example())
    commit_all(folder, "nanotron trains")
    assert "backend: default -> nanotron (rebuild)" in forge("plan")
    forge("apply")
    forge("plan", "--exit-code")  # 0: nothing is left to do
    verdict = json.loads(forge("verify", "release/local", "--format", "json"))
    assert verdict["holds"], verdict["findings"]
    (run, *_) = json.loads(forge("runs", "--step", "train/small", "--format", "json"))["runs"]
    assert (run["state"], run["last_event"]["message"]) == ("finished", "validation")
    logged = forge("logs", "train/small")
    assert "checkpoint step-00000020-attempt-1" in logged
    assert "bits/byte" in logged
    assert "training loss" in forge("plot", "train/small")
    with Repository(folder) as repository:
        snapshot = Ledger(repository, "refs/forge/ledger").snapshot()
        bodies = [entry.body for number in range(1, snapshot.head[0] + 1) if (entry := snapshot.entry(number))]
    trained = [body for body in bodies if isinstance(body, Record) and body.step == "train"][-1]
    said = {"backend": "nanotron 0.4", "backend_wheel": WHEEL, "backend_wheel_digest": WHEEL_DIGEST}
    assert said.items() <= trained.environment.items(), "what is signed with the weights names the release that trained them"
    assert trained.environment["processes"] == "2"


def test_the_example_is_valid_where_its_first_lines_say_that_it_goes(tmp_path: Path, config_home: Path) -> None:
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", "--no-hardlinks", str(ROOT), str(clone))
    place = clone / "models" / "handbook-nanotron" / "model.yaml"
    place.parent.mkdir()
    place.write_text(EXAMPLE.read_text())
    assert "handbook-nanotron" not in run_forge(clone, config_home, "plan", "--ref", "HEAD").stdout, "`make run` would build it"
    assert "train/handbook-nanotron" in run_forge(clone, config_home, "plan", "--worktree").stdout
