"""The keys of a configuration folder: making them, pinning the root that lists them, and signing with them.

Private keys are PEM files that only their owner can read, unless signers.toml names another place. Steps never see this folder.
"""

from collections.abc import Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from securesystemslib.signer import Signer

from forge.attest.authority import public_key
from forge.attest.pem import PrivateKey, load_public_key, pem_of_public, write_private_key
from forge.attest.signers import WEIGHTS, KeyName, open_signer
from forge.attest.trust import TRUST_FILE, PublicKey, TrustRoot, read_trust_root, write_trust_root
from forge.contract.kinds import Role
from forge.errors import TrustError


def make_development_keys(folder: Path) -> tuple[TrustRoot, bool]:
    """Make a key for every role and pin their trust root; an existing root is kept. Returns the root and whether it is new."""
    if (folder / TRUST_FILE).exists():
        return read_trust_root(folder), False
    keys = folder / "keys"
    if keys.exists() and any(keys.iterdir()):
        raise TrustError(f"{keys} holds keys, but no {TRUST_FILE} lies beside it: restore that file, or move the keys away")
    roles = {role: (public_key(make_key(role, role, folder, None)),) for role in Role}
    root = TrustRoot(development=True, roles=roles, weights=(make_key(WEIGHTS, WEIGHTS, folder, None),))
    write_trust_root(folder, root)
    return root, True


def add_missing_keys(folder: Path) -> tuple[TrustRoot, tuple[Role, ...]]:
    """Give a development root a key for every role that it lacks; a root that is not DEVELOPMENT is never touched.

    Returns the root as it is now, and the roles that were added. A root made by an older engine lacks the newer roles.
    """
    root = read_trust_root(folder)
    missing = tuple(role for role in Role if not root.roles.get(role))
    if not root.development or not missing:
        return root, ()
    added = {}
    for role in missing:
        path = folder / "keys" / f"{role.value}.pem"
        if not path.exists():  # it is there when we were stopped before the root was written
            make_key(role, role, folder, None)
        added[role] = (key_of(signer_for(role, folder)),)
    root = root.model_copy(update={"roles": {**root.roles, **added}})
    write_trust_root(folder, root)
    return root, missing


def signer_for(role: Role, folder: Path) -> Signer:
    """The signer of a role, wherever its key is (signers.toml); raises TrustError when it cannot be had on this machine."""
    return open_signer(role, folder)


def weights_signer_for(folder: Path) -> Signer:
    """The P-256 signer of weights (OpenSSF model signing takes no ed25519 key); raises TrustError as ``signer_for`` does."""
    signer = open_signer(WEIGHTS, folder)
    if signer.public_key.keytype != "ecdsa":
        raise TrustError(
            f"{folder}: weights are signed with a P-256 key, and the one here is of type {signer.public_key.keytype}: make one "
            "with `forge keys new weights`"
        )
    return signer


def make_key(name: KeyName, file_name: str, folder: Path, passphrase: str | None) -> str:
    """Make the key pair ``keys/FILE_NAME.pem``; returns its public half as PEM. An existing key is never replaced."""
    path = _keys_folder(folder) / f"{file_name}.pem"
    private: PrivateKey = ec.generate_private_key(ec.SECP256R1()) if name == WEIGHTS else ed25519.Ed25519PrivateKey.generate()
    write_private_key(path, private, passphrase)
    return pem_of_public(private.public_key())


def make_root(folder: Path, passphrase: str | None, public: Sequence[Path] = ()) -> TrustRoot:
    """Pin a root that is not for development and trusts nobody but its own keys; raises TrustError where one is pinned.

    ``public``: the root's public keys, where the private ones are elsewhere; none: a key pair is made, ``keys/root.pem``.
    """
    if (folder / TRUST_FILE).exists():
        raise TrustError(
            f"{folder / TRUST_FILE} is there already: a root is never replaced. Its successor is made in a folder of its own "
            "(FORGE_CONFIG_HOME), and `forge keys rotate` hands over to it"
        )
    pems = [pem_of_public(load_public_key(path)) for path in public] or [make_key(Role.ROOT, Role.ROOT, folder, passphrase)]
    keys = {public_key(pem).keyid: public_key(pem) for pem in pems}
    root = TrustRoot(development=False, roles={Role.ROOT: tuple(keys.values())}, weights=())
    _keys_folder(folder)
    write_trust_root(folder, root)
    return root


def _keys_folder(folder: Path) -> Path:
    """``keys`` in the configuration folder, for this user alone; raises TrustError inside a Git work tree."""
    keys = folder / "keys"
    for parent in (folder.absolute(), *folder.absolute().parents):
        if (parent / ".git").exists():
            raise TrustError(f"{folder} lies in the Git work tree {parent}: keys are kept outside (set FORGE_CONFIG_HOME)")
    keys.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    keys.chmod(0o700)
    return keys


def key_of(signer: Signer) -> PublicKey:
    """What a trust root lists of a signer's key."""
    key = signer.public_key
    return PublicKey(keyid=key.keyid, keytype=key.keytype, scheme=key.scheme, public=key.keyval["public"])
