"""OpenSSF model signing over a folder of weights (https://github.com/ossf/model-signing-spec), with a P-256 key."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from forge.errors import TrustError


def sign_weights(folder: Path, private_key: Path) -> bytes:
    """Sign every file below a folder; returns the signature, a Sigstore bundle in JSON."""
    from model_signing import hashing, signing

    with tempfile.TemporaryDirectory() as scratch:
        signature = Path(scratch) / "model.sig"
        config = signing.Config().use_elliptic_key_signer(private_key=private_key)
        config.set_hashing_config(hashing.Config().use_file_serialization(hashing_algorithm="sha256"))
        config.sign(folder, signature)
        return signature.read_bytes()


def verify_weights(folder: Path, signature: bytes, public_keys: Sequence[str]) -> None:
    """Raise TrustError unless one of the keys signed exactly these files."""
    from model_signing import hashing, verifying

    reasons = []
    with tempfile.TemporaryDirectory() as scratch:
        signature_file = Path(scratch) / "model.sig"
        signature_file.write_bytes(signature)
        for number, public_key in enumerate(public_keys):
            key_file = Path(scratch) / f"{number}.pub"
            key_file.write_text(public_key)
            config = verifying.Config().use_elliptic_key_verifier(public_key=key_file)
            config.set_hashing_config(hashing.Config().use_file_serialization(hashing_algorithm="sha256"))
            try:
                config.verify(folder, signature_file)
            except Exception as error:  # noqa: BLE001 (the library raises bare exceptions of many kinds; each is a refusal)
                reasons.append(str(error) or type(error).__name__)
            else:
                return
    raise TrustError(
        "the OpenSSF signature of the weights does not hold: " + "; ".join(reasons or ["no key is trusted for weights"])
    )
