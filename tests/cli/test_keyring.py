"""A team's trust, set up by commands alone: a root kept apart, keys by role, a key in a token, rotation."""

import os
import pty
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tests.conftest import commit_all, new_repository, run_forge, write_small
from tests.governed import STEPS

from forge.attest.trust import TrustRoot

PASSPHRASE = "a passphrase of the root's keeper"
PIN = "271828"
MODULE = next((path for path in Path("/usr/lib").glob("**/libsofthsm2.so")), None)
needs_softhsm = pytest.mark.skipif(
    shutil.which("softhsm2-util") is None or MODULE is None,
    reason="needs SoftHSM (apt-get install softhsm2) as a hardware token",
)
TOKEN_SETUP = """
import sys
import pkcs11
from pkcs11.util.ec import encode_ec_public_key, encode_named_curve_parameters
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
module, label, pin, number = sys.argv[1:]
token = pkcs11.lib(module).get_token(token_label=label)
with token.open(rw=True, user_pin=pin) as session:
    curve = {pkcs11.Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")}
    parameters = session.create_domain_parameters(pkcs11.KeyType.EC, curve, local=True)
    public, _ = parameters.generate_keypair(store=True, id=bytes([int(number)]), label=f"key-{number}")
    key = load_der_public_key(encode_ec_public_key(public))
print(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(), end="")
"""


