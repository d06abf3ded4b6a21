"""The key that signs a log's checkpoints, or a witness's cosignatures: Ed25519, PEM (PKCS #8), one file, its owner's alone."""

import os
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from forge.errors import TrustError
from forge.own_files import read_private_file


def make_key(path: Path) -> bool:
    """Make a key where there is none; returns whether it is new. An existing one is never replaced."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    private = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(private)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)  # unlike a rename, this fails where there is one already
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    return True


def load_key(path: Path) -> Ed25519PrivateKey:
    """The key in a file; raises TrustError, also where others can read it."""
    try:
        private = load_pem_private_key(read_private_file(path), None)
    except FileNotFoundError as error:
        raise TrustError(f"there is no key {path}: `forge log init` makes the key of this machine's logs") from error
    except TypeError as error:
        raise TrustError(f"{path}: the key is encrypted: a log is signed unattended, so its key is not") from error
    except ValueError as error:
        raise TrustError(f"{path}: not a private key in PEM: {error}") from error
    if not isinstance(private, Ed25519PrivateKey):
        raise TrustError(f"{path}: not an Ed25519 key: checkpoints are signed with no other kind")
    return private
