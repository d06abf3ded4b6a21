"""Whose signature counts when: what a later charter revokes is revoked however the same key is written there."""

from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tests.governed import STEPS

from forge.attest.authority import Authority, public_key
from forge.attest.keys import make_root
from forge.contract.charter import Charter
from forge.contract.kinds import Role

PEM = ed25519.Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
PERSON = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPaTN0kTpHt/7oeFaEBvPzDqXKSlb8GBC2cFWnJNfDlV"


def charter(public: str, ssh: str, **changes: Any) -> Charter:
    key = {"valid_from": "2020-01-01T00:00:00Z", **changes}
    roles: dict[str, Any] = {role: {"steps": steps} for role, steps in STEPS.items()}
    roles["releaser"]["keys"] = [{"name": "releaser-1", "public": public, **key}]
    people = {"people": [{"name": "ana", "keys": [{"public": ssh, **key}]}]}
    chain = {"roles": roles, "expires": "2099-01-01T00:00:00Z"}
    return Charter.from_document({"supply_chain": chain, "people": people})


@pytest.mark.parametrize("public", [PEM, PEM.rstrip("\n"), PEM.replace("\n", "\r\n"), f"our releaser's key\n{PEM}\n\n"])
@pytest.mark.parametrize("ssh", [PERSON, f"{PERSON} ana@example.org", f"{PERSON}   lost"])
def test_a_later_revocation_holds_however_the_key_is_written(tmp_path: Path, public: str, ssh: str) -> None:
    old, new = charter(PEM, PERSON), charter(public, ssh, revoked="2026-01-01T00:00:00Z")
    authority = Authority(make_root(tmp_path, None), old, new)
    keyid = public_key(PEM).keyid
    before, after = "2025-12-31T23:59:59+00:00", "2026-01-01T00:00:00+00:00"
    assert authority.signers(Role.RELEASER, before).count(keyid)
    assert not authority.signers(Role.RELEASER, after).count(keyid)
    assert authority.person_of(PERSON, before) == "ana"
    assert authority.person_of(PERSON, after) is None
    assert authority.person_of(PERSON, None) is None
