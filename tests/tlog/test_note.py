"""Signed notes and checkpoints: what others have published is read, what is not exactly in the format is not."""

import base64
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tlog.conftest import ORIGIN, private_key

from forge.errors import TrustError
from forge.tlog.checkpoint import Checkpoint, parse_checkpoint, read_checkpoint, sign_checkpoint
from forge.tlog.merkle import EMPTY_ROOT, leaf_hash
from forge.tlog.note import (
    SignatureType,
    VerifierKey,
    cosign_note,
    parse_verifier_key,
    read_note,
    sign_note,
    split_note,
    verifier_key,
)

PETER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
ENOCH = "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop"
PETERS_SEED = base64.b64decode("AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz")[1:]
TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
PETER_SIGNED = (
    "\u2014 PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
ENOCH_SIGNED = "\u2014 EnochRoot rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2tiOHp+vAF1aGrQ5ovTG01oOTGwnWLox33WWd1RvMc+QQ=\n"
"""Keys, text and signatures of the tests of Go's golang.org/x/mod/sumdb/note; Ed25519 is deterministic."""

SPACED = "Enoch\u00a0Root"

SUMDB = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"
SUMDB_CHECKPOINT = """\
go.sum database tree
6476701
mb8QLQIs0Z0yP5Cstq6guj87oXWeC9gEM8oVikmm9Wk=

\u2014 sum.golang.org Az3grsLX85Gz+s1SiTbgkuqxgItqFq7gsMUEyVnrsa9LM7Us9S+1xbFIGu95949rj4nPRYfvimWEPWL+o3GeoWwOoAw=
"""
"""A checkpoint that Go's checksum database has signed."""

WITNESSED = """\
arche2025h1.staging.ct.transparency.dev
1432088532
U7WM79jrzyhGZ5/GUBTpM7NzwdyfFx61t3RovgcC4Ro=

\u2014 arche2025h1.staging.ct.transparency.dev ui8GwCF1+kWqZrxGdhj4aX3gcw7XUlXQQabg/27lefwhUkzbC3NygNI75MdhL1bfTW9g8Ei59RA23oHP7Ry1k3ZFWwQ=
\u2014 transparency.dev/DEV:witness-little-garden 2AQqhwAAAABqEiEgzgFIqqhbUoDwjMWE6UP8nd8/KYTzwZ2rhIgcqoXHAwVkjZr4AscylP3v7sEodkRAErumC2q44vdgJY096st5BQ==
\u2014 witness1.smartit.nu/witness1 pIyCDwAAAABqEiEghIp82KWebrw7/oHQwlTAm3g2RKS4+eebl8eO0WH+/iEcxZ75W3u5hNI7TOQtmJbqmNWVuE0tgh0XwzdZsDsUAQ==
\u2014 remora.n621.de 2net5wAAAABqEiEgPlfF3V06o0Y+fHM+J5J9s27wgxxcOVSpZ/2g/KSiXCg9DEZI+aVCIobWX9sXTynk5XeU/zZ0WBxtqB0DrAWfBw==
"""  # noqa: E501 (lines of the format)
"""A checkpoint of a public log with the cosignatures of three public witnesses, made by software of others."""
LOG_KEY = "arche2025h1.staging.ct.transparency.dev+ba2f06c0+AU0vHmlGCS/PdN8b2OaGmKprLI8HKM+dJ472xgFYh15f"
WITNESSES = (
    "transparency.dev/DEV:witness-little-garden+d8042a87+BCtusOxINQNUTN5Oj8HObRkh2yHf/MwYaGX4CPdiVEPM",
    "witness1.smartit.nu/witness1+a48c820f+BPSFWg9G6KPiO7QPryYO5Xq4oYJJ+kAvLKLSimDhoxMO",
    "remora.n621.de+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2",
)

CHECKPOINT = Checkpoint(ORIGIN, 3, leaf_hash(b"x"))


def keys(*texts: str) -> list[VerifierKey]:
    return [parse_verifier_key(text) for text in texts]


@pytest.mark.parametrize("text", [PETER, ENOCH, SUMDB, LOG_KEY, *WITNESSES])
def test_keys_that_others_published_are_read_and_written_alike(text: str) -> None:
    assert str(parse_verifier_key(text)) == text


def test_the_notes_of_gos_implementation_verify_and_are_signed_to_the_same_bytes() -> None:
    note = f"{TEXT}\n{PETER_SIGNED}{ENOCH_SIGNED}".encode()
    assert {found.key.name for found in read_note(note, keys(PETER, ENOCH)).signatures} == {"PeterNeumann", "EnochRoot"}
    assert read_note(note, keys(ENOCH)).text == TEXT
    private = Ed25519PrivateKey.from_private_bytes(PETERS_SEED)
    assert str(verifier_key("PeterNeumann", private)) == PETER
    assert sign_note(TEXT, "PeterNeumann", private) == f"{TEXT}\n{PETER_SIGNED}"


def test_a_checkpoint_of_gos_checksum_database_verifies_but_is_not_of_a_log_of_that_name() -> None:
    note = read_note(SUMDB_CHECKPOINT.encode(), keys(SUMDB))
    assert parse_checkpoint(note.text).size == 6476701
    with pytest.raises(TrustError, match=r"is of the log 'go\.sum database tree', expected 'sum\.golang\.org'"):
        read_checkpoint(SUMDB_CHECKPOINT.encode(), *keys(SUMDB))


def test_cosignatures_of_public_witnesses_verify() -> None:
    signed = read_checkpoint(WITNESSED.encode(), *keys(LOG_KEY), keys(*WITNESSES))
    assert (signed.checkpoint.size, [found.time for found in signed.cosignatures]) == (1432088532, [1779573024] * 3)
    altered = WITNESSED.replace("1432088532", "1432088531").encode()
    for key in keys(LOG_KEY, *WITNESSES):
        with pytest.raises(TrustError, match="does not verify"):
            read_note(altered, [key])


def test_a_cosignature_is_for_its_time() -> None:
    """The eight bytes after the key's id are signed as well."""
    line = next(line for line in WITNESSED.splitlines() if "remora" in line)
    blob = bytearray(base64.b64decode(line.split()[-1]))
    blob[11] += 1
    later = WITNESSED.replace(line.split()[-1], base64.b64encode(blob).decode())
    with pytest.raises(TrustError, match="does not verify"):
        read_checkpoint(later.encode(), *keys(LOG_KEY), keys(WITNESSES[2]))


def test_our_signatures_verify_with_openssl(tmp_path: Path) -> None:
    private = private_key(7)
    (tmp_path / "public.pem").write_bytes(private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    note = sign_checkpoint(CHECKPOINT, private).data
    text, (signature, cosignature) = split_note(note + cosign_note(CHECKPOINT.to_text(), "w.example", private, 1234).encode())
    for name, signed, blob in (
        ("log", text, signature[1][4:]),
        ("witness", f"cosignature/v1\ntime 1234\n{text}", cosignature[1][12:]),
    ):
        (tmp_path / "text").write_text(signed)
        (tmp_path / "signature").write_bytes(blob)
        command = ["openssl", "pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", "public.pem", "-in", "text"]
        done = subprocess.run([*command, "-sigfile", "signature"], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (name, done.stderr)


def test_a_log_and_a_witness_with_one_key_do_not_pass_for_each_other() -> None:
    private = private_key(1)
    note = sign_checkpoint(CHECKPOINT, private).data
    with pytest.raises(TrustError, match="not by"):
        read_note(note, [verifier_key(ORIGIN, private, SignatureType.COSIGNATURE)])


def test_every_part_of_a_key_counts() -> None:
    for begin in range(len(PETER)):
        for end in range(begin + 1, len(PETER) + 1):
            if (begin, end) != (0, len(PETER)):
                with pytest.raises(TrustError):
                    parse_verifier_key(PETER[begin:end])
    for place in range(len(PETER)):
        with pytest.raises(TrustError):
            parse_verifier_key(PETER[:place] + chr(ord(PETER[place]) + 1) + PETER[place + 1 :])


@pytest.mark.parametrize(
    "data",
    [
        TEXT.encode(),
        f"{TEXT}\n".encode(),
        f"{TEXT}\n{PETER_SIGNED}"[:-1].encode(),
        f"\x01{TEXT}\n{PETER_SIGNED}".encode(),
        b"\xff" + f"{TEXT}\n{PETER_SIGNED}".encode(),
        f"{TEXT}\n{PETER_SIGNED.replace('PeterNeumann', 'Peter Neumann')}".encode(),
        f"{TEXT}\n{PETER_SIGNED.replace('PeterNeumann', 'Peter+Neumann')}".encode(),
        f"{TEXT}\n{PETER_SIGNED}{ENOCH_SIGNED.replace('EnochRoot', 'Enoch+Root')}".encode(),
        f"{TEXT}\n{PETER_SIGNED}{ENOCH_SIGNED.replace('EnochRoot', SPACED)}".encode(),
        f"{TEXT}\n{PETER_SIGNED}{ENOCH_SIGNED.replace('EnochRoot', '')}".encode(),
        f"{TEXT}\n{PETER_SIGNED}Unexpected line.\n".encode(),
        f"{TEXT}\n{PETER_SIGNED.replace('=', '')}".encode(),
        f"{TEXT}\n{PETER_SIGNED * 101}".encode(),
        f"\n\n{PETER_SIGNED}".encode(),
        b"x" * (1 << 20) + f"\n\n{PETER_SIGNED}".encode(),
    ],
)
def test_what_is_not_exactly_a_note_is_refused(data: bytes) -> None:
    with pytest.raises(TrustError):
        read_note(data, keys(PETER))


def test_unknown_signatures_are_passed_over_and_a_false_one_of_a_known_key_is_fatal() -> None:
    stranger = PETER_SIGNED.replace("PeterNeumann", "Carmen")
    assert read_note(f"{TEXT}\n{stranger}{PETER_SIGNED}".encode(), keys(PETER)).text == TEXT
    false = PETER_SIGNED.replace("x08go/ZJ", "x08go/ZK")
    with pytest.raises(TrustError, match="PeterNeumann\\+c74f20a3 does not verify"):
        read_note(f"{TEXT}\n{false}{ENOCH_SIGNED}".encode(), keys(PETER, ENOCH))
    with pytest.raises(TrustError, match="signed by EnochRoot"):
        read_note(f"{TEXT}\n{ENOCH_SIGNED}".encode(), keys(PETER))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("x\n1\n", "three lines"),
        ("\n1\n" + base64.b64encode(EMPTY_ROOT).decode() + "\n", "three lines"),
        ("x\n01\n" + base64.b64encode(EMPTY_ROOT).decode() + "\n", "size '01'"),
        ("x\n-1\n" + base64.b64encode(EMPTY_ROOT).decode() + "\n", "size"),
        ("x\n\u0661\n" + base64.b64encode(EMPTY_ROOT).decode() + "\n", "size"),
        ("x\n9223372036854775808\n" + base64.b64encode(EMPTY_ROOT).decode() + "\n", "below 2"),
        ("x\n1\nYmFuYW5hcw==\n", "sha256"),
        ("x\n1\n" + base64.b64encode(EMPTY_ROOT).decode()[:-1] + "\n", "sha256"),
    ],
)
def test_what_is_no_checkpoint_is_refused(text: str, fault: str) -> None:
    with pytest.raises(TrustError, match=fault):
        parse_checkpoint(text)


@given(st.integers(0, 10_000), st.integers(0, 7))
@settings(max_examples=150, deadline=None)
def test_no_bit_of_a_signed_checkpoint_can_be_changed(place: int, bit: int) -> None:
    """But for the signature's name and id, whose change makes it one of an unknown key."""
    private = private_key(1)
    data = bytearray(sign_checkpoint(CHECKPOINT, private).data)
    data[place % len(data)] ^= 1 << bit
    with pytest.raises(TrustError):
        read_checkpoint(bytes(data), verifier_key(ORIGIN, private))
