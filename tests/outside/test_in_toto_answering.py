"""Releases of models that learnt from conversations and from preferences: in-toto's verifier, the provenance, the report, and
what is refused on the way.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.admission.test_attacks import record_of
from tests.conftest import run_forge
from tests.governed import Governed
from tests.outside.conftest import fact, report_on
from tests.outside.desk import holds_for_a_reviewer
from tests.outside.test_in_toto import link, payload_of, signed_again, verified
from tests.steps.finetune.conftest import chat

from forge.attest.keys import signer_for
from forge.canonical import hex_of
from forge.contract.kinds import Role
from forge.report.model import Standing

Export = Callable[[Path, str], Path]
READ = {
    "tuned": {"commit/Model/tuned/conversations/00000.jsonl"},
    "imported": {"commit/Model/imported/conversations/00000.jsonl"},
    "preferring": {
        "commit/Model/preferring/preferences/00000.jsonl",
        "commit/Model/tuned/conversations/00000.jsonl",
        "train/tuned/weights/model.safetensors",
        "commit/Model/preferring/suite-0/small_bpb.jsonl",
    },
}
"""What the trainings of a chain read, by the environment of its release; some of it."""


@pytest.mark.parametrize(("environment", "shape"), [("tuned", "sft"), ("imported", "sft-imported"), ("preferring", "dpo")])
def test_in_toto_accepts_the_chain_from_the_data_on(answering: Path, export_of: Export, environment: str, shape: str) -> None:
    folder = export_of(answering, environment)
    assert json.loads((folder / "index.json").read_text())["in_toto"]["shape"] == shape
    assert verified(folder)
    assert READ[environment] <= payload_of(link(folder, "train"))["materials"].keys()


@pytest.mark.parametrize(("environment", "data"), [("tuned", "conversations"), ("preferring", "preferences")])
def test_in_toto_refuses_data_that_come_from_elsewhere(
    answering: Path, export_of: Export, governed: Governed, environment: str, data: str
) -> None:
    folder = export_of(answering, environment)

    def change(payload: dict[str, Any]) -> None:
        payload["materials"][f"elsewhere/{data}/00000.jsonl"] = {"sha256": "0" * 64}

    signed_again(link(folder, "train"), signer_for(Role.TRAINER, governed.config), change)
    assert not verified(folder)


def test_forge_finds_that_the_chain_of_two_trainings_holds(answering: Path, governed: Governed) -> None:
    assert "the chain holds" in run_forge(answering, governed.config, "verify", "release/preferring").stdout


def test_provenance_names_the_preferences_and_the_base(answering: Path, export_of: Export) -> None:
    folder = export_of(answering, "preferring")
    (path,) = (folder / "attestations").glob("*-train-preferring.provenance.dsse.json")
    dependencies = payload_of(path)["predicate"]["buildDefinition"]["resolvedDependencies"]
    record = record_of(answering, "train/preferring")
    base = {"sha256": hex_of(record_of(answering, "train/tuned").products["weights"])}
    assert {"name": "train/tuned/weights", "digest": base} in dependencies
    assert {"sha256": hex_of(record.inputs["preferences"])} in [each["digest"] for each in dependencies]


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


def test_the_report_says_what_was_preferred_and_how_well_it_is_learnt(
    answering: Path, governed: Governed, tmp_path: Path
) -> None:
    report = report_on(answering, governed, "preferring", tmp_path / "preferring")
    record = record_of(answering, "train/preferring")
    adapted = fact(report, "Annex XI, section 2: evaluation and adaptation", "Adaptation (alignment, fine-tuning)")
    how = "direct preference optimisation (LoRA of rank 2; beta 0.2, loss sigmoid) of the weights of Model/tuned (sha256:"
    assert adapted.value.startswith(how)
    assert f"on {record.metrics['pairs']} pairs of answers of pairs/00000.jsonl" in adapted.value
    margin = fact(report, "Model/preferring", "Reward margin on held-out pairs")
    assert (margin.value, margin.standing) == (f"{record.metrics['validation_reward_margin']:.4g}", Standing.PROVED)
    assert fact(report, "Model/preferring", "Share of them that reward the chosen answer more").standing is Standing.PROVED
    replaced = fact(report, "Model/preferring", "Personal data replaced in what it learnt from")
    assert (replaced.value, replaced.standing) == ("emails 0", Standing.PROVED)
    assert fact(report, "Model/preferring", "Left out, as items of a suite").value == "small 0"
    sources = fact(report, "Article 53 (1)(d): summary of the training content", "Sources and licences")
    assert "preferences in pairs/*.jsonl: written for a test (CC0-1.0)" in sources.value
    assert "conversations in chats/*.jsonl: written for a test (CC0-1.0)" in sources.value
    run_forge(answering, governed.config, "report", "release/preferring", "--out", str(tmp_path / "page"))
    assert "direct preference optimisation" in (tmp_path / "page" / "index.html").read_text()


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


@pytest.mark.parametrize("environment", ["tuned", "imported", "preferring"])
def test_a_reviewer_without_forge_reaches_the_verdict_on_it(
    answering: Path, governed: Governed, environment: str, tmp_path: Path
) -> None:
    holds_for_a_reviewer(answering, governed.config, environment, tmp_path)
