"""Signatures over weights: what the library model_signing refuses is refused here, without hashing anything again."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import given
from hypothesis import strategies as st
from model_signing import hashing, signing, verifying
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner

from forge.attest.bundle import bundle_of
from forge.attest.keys import make_development_keys, weights_signer_for
from forge.attest.statements import PAYLOAD_TYPE
from forge.attest.trust import read_trust_root
from forge.attest.weights import sign_weights, verify_weights
from forge.canonical import canonical_json
from forge.contract.manifest import Manifest, manifest_of
from forge.errors import TrustError
from forge.store.store import Store

FILES = {"config.json": b"{}", "model.safetensors": bytes(1000), "sub/vocab.txt": b"a\nb\n"}


def weights(store: Store, **changed: bytes | None) -> Manifest:
    files = {**FILES, **{name.replace("__", "/").replace("_", "."): data for name, data in changed.items()}}
    return store.put_bytes({name: data for name, data in files.items() if data is not None})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store("store", tmp_path)


@pytest.fixture
def signature(store: Store, config_home: Path) -> bytes:
    return sign_weights(weights(store), weights_signer_for(config_home))


@pytest.fixture
def keys(config_home: Path) -> tuple[str, ...]:
    return read_trust_root(config_home).weights


def library_says(manifest: Manifest, signature: bytes, store: Store, key: str, tmp_path: Path) -> None:
    """What model_signing finds, over the files as they would be loaded; tests/outside runs its command line."""
    folder = tmp_path / manifest.digest[-12:]
    store.lay_out(manifest.digest, folder, link=False)
    (tmp_path / "model.sig").write_bytes(signature)
    (tmp_path / "key.pub").write_text(key)
    verifying.Config().use_elliptic_key_verifier(public_key=tmp_path / "key.pub").verify(folder, tmp_path / "model.sig")


def test_what_was_signed_holds_here_and_in_the_library(
    store: Store, signature: bytes, keys: tuple[str, ...], tmp_path: Path
) -> None:
    verify_weights(weights(store), signature, keys)
    library_says(weights(store), signature, store, keys[0], tmp_path)
    assert canonical_json(json.loads(signature)) == signature


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra_json": b"{}"}, r"not signed: extra\.json"),
        ({"config_json": None}, r"signed but absent: config\.json"),
        ({"model_safetensors": bytes(999) + b"\1"}, r"other bytes than were signed: model\.safetensors"),
        ({"sub__vocab_txt": None, "vocab_txt": b"a\nb\n"}, r"not signed: vocab\.txt; signed but absent: sub/vocab\.txt"),
    ],
)
def test_other_files_are_refused_here_and_by_the_library(
    change: dict[str, bytes | None], message: str, store: Store, signature: bytes, keys: tuple[str, ...], tmp_path: Path
) -> None:
    other = weights(store, **change)
    with pytest.raises(TrustError, match=message):
        verify_weights(other, signature, keys)
    with pytest.raises(ValueError, match="Signature mismatch"):
        library_says(other, signature, store, keys[0], tmp_path)


def test_another_key_is_refused_here_and_by_the_library(store: Store, signature: bytes, tmp_path: Path) -> None:
    other, _ = make_development_keys(tmp_path / "other")
    with pytest.raises(TrustError, match="signed with another key"):
        verify_weights(weights(store), signature, other.weights)
    with pytest.raises(ValueError, match="Key mismatch"):
        library_says(weights(store), signature, store, other.weights[0], tmp_path)
    with pytest.raises(TrustError, match="no key is trusted"):
        verify_weights(weights(store), signature, ())


def test_one_of_several_trusted_keys_is_enough(store: Store, signature: bytes, keys: tuple[str, ...], tmp_path: Path) -> None:
    other, _ = make_development_keys(tmp_path / "other")
    verify_weights(weights(store), signature, (*other.weights, *keys))


def test_a_signature_that_the_library_made_holds(
    store: Store, config_home: Path, keys: tuple[str, ...], tmp_path: Path
) -> None:
    """As every engine before this one made them."""
    folder = tmp_path / "weights"
    manifest = store.lay_out(weights(store).digest, folder)
    config = signing.Config().use_elliptic_key_signer(private_key=config_home / "keys" / "weights.pem")
    config.set_hashing_config(hashing.Config().use_file_serialization(hashing_algorithm="sha256"))
    config.sign(folder, tmp_path / "model.sig")
    verify_weights(manifest, (tmp_path / "model.sig").read_bytes(), keys)


def resigned(config_home: Path, change: Callable[[dict[str, Any]], object], signature: bytes) -> bytes:
    """A statement changed by somebody who has the key."""
    document = json.loads(signature)
    statement = json.loads(base64.b64decode(document["dsseEnvelope"]["payload"]))
    change(statement)
    envelope = Envelope(canonical_json(statement), PAYLOAD_TYPE, {})
    envelope.sign(weights_signer_for(config_home))
    return bundle_of(canonical_json(envelope.to_dict()), document["verificationMaterial"]["publicKey"]["hint"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["predicate"]["resources"].pop(), "its subject is not the digest"),
        (lambda s: s["predicate"]["resources"].append(s["predicate"]["resources"][0]), "names one twice"),
        (lambda s: s["predicate"]["resources"][0].update(algorithm="blake3"), "another algorithm"),
        (lambda s: s["predicate"]["serialization"].update(method="shards"), "expected"),
        (lambda s: s.update(predicateType="https://slsa.dev/provenance/v1"), "expected"),
        (lambda s: s["subject"].append(s["subject"][0]), "too many values"),
        (lambda s: s.pop("predicate"), "predicate"),
    ],
)
def test_a_signed_statement_that_is_no_whole_list_of_files_is_refused(
    change: Callable[[dict[str, Any]], object],
    message: str,
    store: Store,
    signature: bytes,
    config_home: Path,
    keys: tuple[str, ...],
) -> None:
    with pytest.raises(TrustError, match=message):
        verify_weights(weights(store), resigned(config_home, change, signature), keys)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(mediaType="application/vnd.dev.sigstore.bundle.v0.4+json"),
        lambda d: d["dsseEnvelope"].update(payloadType="text/plain"),
        lambda d: d["dsseEnvelope"].update(signatures=[]),
        lambda d: d["dsseEnvelope"].update(signatures=d["dsseEnvelope"]["signatures"] * 2),
        lambda d: d["dsseEnvelope"]["signatures"][0].update(sig="AAAA"),
        lambda d: d["dsseEnvelope"]["signatures"][0].update(sig="%"),
        lambda d: d["dsseEnvelope"].update(payload=d["dsseEnvelope"]["payload"][:-8] + "AAAAAAAA"),
        lambda d: d.pop("dsseEnvelope"),
        lambda d: d.update(verificationMaterial=7),
    ],
)
def test_a_bundle_that_is_not_what_was_signed_is_refused(
    change: Callable[[dict[str, Any]], object], store: Store, signature: bytes, keys: tuple[str, ...]
) -> None:
    document = json.loads(signature)
    change(document)
    with pytest.raises(TrustError, match="does not hold"):
        verify_weights(weights(store), json.dumps(document).encode(), keys)


@pytest.mark.parametrize("data", [b"", b"[]", b"7", b"\xff", b"[" * 100_000])
def test_what_is_no_bundle_at_all_is_refused(data: bytes, store: Store, keys: tuple[str, ...]) -> None:
    with pytest.raises(TrustError, match="does not hold"):
        verify_weights(weights(store), data, keys)


def test_weights_are_not_signed_with_a_key_that_model_signing_cannot_check(store: Store) -> None:
    with pytest.raises(TrustError, match="P-256"):
        sign_weights(weights(store), CryptoSigner(ed25519.Ed25519PrivateKey.generate()))


SIGNER = CryptoSigner(ec.generate_private_key(ec.SECP256R1()))
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\\\0"), min_size=1, max_size=8).filter(
    lambda name: name not in (".", "..")
)
DIGESTS = st.binary(min_size=32, max_size=32).map(lambda data: "sha256:" + data.hex())


@given(st.dictionaries(NAMES, DIGESTS, min_size=1, max_size=6), st.dictionaries(NAMES, DIGESTS, min_size=1, max_size=6))
def test_a_signature_holds_for_its_own_files_and_no_others(one: dict[str, str], two: dict[str, str]) -> None:
    manifests = [manifest_of({name: (1, digest) for name, digest in files.items()}) for files in (one, two)]
    signed = sign_weights(manifests[0], SIGNER)
    key = SIGNER.public_key.keyval["public"]
    verify_weights(manifests[0], signed, (key,))
    if one != two:
        with pytest.raises(TrustError):
            verify_weights(manifests[1], signed, (key,))
