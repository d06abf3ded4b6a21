"""A governed repository to test with: people with SSH keys, roles with keys, a root that is not for development."""

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from tests.conftest import git, run_forge, write_small
from tests.made import lay_made

from forge.attest.authority import public_key
from forge.attest.trust import TRUST_FILE, TrustRoot
from forge.contract.kinds import Role

ROLES = ("data-steward", "trainer", "evaluator", "releaser", "agent")
STEPS = {
    "data-steward": ["curate"],
    "trainer": ["tokenizer", "tokenize", "train"],
    "evaluator": ["evaluate", "gate"],
    "releaser": ["release"],
    "agent": [],
}
PEOPLE = ("ana", "ben", "cleo")


@dataclass
class Governed:
    """Where everything lies."""

    config: Path
    """Trust root and private keys of the roles."""
    ssh: Path
    """Private keys of people, by name."""

    def public(self, role: str) -> str:
        """PEM of a role's public key."""
        return (self.config / "public" / f"{role}.pem").read_text()

    def person(self, name: str) -> str:
        """The public SSH key of a person."""
        return (self.ssh / f"{name}.pub").read_text().strip()

    def another(self, role: str, name: str, folder: Path) -> dict[str, str]:
        """A second functionary with a machine of their own: the configuration is ``folder``; returns the entry of their key."""
        (folder / "keys").mkdir(parents=True)
        (folder / "public").mkdir()
        write_key(folder, role, ed25519.Ed25519PrivateKey.generate())
        (folder / TRUST_FILE).write_bytes((self.config / TRUST_FILE).read_bytes())
        (folder / TRUST_FILE).chmod(0o644)
        public = (folder / "public" / f"{role}.pem").read_text()
        return {"name": name, "public": public, "valid_from": "2020-01-01T00:00:00Z"}

    def supply_chain(self, **changes: Any) -> dict[str, Any]:
        """The body of a SupplyChain in which every role has one key."""
        roles: dict[str, Any] = {}
        for role in ROLES:
            keys = [{"name": f"{role}-1", "public": self.public(role), "valid_from": "2020-01-01T00:00:00Z"}]
            if role == "trainer":
                keys.append({"name": "weights-1", "public": self.public("weights"), "valid_from": "2020-01-01T00:00:00Z"})
            roles[role] = {"steps": [*STEPS[role]], "keys": keys}
        return {
            "roles": roles,
            "approvers": ["ana", "ben"],
            "separation_of_duties": [["author", "approver"]],
            "release": {"approvals": {"local": 1}},
            "expires": "2099-01-01T00:00:00Z",
            **changes,
        }

    def people(self) -> dict[str, Any]:
        """The body of People."""
        keys = [(name, [{"public": self.person(name), "valid_from": "2020-01-01T00:00:00Z"}]) for name in PEOPLE]
        return {"people": [{"name": name, "keys": found} for name, found in keys]}


def make_governed(folder: Path) -> Governed:
    """Make a root that lists nothing but its own key, a key for each role, and people."""
    config, ssh = folder / "config", folder / "ssh"
    (config / "keys").mkdir(parents=True)
    (config / "public").mkdir()
    ssh.mkdir()
    for role in (*ROLES, "root"):
        write_key(config, role, ed25519.Ed25519PrivateKey.generate())
    write_key(config, "weights", ec.generate_private_key(ec.SECP256R1()))
    root = TrustRoot(
        development=False, roles={Role.ROOT: (public_key((config / "public" / "root.pem").read_text()),)}, weights=()
    )
    (config / TRUST_FILE).write_text(root.model_dump_json())
    (config / TRUST_FILE).chmod(0o644)
    for name in PEOPLE:
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(ssh / name)], check=True, capture_output=True
        )
    return Governed(config, ssh)


def write_key(config: Path, name: str, key: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> None:
    """Write both halves of a key."""
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path = config / "keys" / f"{name}.pem"
    path.touch(mode=0o600)
    path.write_bytes(private)
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (config / "public" / f"{name}.pem").write_bytes(public)


def govern(folder: Path, supply_chain: Mapping[str, Any], people: Mapping[str, Any]) -> None:
    """Write both specs into a repository's work tree."""
    for kind, name, spec in (("SupplyChain", "supply-chain", supply_chain), ("People", "people", people)):
        document = {"apiVersion": "forge/v1", "kind": kind, "metadata": {"name": "small"}, "spec": spec}
        (folder / "policies" / f"{name}.yaml").write_text(yaml.safe_dump(document, sort_keys=False))


def commit_as(folder: Path, governed: Governed, person: str | None, message: str = "change") -> str:
    """Commit everything, signed with a person's SSH key, or by nobody."""
    git(folder, "add", "--all")
    signing = ["-c", "gpg.format=ssh", "-c", f"user.signingKey={governed.ssh / person}"] if person else []
    git(folder, *signing, "commit", "--quiet", "--allow-empty", "-m", message, *(["-S"] if person else ["--no-gpg-sign"]))
    return git(folder, "rev-parse", "HEAD")


def write_approved(folder: Path, governed: Governed, applied: Path) -> None:
    """The small example under a supply chain: applied as far as its release, which waits, and which ana approved."""
    write_small(folder)
    lay_made(applied, folder)
    govern(folder, governed.supply_chain(), governed.people())
    commit_as(folder, governed, "cleo", "the small example, governed")
    run_forge(folder, governed.config, "keys", "delegate")
    run_forge(folder, governed.config, "apply", code=1)
    run_forge(folder, governed.config, "approve", "release/local", "--key", str(governed.ssh / "ana"))


def apply_approved(folder: Path, governed: Governed, *people: str, code: int = 0, target: str | None = None) -> str:
    """Plan to a file, have it approved, apply it; returns what apply said on stderr."""
    file = folder.parent / f"{folder.name}.plan"
    run_forge(folder, governed.config, "plan", "--out", str(file), *(["--target", target] if target else []))
    for person in people:
        run_forge(folder, governed.config, "approve", str(file), "--key", str(governed.ssh / person))
    return run_forge(folder, governed.config, "apply", str(file), code=code).stderr
