"""Releases of models that a search chose: in-toto's verifier, the report, and what only Forge sees."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.admission.test_attacks import record_of
from tests.conftest import DEPLOYMENT, new_repository, run_forge, write_small
from tests.governed import Governed, commit_as, govern
from tests.made import lay_made
from tests.outside.conftest import LEDGER, fact, list_shapes, report_on
from tests.outside.desk import Desk, judged_by_script
from tests.outside.test_in_toto import link, payload_of, signed_again, verified
from tests.searching import searched, write_search
from tests.spec.test_sft_spec import TUNED
from tests.steps.finetune.conftest import chat, write_conversations

from forge.admission.verdict import Verdict
from forge.admission.verify import verify
from forge.attest.bundle import bundles_of
from forge.attest.envelope import seal
from forge.attest.keys import signer_for
from forge.attest.trust import read_trust_root
from forge.canonical import canonical_json, hex_of
from forge.contract.hyperparameters import HYPERPARAMETERS, HYPERPARAMETERS_FILE
from forge.contract.kinds import Role
from forge.ledger.ledger import Ledger
from forge.repo.repository import Repository
from forge.report.model import Standing
from forge.store.store import Store

CHOSEN = f"{HYPERPARAMETERS}/{HYPERPARAMETERS_FILE}"


@dataclass(frozen=True)
class Released:
    """A repository with both models released, and what it said before their shapes were listed."""

    folder: Path
    refused: str


def write_searched(folder: Path) -> None:
    """A model that is searched for, and one that learns to answer from it, whose rank is searched for over fewer tokens."""
    write_small(folder)
    settings = (folder / "forge.toml").read_text()
    (folder / "forge.toml").write_text(settings.replace("threads = 1", "threads = 1\nslots = 2"))
    write_search(folder)
    sweep = (folder / "models" / "sweep.yaml").read_text()
    ranks = sweep.replace("name: small", "name: ranks").replace("training.optimizer.lr", "adapter.lora.rank")
    ranks = ranks.replace("[1.0e-3, 1.0e-2]", "[1, 4]") + "  trial: {training.tokens: 10k}\n"
    (folder / "models" / "ranks.yaml").write_text(ranks)
    (folder / "models" / "tuned.yaml").write_text(searched(TUNED, "ranks"))
    deployment = DEPLOYMENT.replace("Model/small", "Model/tuned").replace("environment: local", "environment: tuned")
    (folder / "models" / "tuned-deployment.yaml").write_text(deployment.replace("small-local", "tuned").replace("7.0", "20.0"))
    words = ("yes", "no")
    write_conversations(folder / "chats", *(chat(f"is {number} even?", words[number % 2]) for number in range(30)))


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory, governed: Governed, applied: Path) -> Released:
    folder = new_repository(tmp_path_factory.mktemp("searched") / "repository")
    write_searched(folder)
    lay_made(applied, folder)
    govern(folder, governed.supply_chain(release={}, shapes=["pretrain", "sft"]), governed.people())
    commit_as(folder, governed, "cleo", "models that are searched for")
    run_forge(folder, governed.config, "keys", "delegate")
    refused = run_forge(folder, governed.config, "apply", code=None)
    assert refused.returncode, refused.stdout
    list_shapes(folder, governed, ["pretrain-sweep", "sft-sweep"], "their shapes are listed")
    run_forge(folder, governed.config, "apply")
    return Released(folder, refused.stdout + refused.stderr)


@pytest.fixture
def exported(released: Released, export_of: Callable[[Path, str], Path]) -> Callable[[str], Path]:
    """Export a release, which has to hold."""
    return partial(export_of, released.folder)


def test_who_lists_pretrain_has_not_listed_its_search(released: Released) -> None:
    assert "has the shape pretrain-sweep; listed: pretrain, sft" in released.refused
    assert "has the shape sft-sweep; listed: pretrain, sft" in released.refused


@pytest.mark.parametrize(("environment", "shape"), [("local", "pretrain-sweep"), ("tuned", "sft-sweep")])
def test_in_toto_accepts_the_chain_with_every_trial_in_it(
    exported: Callable[[str], Path], environment: str, shape: str
) -> None:
    folder = exported(environment)
    assert json.loads((folder / "index.json").read_text())["in_toto"]["shape"] == shape
    assert verified(folder)
    trained = payload_of(link(folder, "train"))
    for trial in ("small.0", "small.1", "small.2", "small"):
        assert f"train/{trial}/weights/model.safetensors" in trained["products"]
        assert f"sweep/{trial}/{CHOSEN}" in trained["materials"]
    picked = payload_of(link(folder, "sweep"))["materials"]
    assert {f"evaluate/small.{number}.search/report/report.json" for number in range(3)} <= picked.keys()


def test_the_best_trial_is_the_model_where_nothing_else_tells_them_apart(released: Released) -> None:
    """Its training is not done twice; that of the model whose trials have fewer tokens is."""
    best = record_of(released.folder, "sweep/small")
    trial = record_of(released.folder, f"train/small.{best.metrics['trial']}")
    assert trial.inputs[HYPERPARAMETERS] == best.products[HYPERPARAMETERS]
    assert record_of(released.folder, "evaluate/small.small").inputs["weights"] == trial.products["weights"]
    with Repository(released.folder) as repository:
        assert Ledger(repository, LEDGER).snapshot().latest("train/small") is None
    tuned, trials = (record_of(released.folder, name) for name in ("train/tuned", "train/tuned.1"))
    assert tuned.metrics["optimizer_steps"] == 40
    assert trials.metrics["optimizer_steps"] == 20


def test_in_toto_refuses_values_that_no_sweep_chose(exported: Callable[[str], Path], governed: Governed) -> None:
    folder = exported("local")

    def change(payload: dict[str, Any]) -> None:
        payload["materials"][f"sweep/small/{CHOSEN}"] = {"sha256": "0" * 64}

    signed_again(link(folder, "train"), signer_for(Role.TRAINER, governed.config), change)
    assert not verified(folder)


def test_in_toto_refuses_a_search_by_reports_that_no_evaluation_made(
    exported: Callable[[str], Path], governed: Governed
) -> None:
    folder = exported("local")

    def change(payload: dict[str, Any]) -> None:
        payload["materials"]["evaluate/small.1.search/report/report.json"] = {"sha256": "0" * 64}

    signed_again(link(folder, "sweep"), signer_for(Role.TRAINER, governed.config), change)
    assert not verified(folder)


def test_in_toto_refuses_a_chain_without_its_search(exported: Callable[[str], Path]) -> None:
    folder = exported("local")
    link(folder, "sweep").unlink()
    assert not verified(folder)


def test_in_toto_does_not_see_that_another_trial_than_the_best_was_picked(
    exported: Callable[[str], Path], released: Released, governed: Governed
) -> None:
    """A layout binds kinds of step, and what a step decides is its role's word (docs/attestations.md)."""
    folder = exported("local")
    best = record_of(released.folder, "sweep/small")
    other = record_of(released.folder, f"sweep/small.{(int(best.metrics['trial']) + 1) % 3}")

    def change(payload: dict[str, Any]) -> None:
        own = "materials" if payload["name"] == "train" else "products"
        chosen = payload_of_sweep["products"][f"{other.step_id}/{CHOSEN}"]
        payload[own][f"sweep/small/{CHOSEN}"] = chosen

    payload_of_sweep = payload_of(link(folder, "sweep"))
    signer = signer_for(Role.TRAINER, governed.config)
    signed_again(link(folder, "sweep"), signer, change)
    signed_again(link(folder, "train"), signer, change)
    assert verified(folder)


