"""Private key files: PEM, encrypted or not, that their owner alone can read.

Invariant: a file that others can read is refused before its first byte is used (``forge.own_files``). What is written here is
never written over anything.
"""

import os
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from forge.errors import TrustError
from forge.own_files import read_private_file

PrivateKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey
PublicHalf = ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey
SHORTEST_PASSPHRASE = 12


def load_private_key(path: Path, passphrase: str | None, hint: str) -> PrivateKey:
    """The Ed25519 or P-256 key in a file; raises TrustError, and FileNotFoundError where there is no file.

    ``hint`` says where the passphrase was found, or where it could be given: it ends the messages about one. No message
    holds the passphrase, or anything of the file.
    """
    data = read_private_file(path)
    is_encrypted = b"ENCRYPTED" in data
    if is_encrypted and passphrase is None:
        raise TrustError(f"{path}: the key is encrypted, and nothing says where its passphrase is found: {hint}")
    if not is_encrypted and passphrase is not None:
        raise TrustError(
            f"{path}: a passphrase is given for it ({hint}), but the key is not encrypted: encrypt it (`openssl pkcs8 -topk8 "
            "-scrypt`), or take the passphrase away"
        )
    try:
        key = load_pem_private_key(data, passphrase.encode() if passphrase is not None else None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        if is_encrypted:
            raise TrustError(f"{path}: the passphrase does not open it, or the file is damaged ({hint})") from error
        raise TrustError(f"{path}: not a private key in PEM (PKCS #8)") from error
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1):
        return key
    raise TrustError(f"{path}: expected an Ed25519 or a P-256 key, found another kind")


def load_public_key(path: Path) -> PublicHalf:
    """The Ed25519 or P-256 public key in a PEM file; raises TrustError."""
    try:
        data = path.read_bytes()
        if b"PRIVATE" in data:
            raise TrustError(
                f"{path}: expected a public key, found a private one (`openssl pkey -pubout` prints the public half)"
            )
        key = load_pem_public_key(data)
    except OSError as error:
        raise TrustError(f"{path}: the public key cannot be read: {error.strerror}") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise TrustError(f"{path}: not a public key in PEM (`openssl pkey -pubout` prints one)") from error
    if isinstance(key, ed25519.Ed25519PublicKey):
        return key
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return key
    raise TrustError(f"{path}: expected an Ed25519 or a P-256 key, found another kind")


def write_private_key(path: Path, key: PrivateKey, passphrase: str | None) -> None:
    """Write a key that was made just now, whole or not at all; raises TrustError where something lies at the path already."""
    if passphrase is not None and len(passphrase) < SHORTEST_PASSPHRASE:
        raise TrustError(f"the passphrase is shorter than {SHORTEST_PASSPHRASE} characters: a copied file would be opened soon")
    encryption = NoEncryption() if passphrase is None else BestAvailableEncryption(passphrase.encode())
    data = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)  # unlike a rename, this fails where there is one already
    except FileExistsError as error:
        raise TrustError(f"{path} is there already, and a private key is never replaced: move it away first") from error
    finally:
        temporary.unlink()


def pem_of_public(key: PublicHalf) -> str:
    """A public key as PEM (SubjectPublicKeyInfo)."""
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
