"""Keys, envelopes and signatures, checked with software that is not Forge's where there is some."""

import base64
import json
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from tests.conftest import run_forge

from forge.attest.authority import Authority, Signers
from forge.attest.envelope import seal, unseal
from forge.attest.keys import add_missing_keys, make_development_keys, signer_for
from forge.attest.trust import TrustRoot, config_folder, read_trust_root
from forge.contract.kinds import Role
from forge.errors import TrustError

PAYLOAD = b'{"a":1}'


def test_keys_are_private_and_made_once(tmp_path: Path) -> None:
    root, new = make_development_keys(tmp_path / "config")
    assert new
    assert set(root.roles) == set(Role)
    for key in (tmp_path / "config" / "keys").iterdir():
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert make_development_keys(tmp_path / "config") == (root, False)
    assert read_trust_root(tmp_path / "config") == root
    assert "DEVELOPMENT" in root.describe()


def test_the_configuration_folder_follows_the_environment() -> None:
    assert config_folder({"FORGE_CONFIG_HOME": "/a"}) == Path("/a")
    assert config_folder({"XDG_CONFIG_HOME": "/b"}) == Path("/b/forge")
    assert config_folder({}) == Path.home() / ".config" / "forge"


def test_keys_are_never_made_inside_a_work_tree_nor_over_others(tmp_path: Path) -> None:
    (tmp_path / "tree" / ".git").mkdir(parents=True)
    with pytest.raises(TrustError, match="lies in the Git work tree"):
        make_development_keys(tmp_path / "tree" / "config")
    make_development_keys(tmp_path / "config")
    (tmp_path / "config" / "trust-root.json").unlink()
    with pytest.raises(TrustError, match=r"holds keys, but no trust-root\.json"):
        make_development_keys(tmp_path / "config")
    assert config_folder({"FORGE_CONFIG_HOME": "", "XDG_CONFIG_HOME": "/b"}) == Path("/b/forge")


def test_without_a_root_nothing_is_trusted(tmp_path: Path) -> None:
    with pytest.raises(TrustError, match="no trust root is pinned"):
        read_trust_root(tmp_path)
    (tmp_path / "trust-root.json").write_text('{"schema_version": 2}')
    with pytest.raises(TrustError, match="not a trust root"):
        read_trust_root(tmp_path)


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666, 0o777])
def test_a_trust_root_that_others_can_write_is_not_believed(tmp_path: Path, mode: int) -> None:
    make_development_keys(tmp_path)
    path = tmp_path / "trust-root.json"
    path.chmod(mode)
    for read in (read_trust_root, make_development_keys, add_missing_keys):
        with pytest.raises(TrustError, match=rf"trust-root\.json: it is writable by others \(mode {mode:04o}\).*chmod 0644"):
            read(tmp_path)
    path.chmod(0o644)
    assert read_trust_root(tmp_path).development


def signers(config: Path, role: Role) -> Signers:
    return Authority(read_trust_root(config)).signers(role, "2026-01-01T00:00:00+00:00")


def test_an_envelope_opens_for_its_role_only(config_home: Path) -> None:
    sealed = seal(PAYLOAD, signer_for(Role.TRAINER, config_home))
    assert unseal(sealed, signers(config_home, Role.TRAINER), "x") == PAYLOAD
    with pytest.raises(TrustError, match="x: no valid signature of the role evaluator"):
        unseal(sealed, signers(config_home, Role.EVALUATOR), "x")


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d | {"payload": base64.b64encode(b'{"a":2}').decode()},
        lambda d: d | {"payloadType": "text/plain"},
        lambda d: d | {"signatures": []},
        lambda d: d | {"signatures": [{**d["signatures"][0], "sig": base64.b64encode(b"0" * 64).decode()}]},
        lambda d: {"nothing": "here"},
        lambda d: d | {"payload": "%%%"},
    ],
)
def test_a_changed_envelope_does_not_open(config_home: Path, change: object) -> None:
    sealed = json.loads(seal(PAYLOAD, signer_for(Role.TRAINER, config_home)))
    data = json.dumps(change(sealed), sort_keys=True, separators=(",", ":")).encode()  # type: ignore[operator]
    with pytest.raises(TrustError):
        unseal(data, signers(config_home, Role.TRAINER), "x")


