"""Releases of models that continue others, from the specs to in-toto's verifier, the report and a withdrawal of their base."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.admission.test_attacks import record_of
from tests.conftest import new_repository, run_forge
from tests.governed import Governed, commit_as, govern
from tests.made import lay_made
from tests.outside.conftest import BASE, IMPORTED_BASE, LEDGER, fact, list_shapes, report_on, write_released
from tests.outside.desk import holds_for_a_reviewer
from tests.outside.test_in_toto import link, payload_of, signed_again, verified
from tests.plan.test_withdrawn import withdrawing
from tests.spec.test_continue_spec import MORE, NEXT

from forge.admission.rules import judge_gate
from forge.admission.verify import examine
from forge.attest.keys import signer_for
from forge.attest.trust import read_trust_root
from forge.canonical import hex_of
from forge.contract.kinds import Role
from forge.ledger.ledger import Ledger
from forge.repo.repository import Repository
from forge.report.model import Standing
from forge.store.store import Store


def write_continued(folder: Path) -> None:
    """The small example, a model that continues its model, and one that continues a folder; both are released."""
    imported = NEXT.replace("{model: Model/small}", IMPORTED_BASE).replace("name: next", "name: imported")
    imported = imported.replace("  replay: {data: DataRecipe/small, fraction: 0.25}\n", "")
    write_released(folder, {"next": NEXT, "imported": imported})
    (folder / "models" / "more.yaml").write_text(MORE)


@dataclass(frozen=True)
class Released:
    """A repository with both models released, and what it said before their shapes were listed."""

    folder: Path
    refused: str


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory, governed: Governed, applied: Path) -> Released:
    folder = new_repository(tmp_path_factory.mktemp("continued") / "repository")
    write_continued(folder)
    lay_made(applied, folder)
    govern(folder, governed.supply_chain(release={}), governed.people())
    commit_as(folder, governed, "cleo", "models that continue others")
    run_forge(folder, governed.config, "keys", "delegate")
    refused = run_forge(folder, governed.config, "apply", code=None)
    assert refused.returncode, refused.stdout
    list_shapes(folder, governed, ["pretrain", "continue", "continue-imported"], "their shapes are listed")
    run_forge(folder, governed.config, "apply")
    return Released(folder, refused.stdout + refused.stderr)


@pytest.fixture
def exported(released: Released, export_of: Callable[[Path, str], Path]) -> Callable[[str], Path]:
    """Export a release, which has to hold."""
    return partial(export_of, released.folder)


def test_a_shape_that_is_not_listed_is_not_released(released: Released) -> None:
    assert "has the shape continue; listed: pretrain" in released.refused
    assert "has the shape continue-imported; listed: pretrain" in released.refused


@pytest.mark.parametrize(("environment", "shape"), [("next", "continue"), ("imported", "continue-imported")])
def test_in_toto_accepts_the_chain(exported: Callable[[str], Path], environment: str, shape: str) -> None:
    folder = exported(environment)
    assert json.loads((folder / "index.json").read_text())["in_toto"]["shape"] == shape
    assert verified(folder)


def test_in_toto_refuses_a_base_that_no_training_made(exported: Callable[[str], Path], governed: Governed) -> None:
    folder = exported("next")

    def change(payload: dict[str, Any]) -> None:
        swapped = [path for path in payload["materials"] if path.startswith("train/small/weights/")]
        assert swapped
        payload["materials"] |= {name: {"sha256": "0" * 64} for name in swapped}

    signed_again(link(folder, "train"), signer_for(Role.TRAINER, governed.config), change)
    assert not verified(folder)


def test_that_an_evaluation_is_of_the_base_is_for_forge_to_see(
    exported: Callable[[str], Path], released: Released, governed: Governed
) -> None:
    """A layout binds kinds of step: the base's weights are a training's product too (docs/attestations.md)."""
    folder = exported("next")

    def change(payload: dict[str, Any]) -> None:
        own = {path for path in payload["materials"] if path.startswith("train/")}
        made = payload_of(link(folder, "train"))["products"]
        kept = {path: digest for path, digest in payload["materials"].items() if path not in own}
        payload["materials"] = kept | {path: digest for path, digest in made.items() if path.startswith("train/small/")}

    signed_again(link(folder, "evaluate"), signer_for(Role.EVALUATOR, governed.config), change)
    assert verified(folder)
    with Repository(released.folder) as repository:
        snapshot = Ledger(repository, LEDGER).snapshot()
        store, root = Store(".forge/store", released.folder), read_trust_root(governed.config)
        evidence = examine("release/next", repository, snapshot, store, root).evidence
    gate = record_of(released.folder, "gate/next")
    base = record_of(released.folder, "train/small").products["weights"]
    (finding,) = judge_gate(gate, base, evidence)
    assert "not about these weights" in str(finding)


def test_provenance_and_links_name_the_base(exported: Callable[[str], Path], released: Released) -> None:
    folder = exported("next")
    weights = {"sha256": hex_of(record_of(released.folder, "train/small").products["weights"])}
    (path,) = (folder / "attestations").glob("*-train-next.provenance.dsse.json")
    dependencies = payload_of(path)["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert {"name": "train/small/weights", "digest": weights} in dependencies
    materials = payload_of(link(folder, "train"))["materials"]
    assert (
        materials["train/small/weights/model.safetensors"]
        == payload_of(link(folder, "train"))["products"]["train/small/weights/model.safetensors"]
    )
    imported = payload_of(link(exported("imported"), "train"))["materials"]
    assert {name for name in imported if "/base/" in name} == {
        f"commit/Model/imported/base/{name}" for name in ("config.json", "model.safetensors")
    }


def test_the_report_shows_the_base_and_what_was_forgotten(released: Released, governed: Governed, tmp_path: Path) -> None:
    report = report_on(released.folder, governed, "next", tmp_path / "next")
    weights = record_of(released.folder, "train/small").products["weights"]
    base = fact(report, "Model/next", "Base")
    assert (base.value, base.standing) == (f"the weights of Model/small ({weights})", Standing.PROVED)
    assert fact(report, "Model/next", "Continued from").value == "its base"
    assert "hidden_size 32" in fact(report, "Model/next", "Architecture").value
    assert "model_type llama" in fact(report, "Model/next", "Architecture").value
    assert fact(report, "Model/next", "Replayed against forgetting").value.endswith(
        "of DataRecipe/small, 0.25 of the sequences"
    )
    assert fact(report, "Model/next", "Validation loss on the replayed data, of the base and now").standing is Standing.PROVED
    assert fact(report, "Model/small", "Continued from").value == "scratch"
    adapted = fact(report, "Annex XI, section 2: evaluation and adaptation", "Adaptation (alignment, fine-tuning)")
    assert adapted.value.startswith(
        f"continued pretraining of the weights of Model/small ({weights}) on 20,480 tokens, of which"
    )
    flops = fact(report, "Annex XI, section 1 (2): design, data and training", "Floating-point operations").value
    assert "; with its base's " in flops
    page = tmp_path / "page"
    run_forge(released.folder, governed.config, "report", "release/next", "--out", str(page))
    assert "continued pretraining of the weights of Model/small" in (page / "index.html").read_text()


def test_the_report_on_a_folders_descendant_says_what_is_unknown(
    released: Released, governed: Governed, tmp_path: Path
) -> None:
    report = report_on(released.folder, governed, "imported", tmp_path / "imported")
    assert fact(report, "Model/imported", "Base").value.startswith(
        f"{BASE}/config.json, {BASE}/model.safetensors of the commit"
    )
    flops = fact(report, "Annex XI, section 1 (2): design, data and training", "Floating-point operations").value
    assert flops.endswith("and those of its base, which are unknown")
    summary = "Article 53 (1)(d): summary of the training content"
    size = fact(report, summary, "Size of the training data (text)").value
    assert size.endswith(f"without what the weights in {BASE} were trained on")
    sources = fact(report, summary, "Sources and licences")
    assert "another house (MIT)" in sources.value
    assert sources.standing is Standing.DECLARED


def test_a_withdrawn_base_reaches_what_continues_it(released: Released, governed: Governed, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(released.folder, folder, symlinks=True)
    (folder / "policies" / "withdrawn.yaml").write_text(withdrawing("Model/small"))
    commit_as(folder, governed, "cleo", "the base is withdrawn")
    impact = run_forge(folder, governed.config, "impact", "Model/small").stdout
    assert "train/next" in impact
    assert "train/imported" not in impact
    plan = json.loads(run_forge(folder, governed.config, "plan", "--format", "json").stdout)
    blocked = {action["id"] for action in plan["actions"] if action["kind"] == "blocked"}
    assert {"train/next", "release/next"} <= blocked
    assert "release/imported" not in blocked
    run_forge(folder, governed.config, "apply", code=None)
    said = run_forge(folder, governed.config, "verify", "release/next", code=None)
    assert said.returncode
    assert "Model/small" in said.stdout + said.stderr


@pytest.mark.parametrize("environment", ["next", "imported"])
def test_a_reviewer_without_forge_reaches_the_verdict_on_it(
    released: Released, governed: Governed, environment: str, tmp_path: Path
) -> None:
    holds_for_a_reviewer(released.folder, governed.config, environment, tmp_path)
