"""Envelopes as Sigstore bundles: the same payload and signature, one signature each."""

import base64
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.dsse import Envelope

from forge.attest.bundle import BUNDLE_TYPE, bundle_of, bundles_of, is_bundle, payload_of, pem_of
from forge.attest.envelope import seal
from forge.attest.keys import signer_for
from forge.attest.statements import PAYLOAD_TYPE
from forge.attest.trust import PublicKey, read_trust_root
from forge.canonical import canonical_json
from forge.contract.kinds import Role
from forge.errors import TrustError


def test_a_bundle_keeps_payload_and_signature(config_home: Path) -> None:
    sealed = json.loads(seal(b'{"integer":9007199254740991}', signer_for(Role.TRAINER, config_home)))
    bundle = bundle_of(canonical_json(sealed), "hint")
    document = json.loads(bundle)
    assert canonical_json(document) == bundle
    assert document["dsseEnvelope"] == sealed
    assert document["verificationMaterial"]["publicKey"] == {"hint": "hint"}
    assert b"9007199254740991" in base64.b64decode(document["dsseEnvelope"]["payload"])
    assert is_bundle(bundle)
    assert not is_bundle(canonical_json(sealed))
    assert payload_of(bundle) == payload_of(canonical_json(sealed)) == {"integer": 9007199254740991}


def test_two_signatures_give_two_bundles(config_home: Path) -> None:
    envelope = Envelope(b"{}", PAYLOAD_TYPE, {})
    signers = [signer_for(role, config_home) for role in (Role.TRAINER, Role.EVALUATOR)]
    for signer in signers:
        envelope.sign(signer)
    sealed = canonical_json(envelope.to_dict())
    with pytest.raises(TrustError, match="holds one signature, the envelope has 2"):
        bundle_of(sealed, "hint")
    bundles = bundles_of(sealed)
    assert set(bundles) == {signer.public_key.keyid for signer in signers}
    for keyid, bundle in bundles.items():
        document = json.loads(bundle)
        assert document["mediaType"] == BUNDLE_TYPE
        assert [row["keyid"] for row in document["dsseEnvelope"]["signatures"]] == [keyid]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
def test_anything_else_is_refused_and_never_a_crash(document: object) -> None:
    data = json.dumps(document).encode()
    with pytest.raises(TrustError, match="not a DSSE envelope"):
        bundles_of(data)
    assert not is_bundle(data)
    assert payload_of(data) == {}


@pytest.mark.parametrize("change", [{"payload": 7}, {"signatures": [{"keyid": "a", "sig": None}]}, {"signatures": [{}]}])
def test_an_envelope_of_other_types_is_refused(config_home: Path, change: dict[str, object]) -> None:
    sealed = json.loads(seal(b"{}", signer_for(Role.TRAINER, config_home)))
    with pytest.raises(TrustError, match="not a DSSE envelope"):
        bundles_of(json.dumps({**sealed, **change}).encode())


def test_keys_of_either_kind_become_pem(config_home: Path) -> None:
    root = read_trust_root(config_home)
    (key,) = root.roles[Role.TRAINER]
    assert load_pem_public_key(pem_of(key).encode()).public_bytes_raw().hex() == key.public  # type: ignore[union-attr]
    other = PublicKey(keyid="x", keytype="ecdsa", scheme="ecdsa-sha2-nistp256", public=root.weights[0])
    assert pem_of(other) == root.weights[0]