class Team:
    """A repository, the configuration of the root's keeper, and that of the machine that runs Forge."""

    def __init__(self, folder: Path) -> None:
        self.repository, self.keeper, self.runner = folder / "repository", folder / "keeper", folder / "runner"
        self.keys: dict[str, str] = {}
        """What `forge keys new` printed, by role."""

    def write(self, message: str) -> None:
        """Commit the supply chain, its keys pasted as they were printed."""
        lines = ["apiVersion: forge/v1", "kind: SupplyChain", "metadata: {name: small}", "spec:"]
        lines += ["  expires: '2099-01-01T00:00:00Z'", "  roles:"]
        for role, steps in STEPS.items():
            lines += [f"    {role}:", f"      steps: [{', '.join(steps)}]", "      keys:"]
            keys = self.keys[role] + (self.keys["weights"] if role == "trainer" else "")
            lines.append(textwrap.indent(keys, " " * 8).rstrip("\n"))
        (self.repository / "policies" / "supply-chain.yaml").write_text("\n".join(lines) + "\n")
        commit_all(self.repository, message)

    def forge(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        return run_forge(self.repository, self.runner, *arguments, code=code)

    def delegate(self) -> None:
        run_forge(self.repository, self.keeper, "keys", "delegate")


def entry(config: Path, stderr: str) -> None:
    """Write what a command said that signers.toml has to say."""
    (config / "signers.toml").write_text(
        "\n".join(line for line in stderr.splitlines() if line.startswith(("[", "secret", "uri")))
    )


@pytest.fixture(scope="module")
def environment() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FORGE_TEST_ROOT", PASSPHRASE)
        yield patch


@pytest.fixture(scope="module")
def set_up(tmp_path_factory: pytest.TempPathFactory, environment: pytest.MonkeyPatch) -> Team:
    team = Team(tmp_path_factory.mktemp("team"))
    new_repository(team.repository)
    write_small(team.repository)
    made = run_forge(team.repository, team.keeper, "keys", "root", "--passphrase", "env:FORGE_TEST_ROOT")
    entry(team.keeper, made.stderr)
    digest = made.stdout.split()[-1]
    team.forge("keys", "pin", str(team.keeper / "trust-root.json"), "--digest", digest)
    for role in (*STEPS, "weights"):
        team.keys[role] = team.forge("keys", "new", role).stdout
    team.write("the small example, governed")
    assert "forge keys delegate" in team.forge("apply", code=4).stderr
    team.delegate()
    team.forge("apply")
    return team


@pytest.fixture
def team(set_up: Team, tmp_path: Path) -> Team:
    """A copy to change at will."""
    copy = Team(tmp_path)
    for name in ("repository", "keeper", "runner"):
        shutil.copytree(getattr(set_up, name), getattr(copy, name), symlinks=True)
    copy.keys = dict(set_up.keys)
    return copy


def change_policy(team: Team) -> None:
    path = team.repository / "policies" / "small.yaml"
    path.write_text(path.read_text().replace("max_tokens: 32", "max_tokens: 16"))


def test_a_team_releases_with_keys_that_commands_made(set_up: Team) -> None:
    verified = set_up.forge("verify", "release/local")
    assert "DEVELOPMENT" not in verified.stdout
    assert b"ENCRYPTED" in (set_up.keeper / "keys" / "root.pem").read_bytes()
    assert not (set_up.runner / "keys" / "root.pem").exists()
    stranger = run_forge(set_up.repository, set_up.repository.parent / "nobody", "verify", "release/local", code=4)
    assert "no trust root is pinned" in stranger.stderr


def test_a_new_key_counts_once_it_is_delegated_and_the_old_one_until_it_ends(team: Team) -> None:
    made = team.forge("keys", "new", "releaser", "--name", "releaser-2")
    old_entry = team.runner / "signers.toml"
    entry(team.runner, made.stderr)
    assert old_entry.read_text() == '[releaser]\nuri = "file2:keys/releaser-2.pem"'
    change_policy(team)
    commit_all(team.repository, "shorter answers")
    assert "does not count" in team.forge("apply", code=4).stderr
    team.keys["releaser"] += made.stdout
    team.write("the releaser's new key beside the old")
    assert "no key for the role root" in team.forge("keys", "delegate", code=4).stderr
    team.delegate()
    team.forge("apply")
    team.forge("verify", "release/local")


def test_apply_says_at_once_that_a_key_for_weights_is_not_listed(team: Team) -> None:
    (team.runner / "keys" / "weights.pem").unlink()
    team.forge("keys", "new", "weights")
    path = team.repository / "models" / "model.yaml"
    path.write_text(path.read_text().replace("seed: 5", "seed: 6"))
    commit_all(team.repository, "another model")
    assert "the key for weights here" in team.forge("apply", code=4).stderr


def test_a_successor_is_made_by_commands_and_followed_by_who_pinned_the_old_root(team: Team, tmp_path: Path) -> None:
    made = run_forge(team.repository, tmp_path / "next", "keys", "root")
    run_forge(team.repository, team.keeper, "keys", "rotate", str(tmp_path / "next"))
    verified = team.forge("verify", "release/local", code=None)
    assert made.stdout.split()[-1] in verified.stdout
    run_forge(team.repository, tmp_path / "next", "keys", "pin", str(team.keeper / "trust-root.json"), "--digest", "x", code=4)


@pytest.fixture
def token(tmp_path: Path, environment: pytest.MonkeyPatch) -> str:
    """The label of a token that holds nothing yet; its PIN is in FORGE_TEST_PIN."""
    assert MODULE is not None
    (tmp_path / "tokens").mkdir()
    (tmp_path / "softhsm2.conf").write_text(f"directories.tokendir = {tmp_path / 'tokens'}\nlog.level = ERROR\n")
    environment.setenv("SOFTHSM2_CONF", str(tmp_path / "softhsm2.conf"))
    environment.setenv("PYKCS11LIB", str(MODULE))
    environment.setenv("FORGE_TEST_PIN", PIN)
    command = ["softhsm2-util", "--init-token", "--free", "--label", "forge", "--pin", PIN, "--so-pin", "31415926"]
    subprocess.run(command, check=True, capture_output=True)
    return "forge"


def make_in_token(label: str, number: int) -> str:
    command = [sys.executable, "-c", TOKEN_SETUP, str(MODULE), label, PIN, str(number)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@needs_softhsm
def test_a_releaser_in_a_token_releases(team: Team, token: str, environment: pytest.MonkeyPatch) -> None:
    public = make_in_token(token, 2)
    (team.runner / "releaser.pub").write_text(public)
    (team.runner / "keys" / "releaser.pem").unlink()
    entry = f'[releaser]\nuri = "hsm:2?label={token}"\npublic = "releaser.pub"\nsecret = "env:FORGE_TEST_PIN"\n'
    (team.runner / "signers.toml").write_text(entry)
    key = {"name": "releaser-token", "public": public, "valid_from": "2020-01-01T00:00:00Z"}
    team.keys["releaser"] += yaml.safe_dump([key])
    change_policy(team)
    team.write("the releaser's key is in a token, and answers are shorter")
    team.delegate()

    environment.setenv("FORGE_TEST_PIN", "000000")
    refused = team.forge("apply", code=4)
    assert "the PIN is wrong" in refused.stderr
    assert "000000" not in refused.stderr
    environment.delenv("FORGE_TEST_PIN")
    assert "set the environment variable FORGE_TEST_PIN" in team.forge("apply", code=4).stderr
    environment.setenv("FORGE_TEST_PIN", PIN)
    environment.setenv("PYKCS11LIB", "/absent.so")
    assert "did not sign" in team.forge("apply", code=4).stderr
    environment.setenv("PYKCS11LIB", str(MODULE))

    team.forge("apply")
    assert "holds" in team.forge("verify", "release/local").stdout
    assert PIN not in "".join(path.read_text(errors="replace") for path in (team.repository / ".forge").rglob("*.json"))


@needs_softhsm
def test_a_root_in_a_token_delegates(team: Team, token: str, tmp_path: Path) -> None:
    config = tmp_path / "next"
    config.mkdir()
    (config / "root.pub").write_text(make_in_token(token, 2))
    made = run_forge(team.repository, config, "keys", "root", "--public", str(config / "root.pub"))
    (config / "signers.toml").write_text(
        f'[root]\nuri = "hsm:2?label={token}"\npublic = "root.pub"\nsecret = "env:FORGE_TEST_PIN"\n'
    )
    assert not list((config / "keys").iterdir())
    run_forge(team.repository, team.keeper, "keys", "rotate", str(config))
    team.keys["releaser"] += team.forge("keys", "new", "releaser", "--name", "releaser-2").stdout
    team.write("signed by the new root")
    refused = run_forge(team.repository, team.keeper, "keys", "delegate", code=4)
    assert made.stdout.split()[-1] in refused.stderr
    first = (team.runner / "trust-root.json").read_bytes()
    (config / "first.json").write_bytes(first)
    digest = str(TrustRoot.model_validate_json(first).digest)
    run_forge(team.repository, config, "keys", "pin", str(config / "first.json"), "--digest", digest, "--replace")
    run_forge(team.repository, config, "keys", "delegate")
    change_policy(team)
    commit_all(team.repository, "shorter answers")
    team.forge("apply")
    team.forge("verify", "release/local")


def in_a_process(code: str, folder: Path) -> None:
    """A PKCS#11 library is one for a whole process, so what uses it gets a process of its own."""
    code = f"from pathlib import Path\nfolder = Path({str(folder)!r})\n{textwrap.dedent(code)}"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "FORGE_WRONG": "999999"})