def test_forge_picks_again(released: Released, governed: Governed) -> None:
    for environment in ("local", "tuned"):
        said = run_forge(released.folder, governed.config, "verify", f"release/{environment}").stdout
        best = record_of(released.folder, "sweep/small")
        assert f"sweep/small picked the best of 3 trials: trial {best.metrics['trial']}, search_bpb bits_per_byte" in said
        assert "trials that were not picked are not hashed" in said


def test_the_bytes_of_a_trial_that_was_not_picked_may_be_gone_and_their_list_may_not(
    released: Released, governed: Governed, tmp_path: Path
) -> None:
    """What was signed of them is in the layout's links. The bytes of what was picked are hashed."""
    folder = tmp_path / "copy"
    shutil.copytree(released.folder, folder, symlinks=True)
    best = int(record_of(folder, "sweep/small").metrics["trial"])
    store = Store(".forge/store", folder)

    def judged() -> Verdict:
        with Repository(folder) as repository:
            snapshot = Ledger(repository, LEDGER).snapshot()
            return verify("release/local", repository, snapshot, store, read_trust_root(governed.config))

    def lose(number: int) -> str:
        digest = record_of(folder, f"train/small.{number}").products["weights"]
        (file,) = [file for file in store.manifest(digest).files if file.path == "model.safetensors"]
        name = hex_of(file.sha256)
        (folder / ".forge" / "store" / "blobs" / name[:2] / name).unlink()
        return digest

    assert "layout" in {check.rule for check in judged().checks}
    other = lose((best + 1) % 3)
    assert judged().holds
    assert "layout" in {check.rule for check in judged().checks}
    store.remove(other)
    assert {finding.rule for finding in judged().findings} == {"bytes", "layout"}, "its links cannot be made again"
    lose(best)
    assert any(f"train/small.{best}/weights" in str(finding) for finding in judged().findings)


