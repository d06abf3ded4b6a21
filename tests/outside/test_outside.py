"""What a real chain signed, checked by software that Forge did not write: accepted, and refused with another key or payload."""

import base64
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from in_toto.exceptions import SignatureVerificationError
from in_toto.models.link import Link
from in_toto.models.metadata import Metadata
from securesystemslib.signer import SSlibKey
from tests.conftest import SETTINGS
from tests.outside.node import FOLDER, node

from forge.admission.export import export
from forge.attest.keys import make_development_keys
from forge.attest.trust import read_trust_root
from forge.ledger.ledger import Ledger
from forge.repo.repository import Repository
from forge.spec.settings import read_settings
from forge.store.store import Store

Row = dict[str, Any]


@pytest.fixture(scope="module")
def exported(applied: Path, config_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``release/local`` rests on, as files; and a stranger's keys beside it."""
    folder = tmp_path_factory.mktemp("exported")
    store = Store(read_settings(SETTINGS.encode(), "0.1.0").store.url, applied)
    root = read_trust_root(config_home)
    with Repository(applied) as repository:
        verdict = export(
            "release/local", repository, Ledger(repository, "refs/forge/ledger").snapshot(), store, root, folder / "it"
        )
        assert verdict.holds, verdict.findings
        stranger, _ = make_development_keys(folder / "stranger-config")
        export(
            "release/local",
            repository,
            Ledger(repository, "refs/forge/ledger").snapshot(),
            store,
            stranger,
            folder / "stranger",
        )
    weights = next(row for row in index_of(folder / "it")["attestations"] if row["name"] == "weights-signature")
    digest = next(item["digest"] for item in weights_subjects(folder / "it", weights["about"]))
    store.lay_out(f"sha256:{digest['sha256']}", folder / "weights", link=False)
    return folder


def index_of(folder: Path) -> Row:
    return dict(json.loads((folder / "index.json").read_text()))


def weights_subjects(folder: Path, about: str) -> list[Row]:
    """The subjects of the provenance of a training."""
    row = next(row for row in index_of(folder)["attestations"] if (row["about"], row["name"]) == (about, "provenance"))
    payload = json.loads(base64.b64decode(json.loads((folder / row["dsse"]).read_bytes())["payload"]))
    return list(payload["subject"])


def key_of(folder: Path, row: Row) -> Path:
    return folder / next(str(key["file"]) for key in index_of(folder)["keys"] if key["keys"] == row["keys"])


def changed(data: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """An envelope or bundle whose payload somebody has edited."""
    document = json.loads(data)
    envelope = document.get("dsseEnvelope", document)
    envelope["payload"] = base64.b64encode(change(base64.b64decode(envelope["payload"]))).decode()
    return json.dumps(document).encode()


def test_the_export_holds_every_kind_of_statement(exported: Path) -> None:
    rows = index_of(exported / "it")["attestations"]
    assert {row["predicate_type"] for row in rows} == {
        "link",
        "https://slsa.dev/provenance/v1",
        "https://in-toto.io/attestation/test-result/v0.1",
        "https://in-toto.io/attestation/svr/v0.2",
        "https://slsa.dev/verification_summary/v1",
        "https://model_signing/signature/v1.0",
        "urn:forge:release:v1",
    }
    assert all(row["sigstore"] for row in rows)


@pytest.mark.skipif(not (FOLDER / "node_modules").is_dir(), reason="needs `make setup-dev`")
def test_sigstores_verifier_in_javascript(exported: Path, tmp_path: Path) -> None:
    rows = index_of(exported / "it")["attestations"]
    good, wrong_key, wrong_payload = [], [], []
    for number, row in enumerate(rows):
        for bundle in row["sigstore"]:
            path = exported / "it" / bundle
            good += [path, key_of(exported / "it", row)]
            wrong_key += [path, key_of(exported / "stranger", row)]
            other = tmp_path / f"{number}.json"
            other.write_bytes(changed(path.read_bytes(), lambda data: data.replace(b"sha256", b"sha512", 1)))
            wrong_payload += [other, key_of(exported / "it", row)]
    for pairs, word in ((good, "ok "), (wrong_key, "refused "), (wrong_payload, "refused ")):
        done = subprocess.run([*node(), FOLDER / "verify.mjs", *pairs], check=False, capture_output=True, text=True)
        lines = done.stdout.splitlines()
        assert len(lines) == len(pairs) // 2 > 10, done.stderr
        assert all(line.startswith(word) for line in lines), done.stdout
        assert done.returncode == (word != "ok ")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl program")
def test_openssl_over_the_pre_authentication_encoding(exported: Path, tmp_path: Path) -> None:
    row = next(row for row in index_of(exported / "it")["attestations"] if row["name"] == "svr")
    envelope = json.loads((exported / "it" / row["dsse"]).read_bytes())
    kind, payload = envelope["payloadType"].encode(), base64.b64decode(envelope["payload"])
    (tmp_path / "sig").write_bytes(base64.b64decode(envelope["signatures"][0]["sig"]))

    def status(data: bytes, key: Path) -> int:
        (tmp_path / "pae").write_bytes(b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(data), data))
        command = ["openssl", "pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", key]
        command += ["-sigfile", tmp_path / "sig", "-in", tmp_path / "pae"]
        return subprocess.run(command, check=False, capture_output=True).returncode

    assert status(payload, key_of(exported / "it", row)) == 0
    assert status(payload, key_of(exported / "stranger", row)) != 0
    assert (
        status(payload.replace(b"NO-GO", b"GO").replace(b"FORGE_GATE_GO", b"FORGE_GATE_NO"), key_of(exported / "it", row)) != 0
    )


def test_in_toto_loads_and_verifies_every_link(exported: Path, tmp_path: Path) -> None:
    rows = [row for row in index_of(exported / "it")["attestations"] if row["name"] == "link"]
    assert len(rows) == 7
    for row in rows:
        path = exported / "it" / row["dsse"]
        metadata = Metadata.load(str(path))
        metadata.verify_signature(in_toto_key(key_of(exported / "it", row)))
        link = metadata.get_payload()
        assert isinstance(link, Link)
        assert link.name == row["about"]
        with pytest.raises(SignatureVerificationError):
            metadata.verify_signature(in_toto_key(key_of(exported / "stranger", row)))
        (tmp_path / "changed").write_bytes(changed(path.read_bytes(), lambda data: data.replace(b"sha256", b"sha512", 1)))
        with pytest.raises(SignatureVerificationError):
            Metadata.load(str(tmp_path / "changed")).verify_signature(in_toto_key(key_of(exported / "it", row)))


def in_toto_key(pem: Path) -> dict[str, Any]:
    key = SSlibKey.from_crypto(load_pem_public_key(pem.read_bytes()))  # type: ignore[arg-type]
    return {"keyid": key.keyid, **key.to_dict()}


def test_the_command_line_of_model_signing(exported: Path, tmp_path: Path) -> None:
    row = next(row for row in index_of(exported / "it")["attestations"] if row["name"] == "weights-signature")
    signature = exported / "it" / row["sigstore"][0]

    def status(weights: Path, signature: Path, key: Path) -> int:
        command = [
            sys.executable,
            "-m",
            "model_signing",
            "verify",
            "key",
            weights,
            "--signature",
            signature,
            "--public_key",
            key,
        ]
        return subprocess.run(command, check=False, capture_output=True).returncode

    key = key_of(exported / "it", row)
    assert status(exported / "weights", signature, key) == 0
    assert status(exported / "weights", signature, key_of(exported / "stranger", row)) != 0
    other = tmp_path / "changed.json"
    other.write_bytes(changed(signature.read_bytes(), lambda data: data.replace(b"config.json", b"c0nfig.json", 1)))
    assert status(exported / "weights", other, key) != 0
    shutil.copytree(exported / "weights", tmp_path / "weights")
    (tmp_path / "weights" / "pickle.bin").write_bytes(b"\x80\x04.")
    assert status(tmp_path / "weights", signature, key) != 0
    shutil.copytree(exported / "weights", tmp_path / "flipped")
    (file,) = (tmp_path / "flipped").glob("*.safetensors")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.unlink()  # laid out without write permission
    file.write_bytes(data)
    assert status(tmp_path / "flipped", signature, key) != 0
    file.write_bytes((exported / "weights" / file.name).read_bytes())
    assert status(tmp_path / "flipped", signature, key) == 0
