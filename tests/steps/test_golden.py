"""Products are deterministic, and whoever changes one raises its step's version.

The small example is applied twice, in two folders: every product must have the same digest. golden.json holds, for each
step version, a digest of what the products say; where products hold floating-point results, which differ in their last
digits from one processor to another, the digest is taken over rounded figures, and of weights the figures themselves are held.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file
from tests.conftest import commit_all, new_repository, run_forge, write_small

from forge.canonical import digest_of_bytes, digest_of_json
from forge.contract.kinds import STEPS, StepKind
from forge.contract.record import Record
from forge.ledger.ledger import Ledger
from forge.repo.repository import Repository
from forge.store.store import Store

GOLDEN = Path(__file__).with_name("golden.json")
STEP_IDS = {
    StepKind.CURATE: "curate/small",
    StepKind.TOKENIZER: "tokenizer/small",
    StepKind.TOKENIZE: "tokenize/small",
    StepKind.TRAIN: "train/small",
    StepKind.EVALUATE: "evaluate/small.small",
    StepKind.GATE: "gate/small-local",
    StepKind.RELEASE: "release/small-local",
}
"""The small example searches nothing: of that kind tests/steps/test_sweep_step.py says the same."""


def record_of(folder: Path, kind: StepKind) -> Record:
    record = Ledger(Repository(folder), "refs/forge/ledger").snapshot().latest(STEP_IDS[kind])
    assert record is not None
    return record


@pytest.fixture(scope="module")
def applied_elsewhere(tmp_path_factory: pytest.TempPathFactory, config_home: Path) -> Path:
    folder = new_repository(tmp_path_factory.mktemp("another") / "place" / "repository")
    write_small(folder)
    commit_all(folder)
    run_forge(folder, config_home, "apply")
    return folder


@pytest.mark.parametrize("kind", list(STEP_IDS))
def test_each_step_gives_the_same_bytes_in_another_folder(applied: Path, applied_elsewhere: Path, kind: StepKind) -> None:
    first, second = record_of(applied, kind), record_of(applied_elsewhere, kind)
    assert first.products == second.products
    assert first.key == second.key


def rounded(value: Any) -> Any:
    """Two significant digits of every float."""
    if isinstance(value, float):
        return float(f"{value:.1e}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list) else value


def essence(kind: StepKind, folder: Path, products: dict[str, str]) -> str:
    """A digest of what a step's products say, the same on every machine."""
    store = Store(".forge/store", folder)
    if kind in (StepKind.CURATE, StepKind.TOKENIZER, StepKind.TOKENIZE):
        return str(digest_of_json(products))
    name = {StepKind.EVALUATE: "report", StepKind.GATE: "verdict", StepKind.RELEASE: "release"}[kind]
    document = json.loads(store.read_file(products[name], f"{name}.json"))
    for digest in ("weights", "verdict") if kind is StepKind.RELEASE else ():
        document.pop(digest)
    return str(digest_of_json(rounded(document)))


@pytest.mark.parametrize("kind", [kind for kind in STEP_IDS if kind is not StepKind.TRAIN])
def test_a_change_of_products_raises_the_step_version(applied: Path, kind: StepKind) -> None:
    """If this fails: was the change meant? Raise the version in contract/kinds.py; golden.json takes what is said."""
    found = essence(kind, applied, record_of(applied, kind).products)
    known = json.loads(GOLDEN.read_text())
    version = f"{kind.value} v{STEPS[kind].version}"
    assert known.get(version) == found, f'"{version}": "{found}"'


def test_a_change_of_weights_raises_the_step_version(applied: Path, tmp_path: Path) -> None:
    """As above. Means of magnitudes, which another processor moved by 0.2% and more."""
    Store(".forge/store", applied).lay_out(record_of(applied, StepKind.TRAIN).products["weights"], tmp_path / "weights")
    tensors = load_file(tmp_path / "weights" / "model.safetensors")
    others = {
        path.name: digest_of_bytes(path.read_bytes())
        for path in (tmp_path / "weights").iterdir()
        if path.suffix != ".safetensors"
    }
    found = {
        "files": str(digest_of_json(others)),
        "shapes": {name: list(tensor.shape) for name, tensor in tensors.items()},
        "magnitudes": {name: float(f"{abs(tensor).mean():.4g}") for name, tensor in tensors.items()},
    }
    version = f"train v{STEPS[StepKind.TRAIN].version}"
    known = json.loads(GOLDEN.read_text()).get(version)
    assert known is not None, json.dumps({version: found})
    assert known | {"magnitudes": pytest.approx(known["magnitudes"], rel=0.03)} == found, json.dumps({version: found})
