"""The time stamps of a bundle, checked by openssl and by Sigstore's verifier: accepted, and refused where it is another's."""

import base64
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from securesystemslib.signer import CryptoSigner
from tests.outside.node import FOLDER, node
from tests.tsa import Authority, make_authority, needs_openssl

from forge.attest.bundle import bundle_of, bundles_of, with_timestamp
from forge.attest.envelope import seal
from forge.attest.timestamps import signature_in
from forge.report.bundle import tool

pytestmark = [
    needs_openssl,
    pytest.mark.skipif(not (FOLDER / "node_modules").is_dir(), reason="needs `make setup-dev`"),
]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("tsa") / "acme")


def bundled(folder: Path, authority: Authority, stamped: bytes | None = None) -> tuple[Path, Path]:
    """A bundle with a token over its own signature, or over other bytes; and its key."""
    private = ed25519.Ed25519PrivateKey.generate()
    sealed = seal(b'{"a":1}', CryptoSigner(private))
    signature = signature_in(sealed)
    token = authority.answer(authority.query(stamped or signature))
    (bundle,) = bundles_of(sealed).values()
    assert bundle == bundle_of(sealed, json.loads(bundle)["verificationMaterial"]["publicKey"]["hint"])
    (folder / "it.sigstore.json").write_bytes(with_timestamp(bundle, token))
    pem = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (folder / "key.pem").write_bytes(pem)
    return folder / "it.sigstore.json", folder / "key.pem"


def chain(authority: Authority, folder: Path) -> Path:
    path = folder / "chain.pem"
    path.write_bytes((authority.folder / "signer.pem").read_bytes() + authority.pem.read_bytes())
    return path


def sigstore(bundle: Path, key: Path, trusted: Path | None) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/bin:/bin", **({"TSA_CHAIN": str(trusted)} if trusted else {})}
    command = [*node(), str(FOLDER / "verify.mjs"), str(bundle), str(key)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_both_copies_of_the_program_are_the_same() -> None:
    assert tool("verify.mjs") == (FOLDER / "verify.mjs").read_bytes()


def test_sigstores_verifier_accepts_the_token_of_an_authority_that_it_trusts(authority: Authority, tmp_path: Path) -> None:
    bundle, key = bundled(tmp_path, authority)
    assert sigstore(bundle, key, chain(authority, tmp_path)).stdout == f"ok {bundle}\n"
    assert sigstore(bundle, key, None).stdout == f"ok {bundle}\n", "without an authority its signature is still verified"


def test_sigstores_verifier_refuses_the_token_of_another_signature_or_authority(authority: Authority, tmp_path: Path) -> None:
    other = make_authority(tmp_path / "acme")
    bundle, key = bundled(tmp_path, other)
    assert "timestamp could not be verified" in sigstore(bundle, key, chain(authority, tmp_path)).stdout
    bundle, key = bundled(tmp_path, authority, stamped=b"other bytes")
    assert "refused" in sigstore(bundle, key, chain(authority, tmp_path)).stdout


def test_openssl_reads_the_token_out_of_the_bundle(authority: Authority, tmp_path: Path) -> None:
    bundle, _ = bundled(tmp_path, authority)
    document: dict[str, Any] = json.loads(bundle.read_bytes())
    (row,) = document["verificationMaterial"]["timestampVerificationData"]["rfc3161Timestamps"]
    (tmp_path / "token").write_bytes(base64.b64decode(row["signedTimestamp"]))
    (tmp_path / "sig").write_bytes(base64.b64decode(document["dsseEnvelope"]["signatures"][0]["sig"]))
    (tmp_path / "other").write_bytes(b"x")
    shutil.copy(authority.pem, tmp_path / "tsa.pem")
    for name, code in (("sig", 0), ("other", 1)):
        command = ["openssl", "ts", "-verify", "-data", name, "-in", "token", "-CAfile", "tsa.pem"]
        assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == code
