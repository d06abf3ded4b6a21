"""Time stamps of signatures: what a pinned authority said holds, and nothing else does, each for its own reason."""

import datetime
import json
import os
import subprocess
from pathlib import Path

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID
from tests.tsa import DAY, Authority, make_authority, needs_openssl

from forge.attest.timestamps import (
    TimestampAuthority,
    fingerprint,
    pin_timestamp_authority,
    read_timestamp_authority,
    read_token,
    signature_in,
    stamped_time,
)
from forge.errors import TrustError

pytestmark = needs_openssl
SIGNATURE = b"\x01" * 64


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("tsa") / "acme")


@pytest.fixture(scope="module")
def pinned(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> TimestampAuthority:
    folder = tmp_path_factory.mktemp("config")
    return pin_timestamp_authority(folder, authority.pem.read_bytes(), [authority.fingerprint], replace=False)


def token(authority: Authority, data: bytes = SIGNATURE) -> bytes:
    return authority.answer(authority.query(data))


def test_what_the_pinned_authority_saw_was_there_at_that_time(authority: Authority, pinned: TimestampAuthority) -> None:
    before = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    moment = stamped_time(token(authority), SIGNATURE, pinned)
    assert moment.endswith("+00:00")
    assert before <= datetime.datetime.fromisoformat(moment) <= datetime.datetime.now(datetime.UTC)


def test_openssl_accepts_the_same_token(authority: Authority, tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(token(authority))
    (tmp_path / "signature").write_bytes(SIGNATURE)
    (tmp_path / "other").write_bytes(SIGNATURE[1:])
    for name, code in (("signature", 0), ("other", 1)):
        command = ["openssl", "ts", "-verify", "-in", "token", "-data", name, "-CAfile", str(authority.pem)]
        assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == code


def test_a_token_of_another_signature_is_refused(authority: Authority, pinned: TimestampAuthority) -> None:
    with pytest.raises(TrustError, match="the time stamp is about another signature"):
        stamped_time(token(authority, b"another"), SIGNATURE, pinned)


def test_a_token_that_answers_another_request_is_refused(authority: Authority, pinned: TimestampAuthority) -> None:
    answer = authority.answer(authority.query(SIGNATURE, nonce=True))
    nonce = read_token(answer).tst_info.nonce
    assert stamped_time(answer, SIGNATURE, pinned, nonce=nonce)
    with pytest.raises(TrustError, match="the time stamp answers another request"):
        stamped_time(answer, SIGNATURE, pinned, nonce=nonce + 1)
    with pytest.raises(TrustError, match="the time stamp answers another request"):
        stamped_time(token(authority), SIGNATURE, pinned, nonce=nonce)


def test_an_authority_that_is_not_pinned_is_refused(pinned: TimestampAuthority, tmp_path: Path) -> None:
    other = make_authority(tmp_path / "acme")  # by the same names
    with pytest.raises(TrustError, match=r"is not signed by the pinned authority .*pinned: CN=acme root \(sha256:"):
        stamped_time(token(other), SIGNATURE, pinned)


def test_a_certificate_that_was_not_valid_at_the_stated_time_is_refused(
    authority: Authority, pinned: TimestampAuthority
) -> None:
    now = datetime.datetime.now(datetime.UTC)
    authority.issue("late", begins=-20 * DAY, ends=-10 * DAY)
    with pytest.raises(TrustError, match=r"was not valid at the time that it states \(certificate has expired\)"):
        stamped_time(authority.token(SIGNATURE, "late"), SIGNATURE, pinned)
    with pytest.raises(TrustError, match=r"was not valid at the time that it states \(certificate is not yet valid"):
        stamped_time(authority.token(SIGNATURE, at=now - 30 * DAY), SIGNATURE, pinned)


def test_a_token_outlives_the_certificate_that_signed_it(authority: Authority, pinned: TimestampAuthority) -> None:
    authority.issue("retired", begins=-2 * DAY, ends=-datetime.timedelta(hours=1))
    then = datetime.datetime.now(datetime.UTC) - DAY
    found = stamped_time(authority.token(SIGNATURE, "retired", at=then), SIGNATURE, pinned)
    assert found == then.replace(microsecond=0).isoformat()


@pytest.mark.parametrize(
    ("name", "usage", "critical"),
    [
        ("web", ExtendedKeyUsageOID.SERVER_AUTH, True),
        ("any", None, True),
        ("lax", ExtendedKeyUsageOID.TIME_STAMPING, False),
    ],
)
def test_a_certificate_for_something_else_is_refused(
    authority: Authority, pinned: TimestampAuthority, name: str, usage: object, critical: bool
) -> None:
    authority.issue(name, usage=usage, critical=critical)  # type: ignore[arg-type]
    with pytest.raises(TrustError, match="its signer's certificate is not for time stamping alone"):
        stamped_time(authority.token(SIGNATURE, name), SIGNATURE, pinned)


def test_a_signer_that_issues_certificates_itself_is_refused(authority: Authority, tmp_path: Path) -> None:
    """Whoever has the key of a signer is no authority over others, also where its certificate is pinned among those between."""
    authority.issue("grown", issuer="signer")
    data = authority.pem.read_bytes() + (authority.folder / "signer.pem").read_bytes()
    both = pin_timestamp_authority(tmp_path, data, [authority.fingerprint], replace=False)
    assert stamped_time(token(authority), SIGNATURE, both)
    with pytest.raises(TrustError, match=r"is not signed by the pinned authority \(invalid CA certificate\)"):
        stamped_time(authority.token(SIGNATURE, "grown"), SIGNATURE, both)


def test_certificates_between_root_and_signer_may_be_pinned_too(authority: Authority, tmp_path: Path) -> None:
    authority.issue("between", usage=None, is_authority=True)
    authority.issue("leaf", issuer="between")
    answer = authority.answer(authority.query(SIGNATURE), "leaf")
    data = (authority.folder / "between.pem").read_bytes() + authority.pem.read_bytes()
    chain = pin_timestamp_authority(tmp_path, data, [authority.fingerprint], replace=False)
    assert stamped_time(answer, SIGNATURE, chain)
    alone = TimestampAuthority(chain.anchors)
    with pytest.raises(TrustError, match="is not signed by the pinned authority"):
        stamped_time(answer, SIGNATURE, alone)


def test_what_is_no_whole_answer_is_refused(authority: Authority, pinned: TimestampAuthority) -> None:
    whole = token(authority)
    for data in (b"", whole[:-50], whole + b"x", b"<html>", whole[5:], b"\x30\x03\x02\x01\x00"):
        with pytest.raises(TrustError, match="it is no whole time-stamp answer in DER"):
            stamped_time(data, SIGNATURE, pinned)
    with pytest.raises(TrustError, match="no time-stamp token is larger than 65,536"):
        stamped_time(b"\x30" * 70_000, SIGNATURE, pinned)


def test_every_changed_byte_is_found_or_changes_nothing(authority: Authority, pinned: TimestampAuthority) -> None:
    whole = token(authority)
    said = stamped_time(whole, SIGNATURE, pinned)
    for place in range(0, len(whole), 7):
        changed = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
        try:
            assert stamped_time(changed, SIGNATURE, pinned) == said, place
        except TrustError:
            continue


def test_a_refusal_of_the_authority_is_told_with_its_reason(authority: Authority, pinned: TimestampAuthority) -> None:
    query = authority.query(SIGNATURE)
    other = query.replace(
        bytes.fromhex("0609608648016503040201"), bytes.fromhex("0609608648016503040204")
    )  # sha224 of 32 bytes
    assert other != query
    with pytest.raises(TrustError, match=r"did not grant a time stamp \(status 2\)"):
        stamped_time(authority.answer(other), SIGNATURE, pinned)


def test_a_token_without_the_signers_certificate_is_refused(authority: Authority, pinned: TimestampAuthority) -> None:
    answer = authority.answer(authority.query(SIGNATURE, certificate=False))
    with pytest.raises(TrustError, match="pinned"):
        stamped_time(answer, SIGNATURE, pinned)


def test_a_time_stamp_is_about_one_signature() -> None:
    row = {"keyid": "a", "sig": "AQI="}
    assert signature_in(json.dumps({"signatures": [row]}).encode()) == b"\x01\x02"
    assert signature_in(json.dumps({"dsseEnvelope": {"signatures": [row]}}).encode()) == b"\x01\x02"
    with pytest.raises(TrustError, match="about one signature, and the attestation has 2"):
        signature_in(json.dumps({"signatures": [row, row]}).encode())
    for data in (b"\x30\x82", b"[]", b'{"signatures": [{"sig": "?"}]}', b'{"signatures": 3}'):
        with pytest.raises(TrustError, match="not an attestation with a signature"):
            signature_in(data)


def test_only_certificates_of_a_known_fingerprint_are_pinned(authority: Authority, tmp_path: Path) -> None:
    data, known = authority.pem.read_bytes(), authority.fingerprint
    assert read_timestamp_authority(tmp_path) is None
    with pytest.raises(TrustError, match=rf"{known}, and sha256:0+ is to be pinned: it is another authority's"):
        pin_timestamp_authority(tmp_path, data, [f"sha256:{'0' * 64}"], replace=False)
    with pytest.raises(TrustError, match="'abc' is no SHA-256 fingerprint"):
        pin_timestamp_authority(tmp_path, data, ["abc"], replace=False)
    with pytest.raises(TrustError, match="none of its 1 certificates is self-signed"):
        pin_timestamp_authority(tmp_path, (authority.folder / "signer.pem").read_bytes(), [known], replace=False)
    with pytest.raises(TrustError, match="not certificates in PEM"):
        pin_timestamp_authority(tmp_path, b"hello", [known], replace=False)
    with pytest.raises(TrustError, match="holds a private key"):
        pin_timestamp_authority(tmp_path, data + (authority.folder / "root.key").read_bytes(), [known], replace=False)
    assert read_timestamp_authority(tmp_path) is None
    printed = subprocess.check_output(
        ["openssl", "x509", "-noout", "-fingerprint", "-sha256", "-in", str(authority.pem)], text=True
    ).partition("=")[2]
    pin_timestamp_authority(tmp_path, data, [printed], replace=False)
    found = read_timestamp_authority(tmp_path)
    assert found is not None
    assert [fingerprint(each) for each in found.anchors] == [known]


def test_another_authority_is_pinned_only_when_told_so(authority: Authority, tmp_path: Path) -> None:
    other = make_authority(tmp_path / "other")
    pin_timestamp_authority(tmp_path, authority.pem.read_bytes(), [authority.fingerprint], replace=False)
    pin_timestamp_authority(tmp_path, authority.pem.read_bytes(), [authority.fingerprint], replace=False)
    both = authority.pem.read_bytes() + other.pem.read_bytes()
    fingerprints = [other.fingerprint, authority.fingerprint]
    with pytest.raises(TrustError, match=r"pins CN=acme root .* already"):
        pin_timestamp_authority(tmp_path, both, fingerprints, replace=False)
    pin_timestamp_authority(tmp_path, both, fingerprints, replace=True)
    found = read_timestamp_authority(tmp_path)
    assert found is not None
    for one in (authority, other):
        assert stamped_time(token(one), SIGNATURE, found)


def test_a_file_that_others_can_write_pins_nobody(authority: Authority, tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        pin_timestamp_authority(tmp_path, authority.pem.read_bytes(), [authority.fingerprint], replace=False)
    finally:
        os.umask(old)
    assert read_timestamp_authority(tmp_path) is not None
    (tmp_path / "tsa.pem").chmod(0o664)
    with pytest.raises(TrustError, match=r"tsa\.pem: it is writable by others \(mode 0664\)"):
        read_timestamp_authority(tmp_path)
