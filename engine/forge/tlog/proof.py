"""A proof that a log holds an entry, as one JSON file that can be checked without the log, offline.

Invariant: what the file says of itself decides nothing. The leaf's hash is computed from the leaf, the root is the one that the
log's key has signed, and the key comes from whoever checks.
"""

import base64
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from forge.errors import TransparencyError, TrustError
from forge.tlog.checkpoint import MOST_LEAVES, SignedCheckpoint, read_checkpoint
from forge.tlog.log import View
from forge.tlog.merkle import MOST_HASHES, check_inclusion, inclusion_proof, leaf_hash
from forge.tlog.note import VerifierKey, check_independent
from forge.tlog.tiles import Nodes

_Hash = Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$")]
"""The one base64 of 32 bytes: another last character would decode to the same."""


class Proof(BaseModel):
    """The file."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    schema_version: Literal[1] = 1
    leaf: str
    """The entry; our entries are UTF-8."""
    index: Annotated[int, Field(ge=0, le=MOST_LEAVES)]
    hashes: Annotated[list[_Hash], Field(max_length=MOST_HASHES)]
    """Base64, nearest to the leaf first (RFC 6962, section 2.1.1)."""
    checkpoint: str
    """The signed note."""

    def to_bytes(self) -> bytes:
        """The file's contents."""
        return self.model_dump_json(indent=1).encode() + b"\n"


def prove(view: View, index: int) -> Proof:
    """Prove that an entry is in a log; raises TransparencyError where the log's files do not bear it out."""
    entry = view.files.entry(index)
    hashes = inclusion_proof(index, view.size, Nodes(view.files))
    try:
        check_inclusion(leaf_hash(entry), index, view.size, hashes, view.checkpoint.root)
        leaf = entry.decode("utf-8")
    except TrustError as error:
        raise TransparencyError(
            f"{view.files.folder}: leaf {index} cannot be proved, the log's files were altered: {error}. `forge log check` "
            "names the place"
        ) from error
    except UnicodeDecodeError as error:
        raise TransparencyError(f"{view.files.folder}: leaf {index} is not UTF-8: no proof file can hold it") from error
    encoded = [base64.b64encode(item).decode() for item in hashes]
    return Proof(leaf=leaf, index=index, hashes=encoded, checkpoint=view.signed.data.decode())


def read_proof(data: bytes) -> Proof:
    """Read a proof file; raises TrustError."""
    try:
        return Proof.model_validate_json(data)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in fault["loc"])
        raise TrustError(f"not a proof of a transparency log: {place}{': ' if place else ''}{fault['msg']}") from error


def check_proof(proof: Proof, key: VerifierKey, witnesses: tuple[VerifierKey, ...] = ()) -> SignedCheckpoint:
    """Raise TrustError unless the log of that key holds the leaf; returns the checkpoint that says so, and who cosigned it.

    Raises it too where the log is asked to be its own witness, or one witness to be two.
    """
    check_independent(key, witnesses)
    signed = read_checkpoint(proof.checkpoint.encode(), key, witnesses)
    hashes = [base64.b64decode(item, validate=True) for item in proof.hashes]
    check_inclusion(leaf_hash(proof.leaf.encode()), proof.index, signed.checkpoint.size, hashes, signed.checkpoint.root)
    missing = [witness.name for witness in witnesses if witness not in {found.key for found in signed.cosignatures}]
    if missing:
        raise TrustError(f"the checkpoint {signed.checkpoint} is not cosigned by {', '.join(missing)}")
    return signed