@needs_softhsm
def test_weights_are_signed_in_a_token_and_never_with_another_key_of_it(tmp_path: Path, token: str) -> None:
    for number in (2, 3):
        (tmp_path / f"{number}.pub").write_text(make_in_token(token, number))
    code = """
    from forge.attest.keys import weights_signer_for
    from forge.attest.weights import sign_weights, verify_weights
    from forge.canonical import digest_of_bytes
    from forge.contract.manifest import manifest_of
    from forge.errors import TrustError
    manifest = manifest_of({"model.safetensors": (1, str(digest_of_bytes(b"x")))})
    for public, fits in (("2", True), ("3", False)):
        text = f'[weights]\\nuri = "hsm:2?label=forge"\\npublic = "{public}.pub"\\nsecret = "env:FORGE_TEST_PIN"\\n'
        (folder / "signers.toml").write_text(text)
        try:
            signature = sign_weights(manifest, weights_signer_for(folder))
            verify_weights(manifest, signature, [(folder / "2.pub").read_text()])
            assert fits
        except TrustError as error:
            assert not fits and "not with the key whose public half" in str(error), error
    """
    in_a_process(code, tmp_path)


@needs_softhsm
def test_a_wrong_pin_is_tried_once_only(tmp_path: Path, token: str) -> None:
    (tmp_path / "k.pub").write_text(make_in_token(token, 2))
    (tmp_path / "signers.toml").write_text('[agent]\nuri = "hsm:2?label=forge"\npublic = "k.pub"\nsecret = "env:FORGE_WRONG"\n')
    code = """
    from forge.attest.keys import signer_for
    from forge.contract.kinds import Role
    from forge.errors import TrustError
    from securesystemslib.signer import HSMSigner
    tried = []
    opened = HSMSigner._find_token
    HSMSigner._find_token = staticmethod(lambda label: (tried.append(label), opened(label))[1])
    for _ in range(3):
        try:
            signer_for(Role.AGENT, folder).sign(b"x")
        except TrustError as error:
            assert "the PIN is wrong" in str(error), error
        else:
            raise SystemExit("signed")
    assert len(tried) == 1, tried
    """
    in_a_process(code, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["new", "trianer"], "did you mean `trainer`?"),
        (["new", "root"], "forge keys root"),
        (["new", "trainer", "--name", "log"], "is another key's name"),
        (["new", "trainer", "--name", "agent"], "is another key's name"),
        (["new", "trainer", "--name", "../x"], "expected lower-case letters"),
        (["new", "trainer", "--encrypt"], "there is no terminal"),
        (["new", "trainer", "--passphrase", "hunter2hunter2"], "never the passphrase itself"),
        (["root", "--public", "x.pem", "--encrypt"], "there is nothing to encrypt"),
    ],
)
def test_what_makes_no_sense_makes_no_key(tmp_path: Path, arguments: list[str], told: str) -> None:
    done = run_forge(tmp_path, tmp_path / "config", "keys", *arguments, code=2)
    assert told in done.stderr
    assert "hunter2" not in done.stderr
    assert not (tmp_path / "config").exists()


