"""Private keys by role, as PEM files that only their owner can read. Steps never see this folder."""

import os
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from securesystemslib.signer import CryptoSigner

from forge.attest.trust import TRUST_FILE, PublicKey, TrustRoot, read_trust_root
from forge.contract.kinds import Role
from forge.errors import TrustError

_WEIGHTS_KEY = "weights.pem"


def make_development_keys(folder: Path) -> tuple[TrustRoot, bool]:
    """Make a key for every role and pin their trust root; an existing root is kept. Returns the root and whether it is new."""
    root_file = folder / TRUST_FILE
    if root_file.exists():
        return TrustRoot.model_validate_json(root_file.read_bytes()), False
    keys = folder / "keys"
    if keys.exists() and any(keys.iterdir()):
        raise TrustError(f"{keys} holds keys, but no {TRUST_FILE} lies beside it: restore that file, or move the keys away")
    for parent in (folder.absolute(), *folder.absolute().parents):
        if (parent / ".git").exists():
            raise TrustError(f"{folder} lies in the Git work tree {parent}: keys are kept outside (set FORGE_CONFIG_HOME)")
    keys.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    keys.chmod(0o700)
    roles = {}
    for role in Role:
        private = ed25519.Ed25519PrivateKey.generate()
        _write_private(keys / f"{role.value}.pem", private)
        roles[role] = (_public_key(CryptoSigner(private)),)
    weights = ec.generate_private_key(ec.SECP256R1())
    _write_private(keys / _WEIGHTS_KEY, weights)
    public = weights.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    root = TrustRoot(development=True, roles=roles, weights=(public,))
    _write_root(folder, root)
    return root, True


def add_missing_keys(folder: Path) -> tuple[TrustRoot, tuple[Role, ...]]:
    """Give a development root a key for every role that it lacks; a root that is not DEVELOPMENT is never touched.

    Returns the root as it is now, and the roles that were added. A root made by an older engine lacks the newer roles.
    """
    root = read_trust_root(folder)
    missing = tuple(role for role in Role if not root.roles.get(role))
    if not root.development or not missing:
        return root, ()
    (folder / "keys").mkdir(mode=0o700, exist_ok=True)
    added = {}
    for role in missing:
        path = folder / "keys" / f"{role.value}.pem"
        if not path.exists():  # it is there when we were stopped before the root was written
            _write_private(path, ed25519.Ed25519PrivateKey.generate())
        added[role] = (_public_key(signer_for(role, folder)),)
    root = root.model_copy(update={"roles": {**root.roles, **added}})
    _write_root(folder, root)
    return root, missing


def signer_for(role: Role, folder: Path) -> CryptoSigner:
    """The signer of a role; raises TrustError when its key is not on this machine."""
    path = folder / "keys" / f"{role.value}.pem"
    try:
        private = load_pem_private_key(path.read_bytes(), None)
    except FileNotFoundError as error:
        raise TrustError(f"no key for the role {role.value} ({path}): run `forge keys init` for development keys") from error
    except (ValueError, TypeError) as error:
        raise TrustError(f"{path}: not a private key in PEM: {error}") from error
    return CryptoSigner(private)


def weights_key(folder: Path) -> Path:
    """The P-256 key that signs weights (OpenSSF model signing takes no ed25519 key)."""
    path = folder / "keys" / _WEIGHTS_KEY
    if not path.is_file():
        raise TrustError(f"no key to sign weights with ({path}): run `forge keys init` for development keys")
    return path


def _write_root(folder: Path, root: TrustRoot) -> None:
    temporary = (folder / TRUST_FILE).with_suffix(".tmp")
    temporary.write_text(root.model_dump_json(indent=1) + "\n")
    temporary.replace(folder / TRUST_FILE)


def _public_key(signer: CryptoSigner) -> PublicKey:
    key = signer.public_key
    return PublicKey(keyid=key.keyid, keytype=key.keytype, scheme=key.scheme, public=key.keyval["public"])


def _write_private(path: Path, key: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> None:
    data = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
