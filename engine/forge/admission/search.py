"""Read what a search for descendants asks: every record of the ledger, and what its artifacts hold or who signed it.

Only what the subject needs is read: manifests for a digest that is no artifact's name, envelopes for a key. What cannot be read
is named, so that an answer never looks more complete than it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from forge.admission.descent import Descent, Known
from forge.canonical import PREFIX, digest_of_bytes
from forge.contract.hyperparameters import Pick
from forge.contract.inventory import BYPRODUCT as INVENTORY
from forge.contract.inventory import INVENTORY_FILE, Inventory
from forge.contract.record import Record, Release, Retirement
from forge.errors import RepoError, StoreError
from forge.ledger.entry import sequence_path
from forge.ledger.ledger import Snapshot
from forge.plan.withdrawn import KEY
from forge.repo.repository import Repository
from forge.repo.tree import CommitTree
from forge.store.store import Store


@dataclass(frozen=True)
class Search:
    """What was read for one subject."""

    descent: Descent
    moves: tuple[Release | Retirement, ...]
    own_moves: frozenset[str]
    """``moved`` and environment, joined by a space, of moves that the subject signed, or that rest on a search which chose by
    it: what was chosen is what a trial was trained with anyway, and descends from nothing that told the trials apart."""
    unread: tuple[str, ...]
    """Artifacts whose files are not known: the store has lost them."""


def search(subject: str, repository: Repository, snapshot: Snapshot, store: Store, heirs: Sequence[str] = ()) -> Search:
    """Read the ledger for one subject; raises LedgerError where it cannot be read whole.

    ``heirs``: what the subject was called later: what a resource made under its later name descends as well.
    """
    entries = [snapshot.entry_at(sequence_path(sequence)) for sequence in range(1, snapshot.head[0] + 1)]
    bodies = [entry.body for entry in entries]
    records = [body for body in bodies if isinstance(body, Record)]
    moves = tuple(body for body in bodies if isinstance(body, Release | Retirement) and body.environment is not None)
    known, unread, signed = Known(), list[str](), frozenset[str]()
    if subject.startswith(KEY):
        keyid = subject.removeprefix(KEY)
        known = Known(signers={record.key: snapshot.signers(record) for record in records})
        signed = frozenset(
            f"{move.moved} {move.environment}"
            for move in moves
            if isinstance(move, Release) and keyid in snapshot.signers(move)
        )
    elif subject.startswith("sha256:") and not _names_an_artifact(subject, records):
        known = Known(files=_files(records, repository, store, unread))
    descent = Descent(records, [subject, *heirs], known)
    chosen = {id(record) for record in descent.descendants() if record.parameters.get("pick") == Pick.BEST}
    picks = {entry.digest for entry in entries if id(entry.body) in chosen}
    resting = {f"{m.moved} {m.environment}" for m in moves if isinstance(m, Release) and not picks.isdisjoint(m.rests_on)}
    return Search(descent, moves, signed | resting, tuple(unread))


def _names_an_artifact(digest: str, records: Sequence[Record]) -> bool:
    return any(
        digest in {*record.inputs.values(), *record.products.values(), *record.byproducts.values()} for record in records
    )


def _files(records: Sequence[Record], repository: Repository, store: Store, unread: list[str]) -> dict[str, dict[str, str]]:
    """The files of every artifact: as the store's manifests list them, else as the commit holds them."""
    found: dict[str, dict[str, str]] = {}
    for record in records:
        for name, digest in (*record.inputs.items(), *record.products.items()):
            if digest in found:
                continue
            try:
                found[digest] = {str(file.sha256): file.path for file in store.manifest(digest).files}
            except StoreError:
                files = _files_of_commit(record, name, repository)
                if files is None:
                    unread.append(digest)
                found[digest] = files or {}
    for record in records:
        digest = record.byproducts.get(INVENTORY, "")
        if digest and digest not in found:
            found[digest] = _fetched(digest, store, unread)
    return found


def _fetched(digest: str, store: Store, unread: list[str]) -> dict[str, str]:
    """The files that a curation fetched, as its inventory lists them."""
    try:
        inventory = Inventory.model_validate_json(store.read_file(digest, INVENTORY_FILE))
    except (StoreError, ValidationError):
        unread.append(digest)
        return {}
    return {PREFIX + file.sha256: f"source-{file.source}/{file.path}" for file in inventory.files}


def _files_of_commit(record: Record, name: str, repository: Repository) -> dict[str, str] | None:
    """The files of an input that no step made, hashed from the commit; None where they cannot be read."""
    if name not in record.sources:
        return None
    tree = CommitTree(repository, record.commit)
    try:
        return {str(digest_of_bytes(tree.read(origin))): path for path, origin in record.sources[name].items()}
    except RepoError:
        return None
