"""Where a role's private key is, as signers.toml says, and what is refused before anything is signed."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from forge.attest.keys import make_key, make_root, signer_for, weights_signer_for
from forge.attest.pem import load_private_key, write_private_key
from forge.attest.signers import prove, read_entries
from forge.attest.trust import pin_trust_root, read_trust_root
from forge.contract.kinds import Role
from forge.errors import TrustError

PASSPHRASE = "correct horse battery staple"
PUBLIC = {
    name: key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for name, key in {
        "ed25519": ed25519.Ed25519PrivateKey.generate(),
        "p256": ec.generate_private_key(ec.SECP256R1()),
        "rsa": rsa.generate_private_key(65537, 2048),
    }.items()
}


def entries(folder: Path, text: str) -> None:
    (folder / "signers.toml").write_text(text)
    (folder / "signers.toml").chmod(0o600)


def refusal(folder: Path, role: Role = Role.TRAINER) -> str:
    with pytest.raises(TrustError) as caught:
        signer_for(role, folder)
    message = str(caught.value)
    assert PASSPHRASE not in message
    return message


@pytest.fixture
def encrypted(tmp_path: Path) -> Path:
    """A configuration folder whose trainer has an encrypted key."""
    make_key(Role.TRAINER, "trainer", tmp_path, PASSPHRASE)
    return tmp_path


def test_a_role_without_an_entry_signs_with_its_file(tmp_path: Path) -> None:
    make_key(Role.TRAINER, "trainer", tmp_path, None)
    prove(signer_for(Role.TRAINER, tmp_path))


def test_an_encrypted_key_is_opened_by_what_the_entry_names(encrypted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert b"ENCRYPTED" in (encrypted / "keys" / "trainer.pem").read_bytes()
    monkeypatch.setenv("FORGE_PASS", PASSPHRASE)
    entries(encrypted, '[trainer]\nsecret = "env:FORGE_PASS"\n')
    by_environment = signer_for(Role.TRAINER, encrypted)
    prove(by_environment)
    secret = encrypted / "passphrase"
    secret.touch(mode=0o600)
    secret.write_text(f"{PASSPHRASE}\n")
    entries(encrypted, '[trainer]\nuri = "file2:keys/trainer.pem"\nsecret = "file:passphrase"\n')
    assert signer_for(Role.TRAINER, encrypted).public_key.keyid == by_environment.public_key.keyid


def test_an_encrypted_key_without_an_entry_says_what_to_write(encrypted: Path) -> None:
    assert "[trainer]" in refusal(encrypted)
    assert 'secret = "env:NAME"' in refusal(encrypted)


@pytest.mark.parametrize("given_as", ["env", "file"])
def test_a_wrong_passphrase_is_named_by_its_place_and_never_by_its_text(
    encrypted: Path, monkeypatch: pytest.MonkeyPatch, given_as: str
) -> None:
    wrong = "a wrong passphrase"
    monkeypatch.setenv("FORGE_PASS", wrong)
    (encrypted / "secret").touch(mode=0o600)
    (encrypted / "secret").write_text(wrong)
    reference = {"env": "env:FORGE_PASS", "file": "file:secret"}[given_as]
    entries(encrypted, f'[trainer]\nsecret = "{reference}"\n')
    message = refusal(encrypted)
    assert reference in message
    assert "does not open it" in message
    assert wrong not in message


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[trianer]\nuri = "file2:x"\n', "unknown table `trianer`; did you mean `trainer`?"),
        ('uri = "file2:x"\n', "unknown key outside a table `uri`"),
        ('[trainer]\nurl = "file2:x"\n', "unknown key `url`; did you mean `uri`?"),
        ('[trainer]\nuri = "file:/x.pem"\n', "unknown scheme 'file'; did you mean `file2`?"),
        ('[trainer]\nuri = "/x.pem"\n', "unknown scheme '/x.pem'"),
        ('[trainer]\nuri = "file2:/absent.pem"\n', "there is no key file /absent.pem"),
        ("[trainer]\nuri = 3\n", "`uri`"),
        ('[trainer]\nsecret = "env:FORGE_ABSENT"\n', "set the environment variable FORGE_ABSENT"),
        ('[trainer]\nsecret = "env:FORGE_EMPTY"\n', "the secret is empty"),
        ('[trainer]\nsecret = "file:absent"\n', "there is no file"),
        (f'[trainer]\nsecret = "{PASSPHRASE}"\n', "a secret itself never stands here"),
        ('[trainer]\nuri = "hsm:2"\nsecret = "env:X"\n', "missing key `public`"),
        ('[trainer]\nuri = "hsm:2"\npublic = "p256.pub"\n', "missing key `secret`"),
        ('[trainer]\nuri = "hsm:2"\npublic = "ed25519.pub"\nsecret = "env:X"\n', "a token signs with a P-256 key"),
        ('[trainer]\nuri = "awskms:x"\npublic = "p256.pub"\nsecret = "env:X"\n', "`secret` has no meaning for awskms"),
        ('[trainer]\nuri = "awskms:x"\npublic = "absent.pub"\n', "the public key cannot be read"),
        ('[trainer]\nuri = "awskms:x"\npublic = "keys/trainer.pem"\n', "found a private one"),
        ('[trainer]\nuri = "awskms:x"\npublic = "rsa.pub"\n', "expected an Ed25519 or a P-256 key"),
        ('[trainer]\npublic = "ed25519.pub"\n', "is not the one of the private key"),
        ('[trainer]\nsecret = "env:FORGE_PASS"\n', "the key is not encrypted"),
        ('[trainer\nuri = "x"\n', "not valid TOML"),
    ],
)
def test_an_entry_that_cannot_be_carried_out_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, told: str
) -> None:
    monkeypatch.setenv("FORGE_PASS", PASSPHRASE)
    monkeypatch.setenv("FORGE_EMPTY", "")
    make_key(Role.TRAINER, "trainer", tmp_path, None)
    for name, public in PUBLIC.items():
        (tmp_path / f"{name}.pub").write_bytes(public)
    entries(tmp_path, text)
    assert told in refusal(tmp_path)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o602])
def test_a_private_key_that_others_can_read_or_change_is_not_used(tmp_path: Path, mode: int) -> None:
    make_key(Role.TRAINER, "trainer", tmp_path, None)
    (tmp_path / "keys" / "trainer.pem").chmod(mode)
    assert f"mode {mode:04o}" in refusal(tmp_path)


def test_a_passphrase_that_others_can_read_is_not_used(encrypted: Path) -> None:
    (encrypted / "passphrase").write_text(PASSPHRASE)
    (encrypted / "passphrase").chmod(0o644)
    entries(encrypted, '[trainer]\nsecret = "file:passphrase"\n')
    assert "readable or writable by others" in refusal(encrypted)


def test_settings_that_others_can_write_are_not_read(tmp_path: Path) -> None:
    entries(tmp_path, "")
    (tmp_path / "signers.toml").chmod(0o644)
    assert read_entries(tmp_path) == {}
    (tmp_path / "signers.toml").chmod(0o664)
    with pytest.raises(TrustError, match="writable by others"):
        read_entries(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_the_key_of_another_user_is_used_by_that_user_and_root_only(tmp_path: Path) -> None:
    make_key(Role.TRAINER, "trainer", tmp_path, None)
    key = tmp_path / "keys" / "trainer.pem"
    os.chown(key, 12345, -1)
    prove(signer_for(Role.TRAINER, tmp_path))
    for parent in (key.parent, tmp_path, *tmp_path.parents[:3]):
        parent.chmod(0o755)
    key.chmod(0o644)
    os.seteuid(54321)
    try:
        assert "belongs to another user" in refusal(tmp_path)
    finally:
        os.seteuid(0)
    os.chown(key, 0, 54321)
    key.chmod(0o640)  # as services get their files: root's, readable by their group
    os.setegid(54321)
    os.seteuid(54321)
    try:
        prove(signer_for(Role.TRAINER, tmp_path))
    finally:
        os.seteuid(0)
        os.setegid(0)


def test_what_is_no_file_is_no_key(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    os.mkfifo(tmp_path / "keys" / "trainer.pem", 0o600)
    assert "expected a file" in refusal(tmp_path)
    (tmp_path / "keys" / "trainer.pem").unlink()
    (tmp_path / "keys" / "trainer.pem").touch(mode=0o600)
    assert "not a private key in PEM" in refusal(tmp_path)
    (tmp_path / "keys" / "trainer.pem").write_bytes(b"x" * 100_000)
    assert "larger than" in refusal(tmp_path)


def test_weights_are_signed_with_p256_only(tmp_path: Path) -> None:
    make_key("weights", "weights", tmp_path, None)
    assert weights_signer_for(tmp_path).public_key.scheme == "ecdsa-sha2-nistp256"
    make_key(Role.TRAINER, "trainer", tmp_path, None)
    entries(tmp_path, '[weights]\nuri = "file2:keys/trainer.pem"\n')
    with pytest.raises(TrustError, match="weights are signed with a P-256 key"):
        weights_signer_for(tmp_path)


def test_a_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    private = ec.generate_private_key(ec.SECP384R1())
    (tmp_path / "keys").mkdir()
    path = tmp_path / "keys" / "trainer.pem"
    path.touch(mode=0o600)
    path.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    assert "found another kind" in refusal(tmp_path)


def test_a_key_is_never_replaced_and_leaves_nothing_behind(tmp_path: Path) -> None:
    make_key(Role.TRAINER, "trainer", tmp_path, None)
    before = (tmp_path / "keys" / "trainer.pem").read_bytes()
    with pytest.raises(TrustError, match="never replaced"):
        make_key(Role.TRAINER, "trainer", tmp_path, None)
    with pytest.raises(TrustError, match="shorter than 12"):
        make_key(Role.AGENT, "agent", tmp_path, "short")
    assert [path.name for path in (tmp_path / "keys").iterdir()] == ["trainer.pem"]
    assert (tmp_path / "keys" / "trainer.pem").read_bytes() == before


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl program")
@pytest.mark.parametrize("derivation", [["-scrypt"], ["-iter", "100000"]])
def test_a_key_that_openssl_encrypted_is_opened_and_ours_opens_there(tmp_path: Path, derivation: list[str]) -> None:
    ours = tmp_path / "ours.pem"
    write_private_key(ours, ed25519.Ed25519PrivateKey.generate(), PASSPHRASE)
    theirs = tmp_path / "theirs.pem"
    theirs.touch(mode=0o600)
    command = ["openssl", "pkcs8", "-topk8", *derivation, "-in", ours, "-passin", "env:P", "-out", theirs, "-passout", "env:P"]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "P": PASSPHRASE})
    theirs.chmod(0o600)
    public = [load_private_key(path, PASSPHRASE, "").public_key() for path in (ours, theirs)]
    assert public[0] == public[1]


PEM = (
    ed25519.Ed25519PrivateKey.generate()
    .private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    .replace(b"-----END", b"\n-----END")
)


@given(data=st.one_of(st.binary(max_size=200), st.binary(max_size=30).map(lambda noise: PEM[:60] + noise + PEM[60:])))
def test_no_bytes_make_reading_a_key_fail_in_another_way(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "noise.pem"
    path.touch(mode=0o600)
    path.write_bytes(data)
    for passphrase in (None, PASSPHRASE):
        try:
            load_private_key(path, passphrase, "hint")
        except TrustError as error:
            assert PASSPHRASE not in str(error)  # noqa: PT017 (a key that is read is right as well)


def test_a_root_is_made_once_and_trusts_only_itself(tmp_path: Path) -> None:
    root = make_root(tmp_path, None)
    assert read_trust_root(tmp_path) == root
    assert set(root.roles) == {Role.ROOT}
    assert not root.development
    assert signer_for(Role.ROOT, tmp_path).public_key.keyid == root.roles[Role.ROOT][0].keyid
    with pytest.raises(TrustError, match="a root is never replaced"):
        make_root(tmp_path, None)


def test_a_root_that_is_made_after_its_file_was_lost_does_not_replace_the_key(tmp_path: Path) -> None:
    make_root(tmp_path, None)
    (tmp_path / "trust-root.json").unlink()
    with pytest.raises(TrustError, match="never replaced"):
        make_root(tmp_path, None)


def test_a_root_is_pinned_by_its_digest_and_not_replaced_by_accident(tmp_path: Path) -> None:
    first, second = make_root(tmp_path / "first", None), make_root(tmp_path / "second", None)
    data = (tmp_path / "first" / "trust-root.json").read_bytes()
    own = tmp_path / "own"
    with pytest.raises(TrustError, match="is to be pinned: it is another root, or was changed"):
        pin_trust_root(own, data, second.digest, replace=False)
    assert not (own / "trust-root.json").exists()
    pin_trust_root(own, data, first.digest, replace=False)
    pin_trust_root(own, data, first.digest, replace=False)
    other = (tmp_path / "second" / "trust-root.json").read_bytes()
    with pytest.raises(TrustError, match="already"):
        pin_trust_root(own, other, second.digest, replace=False)
    assert read_trust_root(own) == first
    pin_trust_root(own, other, second.digest, replace=True)
    assert read_trust_root(own) == second
    with pytest.raises(TrustError, match="not a trust root"):
        pin_trust_root(own, b"{}", second.digest, replace=True)
