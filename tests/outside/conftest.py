"""Repositories whose models begin with other models' weights: written, governed, applied, and exported for other verifiers."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from safetensors.torch import save_file
from tests.conftest import DEPLOYMENT, new_repository, run_forge, write_small
from tests.governed import Governed, commit_as, govern, make_governed
from tests.made import lay_made
from tests.spec.test_dpo_spec import PREFERRING
from tests.spec.test_sft_spec import TUNED
from tests.steps.finetune.conftest import chat, preferred, write_conversations
from tests.steps.train.conftest import write_tokenizer

from forge.admission.export import export
from forge.attest.trust import read_trust_root
from forge.ledger.ledger import Ledger
from forge.repo.repository import Repository
from forge.report.make import Place, make_report
from forge.report.model import Fact, Report
from forge.spec.architecture import Architecture
from forge.steps.train.model import build_model
from forge.store.store import Store

LEDGER = "refs/forge/ledger"
BASE = "vendor/base"
IMPORTED_BASE = f"{{path: {BASE}, license: MIT, origin: another house}}"
CONFIG = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "vocab_size": 512,
}


def write_base(folder: Path) -> None:
    """A model that somebody else made: random weights under a tokenizer of single characters."""
    write_tokenizer(folder)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    shape = {name: value for name, value in CONFIG.items() if name not in ("model_type", "vocab_size")}
    save_file(build_model(Architecture(family="llama", **shape), 512, 3).state_dict(), folder / "model.safetensors")
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04pickle")  # it is not read, and not part of the artifact


def write_released(folder: Path, models: Mapping[str, str]) -> None:
    """The small example, a base in a folder, and models by name; each of them is deployed to an environment of its name."""
    write_small(folder)
    settings = (folder / "forge.toml").read_text()
    (folder / "forge.toml").write_text(settings.replace("threads = 1", "threads = 1\nslots = 2"))
    write_base(folder / BASE)
    (folder / "models" / "deployment.yaml").unlink()
    for name, spec in models.items():
        (folder / "models" / f"{name}.yaml").write_text(spec)
        text = DEPLOYMENT.replace("small-local", name).replace("environment: local", f"environment: {name}")
        text = text.replace("Model/small", f"Model/{name}").replace("max: 7.0", "max: 20.0")
        (folder / "models" / f"{name}-deployment.yaml").write_text(text)


def list_shapes(folder: Path, governed: Governed, shapes: Sequence[str], message: str) -> None:
    """Commit a SupplyChain that lists them, and delegate to it."""
    govern(folder, governed.supply_chain(release={}, shapes=list(shapes)), governed.people())
    commit_as(folder, governed, "cleo", message)
    run_forge(folder, governed.config, "keys", "delegate")


def report_on(folder: Path, governed: Governed, environment: str, out: Path) -> Report:
    """The report on a release."""
    with Repository(folder) as repository:
        snapshot = Ledger(repository, LEDGER).snapshot()
        place = Place(repository, snapshot, Store(".forge/store", folder), read_trust_root(governed.config))
        return make_report(f"release/{environment}", place, out)


def fact(report: Report, title: str, label: str) -> Fact:
    """One fact of a report, by its section and its label."""
    sections = {section.title: section for section in (*report.training, *report.act)}
    (found,) = [each for each in sections[title].facts if each.label == label]
    return found


@pytest.fixture(scope="session")
def governed(tmp_path_factory: pytest.TempPathFactory) -> Governed:
    return make_governed(tmp_path_factory.mktemp("governed"))


@pytest.fixture
def export_of(governed: Governed, tmp_path: Path) -> Callable[[Path, str], Path]:
    """Export a release of a repository, which has to hold."""

    def exporting(folder: Path, environment: str) -> Path:
        with Repository(folder) as repository:
            snapshot = Ledger(repository, LEDGER).snapshot()
            store, root = Store(".forge/store", folder), read_trust_root(governed.config)
            verdict = export(f"release/{environment}", repository, snapshot, store, root, tmp_path / environment)
        assert verdict.holds, [str(finding) for finding in verdict.findings]
        return tmp_path / environment

    return exporting


@pytest.fixture(scope="session")
def answering(tmp_path_factory: pytest.TempPathFactory, governed: Governed, applied: Path) -> Path:
    """Three models that learn to answer: ``tuned`` from conversations with an adapter, ``imported`` the same from a folder's
    weights, and ``preferring`` from preferences, beginning with ``tuned``; what it learns from is cleaned.
    """
    folder = new_repository(tmp_path_factory.mktemp("answering") / "repository")
    words = ("yes", "no")
    questions = [(f"is {number} even?", words[number % 2], words[1 - number % 2]) for number in range(30)]
    write_conversations(folder / "chats", *(chat(question, answer) for question, answer, _ in questions))
    write_conversations(folder / "pairs", *(preferred(*each) for each in questions))
    whole = TUNED[: TUNED.index("  adapter:")].replace("name: tuned", "name: imported")
    imported = whole.replace("{model: Model/small}", IMPORTED_BASE)
    cleaned = "validation_fraction: 0.2, pii: {emails: true}, decontaminate_against: [EvalSuite/small]}"
    preferring = PREFERRING.replace("Model/small", "Model/tuned").replace("validation_fraction: 0.2}", cleaned)
    write_released(folder, {"tuned": TUNED, "imported": imported, "preferring": preferring})
    lay_made(applied, folder)
    list_shapes(folder, governed, ["sft", "sft-imported", "dpo"], "models that answer")
    run_forge(folder, governed.config, "apply")
    return folder
