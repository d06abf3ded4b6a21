"""Releases of fine-tuned models, from the specs to in-toto's verifier, the report, and what is refused on the way."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.admission.test_attacks import record_of
from tests.conftest import run_forge
from tests.governed import Governed
from tests.outside.conftest import fact, report_on
from tests.outside.desk import judged_by_script, sigstore_refuses
from tests.outside.test_in_toto import link, payload_of, signed_again, verified
from tests.steps.finetune.conftest import chat

from forge.attest.keys import signer_for
from forge.contract.kinds import Role
from forge.report.model import Standing

Export = Callable[[Path, str], Path]


@pytest.mark.parametrize(("environment", "shape"), [("tuned", "sft"), ("imported", "sft-imported")])
def test_in_toto_accepts_the_chain(answering: Path, export_of: Export, environment: str, shape: str) -> None:
    folder = export_of(answering, environment)
    assert json.loads((folder / "index.json").read_text())["in_toto"]["shape"] == shape
    assert verified(folder)
    materials = payload_of(link(folder, "train"))["materials"]
    assert f"commit/Model/{environment}/conversations/00000.jsonl" in materials


def test_in_toto_refuses_conversations_that_come_from_elsewhere(answering: Path, export_of: Export, governed: Governed) -> None:
    folder = export_of(answering, "tuned")

    def change(payload: dict[str, Any]) -> None:
        payload["materials"]["elsewhere/conversations/00000.jsonl"] = {"sha256": "0" * 64}

    signed_again(link(folder, "train"), signer_for(Role.TRAINER, governed.config), change)
    assert not verified(folder)


def test_the_report_says_that_it_was_fine_tuned_and_on_what(answering: Path, governed: Governed, tmp_path: Path) -> None:
    report = report_on(answering, governed, "tuned", tmp_path / "tuned")
    assert fact(report, "Model/tuned", "Objective").value == "sft"
    adapted = fact(report, "Annex XI, section 2: evaluation and adaptation", "Adaptation (alignment, fine-tuning)")
    record = record_of(answering, "train/tuned")
    assert adapted.value.startswith("supervised fine-tuning (LoRA of rank 2) of the weights of Model/small (sha256:")
    assert f"on {record.metrics['conversations']} conversations of chats/00000.jsonl" in adapted.value
    assert adapted.standing is Standing.PROVED
    summary = "Article 53 (1)(d): summary of the training content"
    sources = fact(report, summary, "Sources and licences")
    assert "written for a test (CC0-1.0)" in sources.value
    run_forge(answering, governed.config, "report", "release/tuned", "--out", str(tmp_path / "page"))
    run_forge(answering, governed.config, "report", "release/imported", "--out", str(tmp_path / "other"))
    assert "supervised fine-tuning" in (tmp_path / "page" / "index.html").read_text()


def test_only_another_conversation_trains_again(answering: Path, governed: Governed) -> None:
    unchanged = json.loads(run_forge(answering, governed.config, "plan", "--format", "json").stdout)
    assert {action["kind"] for action in unchanged["actions"]} == {"nothing"}
    path = answering / "chats" / "00000.jsonl"
    before = path.read_text()
    path.write_text(before + json.dumps(chat("is 31 even?", "no")) + "\n")
    try:
        plan = json.loads(run_forge(answering, governed.config, "plan", "--worktree", "--format", "json").stdout)
    finally:
        path.write_text(before)
    made = {action["id"] for action in plan["actions"] if action["kind"] != "nothing"}
    trained = {step for step in made if step.startswith(("curate", "tok", "train"))}
    assert trained == {"train/tuned", "train/imported", "train/preferring"}


@pytest.mark.parametrize("environment", ["tuned", "imported"])
def test_a_reviewer_without_forge_reaches_the_verdict_on_it(
    answering: Path, governed: Governed, environment: str, tmp_path: Path
) -> None:
    """Every bundle of the chain goes through @sigstore/verify, and what is said together through check.mjs."""
    done = judged_by_script(answering, governed.config, environment, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith(f"VERDICT release/{environment}: the chain holds\n")
    assert sigstore_refuses(tmp_path, f"train-{environment}.provenance")