def test_the_report_shows_every_trial_and_what_was_picked(released: Released, governed: Governed, tmp_path: Path) -> None:
    report = report_on(released.folder, governed, "local", tmp_path / "report")
    best = record_of(released.folder, "sweep/small")
    title = "Search for Model/small"
    assert fact(report, title, "Chosen by").value == "search_bpb bits_per_byte, minimized"
    first = fact(report, title, "Trial 0, the model as it is written")
    assert first.value.startswith("training.optimizer.lr 0.005: ")
    assert first.standing is Standing.PROVED
    assert fact(report, title, "Trial 1").value.startswith("training.optimizer.lr 0.001: ")
    assert fact(report, title, "Picked").value.startswith(f"trial {best.metrics['trial']}, search_bpb bits_per_byte")
    assert fact(report, title, "Trained for trials that were not picked").value.startswith("2 trainings, ")
    chosen = fact(report, "Model/small", "Hyperparameters that a search chose").value
    assert chosen == f"training.optimizer.lr {best.metrics['training.optimizer.lr']:.4g}"
    assert {row.suite for row in report.measurements} == {"EvalSuite/small"}
    page = tmp_path / "page"
    run_forge(released.folder, governed.config, "report", "release/local", "--out", str(page))
    assert "trials of Model/small" in (page / "index.html").read_text()


def test_provenance_names_what_the_search_chose(exported: Callable[[str], Path], released: Released) -> None:
    folder = exported("tuned")
    (path,) = (folder / "attestations").glob("*-train-tuned.provenance.dsse.json")
    definition = payload_of(path)["predicate"]["buildDefinition"]
    chosen = {"sha256": hex_of(record_of(released.folder, "sweep/tuned").products[HYPERPARAMETERS])}
    assert {"name": f"sweep/tuned/{HYPERPARAMETERS}", "digest": chosen} in definition["resolvedDependencies"]
    assert definition["externalParameters"]["parameters"]["sweep"] == ["adapter.lora.rank"]


@pytest.mark.parametrize("environment", ["local", "tuned"])
def test_a_reviewer_without_forge_reaches_the_verdict_on_it(
    released: Released, governed: Governed, environment: str, tmp_path: Path
) -> None:
    done = judged_by_script(released.folder, governed.config, environment, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "a search picked the best of its 3 trials: trial " in done.stdout
    assert done.stdout.endswith(f"VERDICT release/{environment}: the chain holds\n")


def test_the_bundles_own_check_picks_again(released: Released, governed: Governed, tmp_path: Path) -> None:
    """The trainer signs that another trial was picked: its statement's own reports say otherwise."""
    assert judged_by_script(released.folder, governed.config, "local", tmp_path).returncode == 0
    bundle, desk = tmp_path / "received" / "bundle", Desk(tmp_path / "second")
    (path,) = (bundle / "attestations").glob("*-sweep-small.provenance.dsse.json")
    statement = payload_of(path)
    best = int(record_of(released.folder, "sweep/small").metrics["trial"])
    other = record_of(released.folder, f"sweep/small.{(best + 1) % 3}").products[HYPERPARAMETERS]
    statement["subject"][0]["digest"] = {"sha256": hex_of(other)}
    sealed = seal(canonical_json(statement), signer_for(Role.TRAINER, governed.config))
    for keyid, data in bundles_of(sealed).items():
        (bundle / "attestations" / f"099-sweep-small.provenance.{keyid[:12]}.sigstore.json").write_bytes(data)
    assert desk(bundle, f"node check.mjs prepare {read_trust_root(governed.config).digest}").returncode == 0
    done = desk(bundle, "node check.mjs verdict")
    assert done.returncode
    assert f"the best of its 3 trials is trial {best}, and it picked another" in done.stdout + done.stderr
