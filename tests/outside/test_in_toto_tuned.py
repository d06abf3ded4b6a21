"""Releases of fine-tuned models, from the specs to in-toto's verifier, the report, and what is refused on the way."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.admission.test_attacks import record_of
from tests.conftest import DEPLOYMENT, new_repository, run_forge, write_small
from tests.governed import Governed, commit_as, govern, make_governed
from tests.outside.test_in_toto import link, payload_of, signed_again, verified
from tests.outside.test_in_toto_continued import BASE, LEDGER, fact, report_on, write_base
from tests.spec.test_sft_spec import TUNED
from tests.steps.finetune.conftest import chat, write_conversations

from forge.admission.export import export
from forge.attest.keys import signer_for
from forge.attest.trust import read_trust_root
from forge.contract.kinds import Role
from forge.ledger.ledger import Ledger
from forge.repo.repository import Repository
from forge.report.model import Standing
from forge.store.store import Store

IMPORTED_BASE = f"{{path: {BASE}, license: MIT, origin: another house}}"


def write_tuned(folder: Path) -> None:
    """The small example, a model that fine-tunes its model with an adapter, and one that fine-tunes a folder."""
    write_small(folder)
    settings = (folder / "forge.toml").read_text()
    (folder / "forge.toml").write_text(settings.replace("threads = 1", "threads = 1\nslots = 2"))
    write_base(folder / BASE)
    chats = [chat(f"is {number} even?", "yes" if number % 2 == 0 else "no") for number in range(30)]
    write_conversations(folder / "chats", *chats)
    (folder / "models" / "tuned.yaml").write_text(TUNED)
    whole = TUNED[: TUNED.index("  adapter:")].replace("name: tuned", "name: imported")
    (folder / "models" / "imported.yaml").write_text(whole.replace("{model: Model/small}", IMPORTED_BASE))
    (folder / "models" / "deployment.yaml").unlink()
    for name in ("tuned", "imported"):
        text = DEPLOYMENT.replace("small-local", name).replace("environment: local", f"environment: {name}")
        text = text.replace("Model/small", f"Model/{name}").replace("max: 7.0", "max: 20.0")
        (folder / "models" / f"{name}-deployment.yaml").write_text(text)


@pytest.fixture(scope="module")
def governed(tmp_path_factory: pytest.TempPathFactory) -> Governed:
    return make_governed(tmp_path_factory.mktemp("governed"))


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory, governed: Governed) -> Path:
    folder = new_repository(tmp_path_factory.mktemp("tuned") / "repository")
    write_tuned(folder)
    govern(folder, governed.supply_chain(release={}, shapes=["sft", "sft-imported"]), governed.people())
    commit_as(folder, governed, "cleo", "models that answer")
    run_forge(folder, governed.config, "keys", "delegate")
    run_forge(folder, governed.config, "apply")
    return folder


@pytest.fixture
def exported(released: Path, governed: Governed, tmp_path: Path) -> Callable[[str], Path]:
    """Export a release, which has to hold."""

    def exporting(environment: str) -> Path:
        with Repository(released) as repository:
            snapshot = Ledger(repository, LEDGER).snapshot()
            store, root = Store(".forge/store", released), read_trust_root(governed.config)
            verdict = export(f"release/{environment}", repository, snapshot, store, root, tmp_path / environment)
        assert verdict.holds, [str(finding) for finding in verdict.findings]
        return tmp_path / environment

    return exporting


@pytest.mark.parametrize(("environment", "shape"), [("tuned", "sft"), ("imported", "sft-imported")])
def test_in_toto_accepts_the_chain(exported: Callable[[str], Path], environment: str, shape: str) -> None:
    folder = exported(environment)
    assert json.loads((folder / "index.json").read_text())["in_toto"]["shape"] == shape
    assert verified(folder)
    materials = payload_of(link(folder, "train"))["materials"]
    assert f"commit/Model/{environment}/conversations/00000.jsonl" in materials


def test_in_toto_refuses_conversations_that_come_from_elsewhere(exported: Callable[[str], Path], governed: Governed) -> None:
    folder = exported("tuned")

    def change(payload: dict[str, Any]) -> None:
        payload["materials"]["elsewhere/conversations/00000.jsonl"] = {"sha256": "0" * 64}

    signed_again(link(folder, "train"), signer_for(Role.TRAINER, governed.config), change)
    assert not verified(folder)


def test_the_report_says_that_it_was_fine_tuned_and_on_what(released: Path, governed: Governed, tmp_path: Path) -> None:
    report = report_on(released, governed, "tuned", tmp_path / "tuned")
    assert fact(report, "Model/tuned", "Objective").value == "sft"
    adapted = fact(report, "Annex XI, section 2: evaluation and adaptation", "Adaptation (alignment, fine-tuning)")
    record = record_of(released, "train/tuned")
    assert adapted.value.startswith("supervised fine-tuning (LoRA of rank 2) of the weights of Model/small (sha256:")
    assert f"on {record.metrics['conversations']} conversations of chats/00000.jsonl" in adapted.value
    assert adapted.standing is Standing.PROVED
    summary = "Article 53 (1)(d): summary of the training content"
    sources = fact(report, summary, "Sources and licences")
    assert "written for a test (CC0-1.0)" in sources.value
    run_forge(released, governed.config, "report", "release/tuned", "--out", str(tmp_path / "page"))
    run_forge(released, governed.config, "report", "release/imported", "--out", str(tmp_path / "other"))
    assert "supervised fine-tuning" in (tmp_path / "page" / "index.html").read_text()


def test_only_another_conversation_trains_again(released: Path, governed: Governed) -> None:
    unchanged = json.loads(run_forge(released, governed.config, "plan", "--format", "json").stdout)
    assert {action["kind"] for action in unchanged["actions"]} == {"nothing"}
    path = released / "chats" / "00000.jsonl"
    before = path.read_text()
    path.write_text(before + json.dumps(chat("is 31 even?", "no")) + "\n")
    try:
        plan = json.loads(run_forge(released, governed.config, "plan", "--worktree", "--format", "json").stdout)
    finally:
        path.write_text(before)
    made = {action["id"] for action in plan["actions"] if action["kind"] != "nothing"}
    assert {step for step in made if step.startswith(("curate", "tok", "train"))} == {"train/tuned", "train/imported"}
