"""A witness: puts its name to a log's checkpoint when, and only when, the log continues what the witness saw before.

Rules (c2sp.org/tlog-witness, on files instead of HTTP):
- The log's key is configured, never taken from the log. A checkpoint that this key has not signed is not looked at.
- A tree that is smaller than the last one seen, or of the same size with another root, or that the consistency proof does not
  lead to, is refused, and the refusal names both roots: the two signed checkpoints together prove what the log did.
- What is cosigned is on the disk before the cosignature is given away, and looking and remembering are one step.
- The proof is made from the log's tiles and checked against the two roots; wrong tiles can only make it fail.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from forge.errors import RefusedError, TransparencyError, TrustError
from forge.tlog.log import View, read_log
from forge.tlog.note import SignatureType, VerifierKey, check_independent, cosign_note, split_note, verifier_key
from forge.tlog.seals import Seal, Seals


@dataclass(frozen=True)
class Witness:
    """A name, a key, and what it has seen."""

    name: str
    private: Ed25519PrivateKey
    seals: Seals
    clock: Callable[[], float]
    """POSIX seconds."""

    def cosign(self, folder: Path, log: VerifierKey) -> tuple[View, str]:
        """Look at a log; returns what was seen and the line of the cosignature.

        Raises RefusedError for a log that does not continue what was seen before, TrustError for a checkpoint that is not the
        log's or where the witness has the log's own key, TransparencyError where its files cannot be read.
        """
        check_independent(log, [verifier_key(self.name, self.private, SignatureType.COSIGNATURE)])
        with self.seals.held():
            view = read_log(folder, log)
            seal = self.seals.last(log.name)
            if seal is not None:
                _check_continues(folder, seal, view)
            self.seals.remember(view.checkpoint, view.signed.data)
        text, _ = split_note(view.signed.data)
        return view, cosign_note(text, self.name, self.private, int(self.clock()))


def _check_continues(folder: Path, seal: Seal, view: View) -> None:
    old, new = seal.checkpoint, view.checkpoint
    both = f"last seen: {old.size} leaves, root {old.root.hex()}; now: {new.size} leaves, root {new.root.hex()}"
    if new.size < old.size:
        raise RefusedError(
            f"{folder}: the log {old.origin} has fewer leaves than before; {both}. It was cut or set back, or this is an old "
            "copy of it: fetch the newest. Not cosigned"
        )
    try:
        view.check_continues(old)
    except (TrustError, TransparencyError) as error:
        raise RefusedError(
            f"{folder}: the log {old.origin} does not continue what was seen before; {both}. Not cosigned. Either its tiles "
            "are damaged (`forge log check`), or the log was forked: then keep both signed checkpoints, they prove it. "
            f"({error})"
        ) from error