@pytest.mark.parametrize(("again", "code"), [(PASSPHRASE, 0), ("another one, mistyped", 2)])
def test_a_passphrase_is_asked_for_twice_and_not_shown(tmp_path: Path, again: str, code: int) -> None:
    child, terminal = pty.fork()
    if child == 0:
        os.environ["FORGE_CONFIG_HOME"] = str(tmp_path / "config")
        os.execv(Path(sys.executable).with_name("forge"), ["forge", "keys", "new", "trainer", "--encrypt"])
    shown = b""
    for prompt, typed in ((b"Passphrase: ", PASSPHRASE), (b"Again: ", again)):
        while not shown.endswith(prompt):
            shown += os.read(terminal, 1000)
        os.write(terminal, f"{typed}\n".encode())
    try:
        while data := os.read(terminal, 1000):
            shown += data
    except OSError:  # so a terminal says that nobody is there any more
        pass
    _, status = os.waitpid(child, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == code, shown.decode()
    assert PASSPHRASE.encode() not in shown
    assert (b'secret = "ask"' in shown) == (code == 0)
    assert (tmp_path / "config" / "keys" / "trainer.pem").exists() == (code == 0)


def test_keys_are_not_made_inside_a_work_tree(tmp_path: Path) -> None:
    new_repository(tmp_path)
    for arguments in (["new", "trainer"], ["root"]):
        done = run_forge(tmp_path, tmp_path / "config", "keys", *arguments, code=4)
        assert "lies in the Git work tree" in done.stderr
