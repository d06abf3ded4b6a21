"""Releases of models that learnt from preferences: in-toto's verifier, the provenance, the report, and what a policy sees."""

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

from forge.attest.keys import signer_for
from forge.canonical import hex_of
from forge.contract.kinds import Role
from forge.report.model import Standing

Export = Callable[[Path, str], Path]


def test_in_toto_accepts_the_chain_from_the_data_to_the_preferences(
    answering: Path, export_of: Export, governed: Governed
) -> None:
    folder = export_of(answering, "preferring")
    assert json.loads((folder / "index.json").read_text())["in_toto"]["shape"] == "dpo"
    assert verified(folder)
    materials = payload_of(link(folder, "train"))["materials"]
    assert "commit/Model/preferring/preferences/00000.jsonl" in materials
    assert "commit/Model/tuned/conversations/00000.jsonl" in materials
    assert "train/tuned/weights/model.safetensors" in materials
    assert "commit/Model/preferring/suite-0/small_bpb.jsonl" in materials
    assert "the chain holds" in run_forge(answering, governed.config, "verify", "release/preferring").stdout


def test_in_toto_refuses_preferences_that_come_from_elsewhere(answering: Path, export_of: Export, governed: Governed) -> None:
    folder = export_of(answering, "preferring")

    def change(payload: dict[str, Any]) -> None:
        payload["materials"]["elsewhere/preferences/00000.jsonl"] = {"sha256": "0" * 64}

    signed_again(link(folder, "train"), signer_for(Role.TRAINER, governed.config), change)
    assert not verified(folder)


def test_provenance_names_the_preferences_and_the_base(answering: Path, export_of: Export) -> None:
    folder = export_of(answering, "preferring")
    (path,) = (folder / "attestations").glob("*-train-preferring.provenance.dsse.json")
    dependencies = payload_of(path)["predicate"]["buildDefinition"]["resolvedDependencies"]
    record = record_of(answering, "train/preferring")
    base = {"sha256": hex_of(record_of(answering, "train/tuned").products["weights"])}
    assert {"name": "train/tuned/weights", "digest": base} in dependencies
    assert {"sha256": hex_of(record.inputs["preferences"])} in [each["digest"] for each in dependencies]


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


@pytest.mark.parametrize("environment", ["preferring"])
def test_a_reviewer_without_forge_reaches_the_verdict_on_it(
    answering: Path, governed: Governed, environment: str, tmp_path: Path
) -> None:
    """Every bundle of the chain goes through @sigstore/verify, and what is said together through check.mjs."""
    done = judged_by_script(answering, governed.config, environment, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith(f"VERDICT release/{environment}: the chain holds\n")
    assert sigstore_refuses(tmp_path, f"train-{environment}.provenance")
