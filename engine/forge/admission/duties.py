"""Who signed what a release rests on, as a role that is kept apart from approvers.

Whose a key is, the supply chain says that was in force when it signed, or one that the root signed since: a key that is
replaced afterwards takes nobody's part in a model back. Whom an envelope names is believed here: a false name costs an
approval, and gives none.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from forge.admission.history import History
from forge.admission.signed import Read
from forge.attest.authority import Authority, public_key
from forge.contract.kinds import Role
from forge.contract.record import Record, Reproduction
from forge.errors import LedgerError
from forge.ledger.entry import Entry
from forge.ledger.signers import named_signers


def groups_of(authority: Authority) -> Sequence[Sequence[str]]:
    """The groups of duties of which nobody may have two."""
    return authority.charter.supply_chain.separation_of_duties if authority.charter is not None else ()


def kept_from_approving(authority: Authority) -> frozenset[str]:
    """The roles whose holders may not approve."""
    duties = {duty for group in groups_of(authority) if "approver" in group for duty in group}
    return frozenset(duties & {role.value for role in Role})


def parts_taken(done: Iterable[Entry], read: Read, history: History, sequence: int) -> dict[str, str]:
    """By person: the step that they signed, of some records and reproductions, as a role that is kept from approving.

    Args:
        done: the ledger's entries; others are passed over.
        read: an attestation by its digest; who signed an absent one cannot be told, which is a finding of its own.
        history: who was trusted when.
        sequence: the place of what is approved.
    """
    apart = kept_from_approving(history.authority(sequence))
    found: dict[str, str] = {}
    for entry in done if apart else ():
        body = entry.body
        if not isinstance(body, Record | Reproduction):
            continue
        role = history.authority(entry.sequence).role_of(body.step).value
        holders = _holders(history, entry.sequence, sequence)
        for keyid in sorted(_signers(body, read)) if role in apart else ():
            for person in holders.get(keyid, ()):
                found.setdefault(person, f"{body.step_id} as {role}")
    return found


class Behind:
    """The entries that records descend from; the ledger is looked through once."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._makers: dict[str, list[Entry]] = defaultdict(list)
        self._reproductions: dict[str, list[Entry]] = defaultdict(list)
        for entry in entries:
            if isinstance(entry.body, Record):
                for digest in entry.body.products.values():
                    self._makers[digest].append(entry)
            elif isinstance(entry.body, Reproduction):
                self._reproductions[entry.body.key].append(entry)

    def __call__(self, record: Record) -> list[Entry]:
        """Every record that made it, or what it was made of, with the reproductions of each."""
        pending, seen = [*record.products.values(), *record.inputs.values()], set[str]()
        found: dict[int, Entry] = {}
        while pending:
            digest = pending.pop()
            if digest in seen:
                continue
            seen.add(digest)
            for entry in self._makers.get(digest, ()):
                body = entry.body
                if entry.sequence not in found and isinstance(body, Record):
                    found[entry.sequence] = entry
                    found |= {each.sequence: each for each in self._reproductions.get(body.key, ())}
                    pending.extend(body.inputs.values())
        return [found[number] for number in sorted(found)]


def _signers(body: Record | Reproduction, read: Read) -> Iterator[str]:
    for digest in body.attestations.values():
        try:
            yield from named_signers(read(digest))
        except LedgerError:
            continue


def _holders(history: History, first: int, last: int) -> Mapping[str, set[str]]:
    """Key id -> whose it was, by the supply chain in force at a place of the ledger and by those after it, up to another."""
    found: dict[str, set[str]] = defaultdict(set)
    in_force = history.authority(first).charter
    later = [charter for place, charter, _ in history.charters if first <= place < last]
    for charter in [*([in_force] if in_force is not None else []), *later]:
        for rules in charter.supply_chain.roles.values():
            for key in rules.keys:
                if key.holder is not None:
                    found[public_key(key.public).keyid].add(key.holder)
    return found
