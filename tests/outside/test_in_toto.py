"""The exported chain of a governed release before in-toto's own verifier: accepted, and each attack refused."""

import base64
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner
from tests.conftest import new_repository, run_forge, write_small
from tests.governed import Governed, commit_as, govern, make_governed
from tests.made import lay_made

from forge.admission.export import export
from forge.attest.envelope import seal
from forge.attest.keys import signer_for
from forge.attest.trust import read_trust_root
from forge.canonical import canonical_json
from forge.contract.kinds import Role
from forge.ledger.ledger import Ledger
from forge.repo.repository import Repository
from forge.store.store import Store

VERIFY = Path(sys.executable).with_name("in-toto-verify")


@pytest.fixture(scope="module")
def exported_once(tmp_path_factory: pytest.TempPathFactory, governed: Governed, applied: Path) -> Path:
    folder = new_repository(tmp_path_factory.mktemp("exported") / "repository")
    write_small(folder)
    lay_made(applied, folder)
    govern(folder, governed.supply_chain(release={}), governed.people())
    commit_as(folder, governed, "cleo", "the small example, governed")
    run_forge(folder, governed.config, "keys", "delegate")
    run_forge(folder, governed.config, "apply")
    with Repository(folder) as repository:
        snapshot = Ledger(repository, "refs/forge/ledger").snapshot()
        store, root = Store(".forge/store", folder), read_trust_root(governed.config)
        verdict = export("release/local", repository, snapshot, store, root, folder.parent / "export")
    assert verdict.holds, verdict.findings
    return folder.parent / "export"


@pytest.fixture
def exported(exported_once: Path, tmp_path: Path) -> Path:
    shutil.copytree(exported_once, tmp_path / "export")
    return tmp_path / "export"


def verified(folder: Path) -> bool:
    """Whether in-toto-verify accepts, run in an empty folder, with the root's key and nothing else."""
    empty = folder.parent / "empty"
    empty.mkdir(exist_ok=True)
    (key,) = (folder / "keys").glob("root-*.pem")
    command = [str(VERIFY), "-l", str(folder / "in-toto" / "root.layout"), "--verification-keys", str(key)]
    done = subprocess.run(
        [*command, "--link-dir", str(folder / "in-toto" / "links")], cwd=empty, capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 1), done.stderr
    return done.returncode == 0


def link(folder: Path, kind: str) -> Path:
    (found,) = (folder / "in-toto" / "links").glob(f"{kind}.*.link")
    return found


def payload_of(path: Path) -> dict[str, Any]:
    return dict(json.loads(base64.b64decode(json.loads(path.read_bytes())["payload"])))


def signed_again(path: Path, signer: CryptoSigner, change: Callable[[dict[str, Any]], None]) -> None:
    """What somebody with a key could put in a link's place."""
    payload = payload_of(path)
    change(payload)
    path.unlink()
    kind = path.name.split(".")[0]
    path.with_name(f"{kind}.{signer.public_key.keyid[:8]}.link").write_bytes(seal(canonical_json(payload), signer))


def test_in_toto_accepts_the_chain_of_a_release(exported: Path) -> None:
    assert verified(exported)


def test_each_kind_of_step_is_needed(exported: Path) -> None:
    for path in sorted((exported / "in-toto" / "links").iterdir()):
        kept = path.read_bytes()
        path.unlink()
        assert not verified(exported), path.name
        path.write_bytes(kept)
    assert verified(exported)


def test_a_link_or_a_layout_without_its_signature_is_refused(exported: Path) -> None:
    for path in [exported / "in-toto" / "root.layout", *sorted((exported / "in-toto" / "links").iterdir())]:
        kept = path.read_bytes()
        path.write_bytes(canonical_json({**json.loads(kept), "signatures": []}))
        assert not verified(exported), path.name
        path.write_bytes(kept)
    assert verified(exported)


def test_a_changed_byte_of_any_link_or_of_the_layout_is_refused(exported: Path) -> None:
    for path in [exported / "in-toto" / "root.layout", *sorted((exported / "in-toto" / "links").iterdir())]:
        kept = path.read_bytes()
        document = json.loads(kept)
        payload = base64.b64decode(document["payload"])
        document["payload"] = base64.b64encode(payload[:-2] + b" " + payload[-2:]).decode()
        path.write_bytes(canonical_json(document))
        assert not verified(exported), path.name
        path.write_bytes(kept)


def test_weights_that_no_training_made_are_refused_although_the_evaluator_signs_them(
    exported: Path, governed: Governed
) -> None:
    """An evaluation borrowed from another model: MATCH finds no such product, and DISALLOW refuses what is left."""

    def change(payload: dict[str, Any]) -> None:
        for path in payload["materials"]:
            if path.startswith("train/"):
                payload["materials"][path] = {"sha256": "0" * 64}

    signed_again(link(exported, "evaluate"), signer_for(Role.EVALUATOR, governed.config), change)
    assert not verified(exported)


def test_a_product_under_another_name_is_refused(exported: Path, governed: Governed) -> None:
    def change(payload: dict[str, Any]) -> None:
        payload["products"]["smuggled/model.pkl"] = {"sha256": "0" * 64}

    signed_again(link(exported, "train"), signer_for(Role.TRAINER, governed.config), change)
    assert not verified(exported)


def test_a_link_signed_by_another_role_is_refused(exported: Path, governed: Governed) -> None:
    signed_again(link(exported, "gate"), signer_for(Role.TRAINER, governed.config), lambda payload: None)
    assert not verified(exported)


def test_a_layout_that_is_weaker_and_signed_by_another_root_is_refused(exported: Path, tmp_path: Path) -> None:
    other = make_governed(tmp_path / "other")
    path = exported / "in-toto" / "root.layout"
    layout = payload_of(path)
    layout["steps"] = layout["steps"][-1:]
    path.write_bytes(seal(canonical_json(layout), signer_for(Role.ROOT, other.config)))
    assert not verified(exported)


def test_an_expired_layout_is_refused(exported: Path, governed: Governed) -> None:
    path = exported / "in-toto" / "root.layout"
    layout = payload_of(path)
    layout["expires"] = "2020-01-01T00:00:00Z"
    path.write_bytes(seal(canonical_json(layout), signer_for(Role.ROOT, governed.config)))
    assert not verified(exported)
