"""SSH signatures: whatever is altered in one is refused, as ssh-keygen refuses it."""

import base64
import subprocess
import time
from pathlib import Path

import pytest

from forge.attest.ssh import APPROVAL_NAMESPACE, sign_with_ssh, ssh_signer
from forge.errors import TrustError


def armoured(raw: bytes) -> str:
    text = base64.b64encode(raw).decode()
    lines = [text[start : start + 70] for start in range(0, len(text), 70)]
    return "\n".join(["-----BEGIN SSH SIGNATURE-----", *lines, "-----END SSH SIGNATURE-----", ""])


def test_no_altered_byte_of_a_signature_is_accepted(tmp_path: Path) -> None:
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True, capture_output=True)
    signature = sign_with_ssh(b"hello", key, APPROVAL_NAMESPACE)
    public = " ".join(key.with_name("key.pub").read_text().split()[:2])
    assert ssh_signer(b"hello", signature, APPROVAL_NAMESPACE) == public
    raw = base64.b64decode("".join(signature.splitlines()[1:-1]))
    assert armoured(raw) == signature
    for position in range(len(raw)):
        for altered in (raw[:position] + bytes([raw[position] ^ 1]) + raw[position + 1 :], raw[:position]):
            with pytest.raises(TrustError):
                ssh_signer(b"hello", armoured(altered), APPROVAL_NAMESPACE)
    with pytest.raises(TrustError):
        ssh_signer(b"hello", signature, "git")


def test_an_agent_signs_for_whoever_has_the_public_half_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True, capture_output=True)
    socket = str(tmp_path / "agent")
    with subprocess.Popen(["ssh-agent", "-D", "-a", socket], stdout=subprocess.DEVNULL) as agent:
        try:
            monkeypatch.setenv("SSH_AUTH_SOCK", socket)
            for _ in range(100):
                if Path(socket).exists():
                    break
                time.sleep(0.02)
            subprocess.run(["ssh-add", "-q", str(key)], check=True, capture_output=True)
            key.unlink()
            public = key.with_name("key.pub")
            signature = sign_with_ssh(b"hello", public, APPROVAL_NAMESPACE)
            assert ssh_signer(b"hello", signature, APPROVAL_NAMESPACE) == " ".join(public.read_text().split()[:2])
            subprocess.run(["ssh-add", "-q", "-D"], check=True, capture_output=True)
            with pytest.raises(TrustError, match="ssh-keygen did not sign"):
                sign_with_ssh(b"hello", public, APPROVAL_NAMESPACE)
        finally:
            agent.terminate()