def test_no_flipped_bit_of_an_envelope_goes_unnoticed(config_home: Path) -> None:
    sealed = seal(PAYLOAD, signer_for(Role.TRAINER, config_home))
    for position in range(len(sealed)):
        damaged = sealed[:position] + bytes([sealed[position] ^ 1]) + sealed[position + 1 :]
        try:
            opened = unseal(damaged, signers(config_home, Role.TRAINER), "x")
        except (TrustError, UnicodeDecodeError):
            continue
        assert opened == PAYLOAD, position  # the key id is a hint: it may change, the payload may not


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl program")
def test_openssl_accepts_the_signature(config_home: Path, tmp_path: Path) -> None:
    """The bytes that are signed are DSSE's pre-authentication encoding; openssl knows nothing of Forge."""
    sealed = json.loads(seal(PAYLOAD, signer_for(Role.TRAINER, config_home)))
    kind = sealed["payloadType"].encode()
    (tmp_path / "pae").write_bytes(b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(PAYLOAD), PAYLOAD))
    (tmp_path / "sig").write_bytes(base64.b64decode(sealed["signatures"][0]["sig"]))
    key = config_home / "keys" / "trainer.pem"
    subprocess.run(["openssl", "pkey", "-in", key, "-pubout", "-out", tmp_path / "pub"], check=True)
    command = ["openssl", "pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", tmp_path / "pub"]
    command += ["-sigfile", tmp_path / "sig", "-in", tmp_path / "pae"]
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0
    (tmp_path / "pae").write_bytes(b"other")
    assert subprocess.run(command, check=False, capture_output=True).returncode != 0


def older_root(folder: Path, *, development: bool) -> TrustRoot:
    """Keys as an engine that knew no agent made them."""
    root, _ = make_development_keys(folder)
    roles = {role: keys for role, keys in root.roles.items() if role is not Role.AGENT}
    older = TrustRoot(development=development, roles=roles, weights=root.weights)
    (folder / "trust-root.json").write_text(older.model_dump_json())
    (folder / "keys" / "agent.pem").unlink()
    return older


def test_a_development_root_that_lacks_a_role_gets_its_key_and_keeps_the_others(tmp_path: Path) -> None:
    older = older_root(tmp_path / "config", development=True)
    trainer = (tmp_path / "config" / "keys" / "trainer.pem").read_bytes()
    root, added = add_missing_keys(tmp_path / "config")
    assert added == (Role.AGENT,)
    assert root.digest != older.digest
    assert {role: root.roles[role] for role in older.roles} == older.roles
    assert read_trust_root(tmp_path / "config") == root
    assert (tmp_path / "config" / "keys" / "trainer.pem").read_bytes() == trainer
    assert stat.S_IMODE((tmp_path / "config" / "keys" / "agent.pem").stat().st_mode) == 0o600
    assert (
        unseal(seal(PAYLOAD, signer_for(Role.AGENT, tmp_path / "config")), signers(tmp_path / "config", Role.AGENT), "x")
        == PAYLOAD
    )
    assert add_missing_keys(tmp_path / "config") == (root, ())


def test_a_key_that_was_made_before_the_root_was_written_is_used(tmp_path: Path) -> None:
    older_root(tmp_path, development=True)
    first, _ = add_missing_keys(tmp_path)
    key = (tmp_path / "keys" / "agent.pem").read_bytes()
    without = {role: keys for role, keys in first.roles.items() if role is not Role.AGENT}
    (tmp_path / "trust-root.json").write_text(first.model_copy(update={"roles": without}).model_dump_json())
    assert add_missing_keys(tmp_path)[0] == first
    assert (tmp_path / "keys" / "agent.pem").read_bytes() == key


def test_a_root_that_is_not_development_is_never_touched(tmp_path: Path) -> None:
    older = older_root(tmp_path, development=False)
    before = (tmp_path / "trust-root.json").read_bytes()
    assert add_missing_keys(tmp_path) == (older, ())
    assert (tmp_path / "trust-root.json").read_bytes() == before
    assert not (tmp_path / "keys" / "agent.pem").exists()
    done = run_forge(tmp_path, tmp_path, "keys", "init")
    assert "it has no key for: agent" in done.stdout
    assert (tmp_path / "trust-root.json").read_bytes() == before


def test_the_command_says_which_key_it_added_and_the_new_roots_digest(tmp_path: Path) -> None:
    older = older_root(tmp_path, development=True)
    done = run_forge(tmp_path, tmp_path, "keys", "init")
    assert "added a key for: agent" in done.stdout
    assert older.digest in done.stdout
    assert read_trust_root(tmp_path).digest in done.stdout
    assert "added" not in run_forge(tmp_path, tmp_path, "keys", "init").stdout


def test_a_payload_opens_as_the_type_it_was_sealed_as(config_home: Path) -> None:
    sealed = seal(PAYLOAD, signer_for(Role.AGENT, config_home), "application/x")
    assert unseal(sealed, signers(config_home, Role.AGENT), "x", "application/x") == PAYLOAD
    with pytest.raises(TrustError, match="payload type 'application/x'"):
        unseal(sealed, signers(config_home, Role.AGENT), "x")
