"""A model that nanotron trains, from YAML through `forge apply`: evaluated, released, verified and shown as any other."""

import json
from pathlib import Path

import pytest
from tests.conftest import MODEL, commit_all, run_forge

from forge.contract.record import Record
from forge.ledger.ledger import Ledger
from forge.repo.repository import Repository
from forge.steps.nanotron.wheel import WHEEL, WHEEL_DIGEST

pytestmark = pytest.mark.e2e

BY_NANOTRON = MODEL.replace("  objective: pretrain\n", "  objective: pretrain\n  backend: nanotron\n").replace("40k", "20k")


def test_a_model_trained_by_nanotron_is_released_and_verified_as_any_other(copy_of_applied: Path, config_home: Path) -> None:
    folder = copy_of_applied

    def forge(*arguments: str) -> str:
        return run_forge(folder, config_home, *arguments).stdout

    (folder / "models" / "model.yaml").write_text(BY_NANOTRON)
    commit_all(folder, "nanotron trains")
    assert "field changed: backend: default -> nanotron (rebuild)" in forge("plan")
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
