"""Signatures that people make with their SSH keys: over approvals (``ssh-keygen -Y``), and over commits (``git commit -S``).

Signing calls ssh-keygen, which also asks an agent; verifying needs no program. Only ssh-ed25519 keys are people's keys here
(``spec.supply_chain.PersonKey``), and only the two hash functions that ssh-keygen uses.
"""

import base64
import subprocess
import tempfile
from pathlib import Path

import sshsig
from sshsig.sshsig import SshsigSignature

from forge.errors import TrustError

APPROVAL_NAMESPACE = "forge-approval"
COMMIT_NAMESPACE = "git"
_HASHES = (b"sha256", b"sha512")
_MOST_CHARACTERS = 16384
_BEGIN = b"-----BEGIN SSH SIGNATURE-----"


def sign_with_ssh(payload: bytes, key: Path, namespace: str) -> str:
    """An armoured signature; ``key`` is a private key, or a public one whose private key an agent holds.

    Raises TrustError with what ssh-keygen says.
    """
    with tempfile.TemporaryDirectory() as scratch:
        message = Path(scratch) / "message"
        message.write_bytes(payload)
        arguments = ["ssh-keygen", "-Y", "sign", "-n", namespace, "-f", str(key), str(message)]
        try:
            done = subprocess.run(arguments, capture_output=True, check=False)
        except FileNotFoundError as error:
            raise TrustError("signing needs ssh-keygen (OpenSSH 8.2 or newer), which is not installed") from error
        if done.returncode:
            raise TrustError(f"{key}: ssh-keygen did not sign: {done.stderr.decode(errors='replace').strip()}")
        return (Path(scratch) / "message.sig").read_text("ascii")


def ssh_signer(payload: bytes, armoured: str, namespace: str) -> str:
    """``TYPE BASE64`` of the key that signed; whose it is, is not judged here. Raises TrustError where none did."""
    if len(armoured) > _MOST_CHARACTERS:
        raise TrustError(f"an SSH signature of {len(armoured)} characters")
    try:
        outer = SshsigSignature.from_armored(armoured)
        if outer.hash_algo not in _HASHES:
            raise TrustError(f"an SSH signature over the hash {outer.hash_algo!r}; expected sha256 or sha512")
        if "".join(outer.to_armored().split()) != "".join(armoured.split()):
            raise TrustError("an SSH signature that is not in its canonical form")
        # The library reads these two leniently; ssh-keygen refuses what is not exactly this.
        if not _is_ed25519(outer.public_key, 32) or not _is_ed25519(outer.signature, 64):
            raise TrustError("an SSH signature that is not made by an ssh-ed25519 key")
        sshsig.check_signature(payload, armoured, namespace)
    except (sshsig.InvalidSignature, NotImplementedError, ValueError, AssertionError, EOFError, UnicodeError) as error:
        raise TrustError(f"not a valid SSH signature: {error}") from error
    kind = bytes(outer.public_key[4 : 4 + int.from_bytes(outer.public_key[:4], "big")]).decode("ascii", "replace")
    return f"{kind} {base64.b64encode(bytes(outer.public_key)).decode()}"


def _is_ed25519(blob: bytes, size: int) -> bool:
    """Whether a blob is the name ssh-ed25519 and one string of a size (RFC 8709)."""
    name = b"ssh-ed25519"
    head = len(name).to_bytes(4, "big") + name + size.to_bytes(4, "big")
    return bytes(blob).startswith(head) and len(blob) == len(head) + size


def commit_signer(commit: bytes) -> str | None:
    """``TYPE BASE64`` of the SSH key that signed a commit object; None where it has no SSH signature that holds.

    A commit that is signed otherwise (OpenPGP, X.509) has no signer here.
    """
    head, separator, message = commit.partition(b"\n\n")
    kept, signature, inside = [], [], False
    for line in head.split(b"\n"):
        if line.startswith(b"gpgsig "):
            inside = True
            signature.append(line.removeprefix(b"gpgsig "))
        elif inside and line.startswith(b" "):
            signature.append(line[1:])
        else:
            inside = False
            kept.append(line)
    if not signature or signature[0] != _BEGIN:
        return None
    try:
        armoured = (b"\n".join(signature) + b"\n").decode("ascii")
        return ssh_signer(b"\n".join(kept) + separator + message, armoured, COMMIT_NAMESPACE)
    except (TrustError, UnicodeError):
        return None
