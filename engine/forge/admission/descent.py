"""Which recorded steps descend from a subject: by name, bytes, the key that signed them, or through what they read. Pure.

An artifact may have several makers: two models may give the same report, and a corpus without a file may give the same
documents as with it. So an artifact descends from a subject when no recorded way of making it avoids the subject. Invariant:
a record is clean only if that is shown, from the files of commits upwards; whatever is not shown to be clean descends.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from forge.contract.inventory import pinned_files
from forge.contract.kinds import StepKind
from forge.contract.record import Record
from forge.plan.withdrawn import KEY, addresses_of


@dataclass(frozen=True)
class Known:
    """What is known of records beside what they say."""

    files: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Artifact digest -> sha256 of a file in it -> the file's path; for artifacts whose manifest is known."""
    signers: Mapping[str, AbstractSet[str]] = field(default_factory=dict)
    """Step key -> ids of the keys that signed its record."""
    aliases: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Step key -> addresses that the resources of its record had before, as its commit says."""


@dataclass(frozen=True)
class Cause:
    """Where a chain of descent begins."""

    subject: str
    step_id: str
    """The step that the subject names, or that reads or makes what it names."""
    place: str
    """What of the step it is."""


class Descent:
    """The records that descend from one of some subjects."""

    def __init__(self, records: Sequence[Record], subjects: Collection[str], known: Known) -> None:
        self._records = records
        self._index = {id(record): index for index, record in enumerate(records)}
        self._makers: dict[str, list[int]] = defaultdict(list)
        for index, record in enumerate(records):
            for digest in (*record.products.values(), *record.byproducts.values()):
                self._makers[digest].append(index)
        wanted = frozenset(subjects)
        self._named = [tuple(_names(record, wanted, known)) for record in records]
        self._clean = self._find_clean()

    def descendants(self) -> list[Record]:
        """The records that descend, in the order that they were given in."""
        return [record for index, record in enumerate(self._records) if index not in self._clean]

    def artifact(self, digest: str) -> bool:
        """Whether an artifact descends: it was made, and never cleanly."""
        makers = self._makers.get(digest, ())
        return bool(makers) and self._clean.isdisjoint(makers)

    def named(self, record: Record) -> tuple[Cause, ...]:
        """How the subjects name a record itself, or what it reads and makes; the very object that was given."""
        return self._named[self._index[id(record)]]

    def causes(self, record: Record) -> list[Cause]:
        """Every beginning of the chains that lead to a record (the very object that was given), the nearest first.

        None for a record that is not among those given: what does not hold accuses nothing.
        """
        found: dict[Cause, None] = {}
        index = self._index.get(id(record))
        pending = [index] if index is not None and index not in self._clean else []
        seen = set(pending)
        while pending:
            index = pending.pop(0)
            found.update(dict.fromkeys(self._named[index]))
            for digest in _read(self._records[index]):
                makers = self._makers.get(digest, [])
                if makers and self._clean.isdisjoint(makers):
                    fresh = [maker for maker in makers if maker not in seen]
                    seen.update(fresh)
                    pending.extend(fresh)
        return list(found)

    def _find_clean(self) -> set[int]:
        """The least set that is closed: not named, and everything it reads lies in a commit or has a clean maker."""
        clean: set[int] = set()
        left = [index for index in range(len(self._records)) if not self._named[index]]
        while True:  # a ledger lists makers before readers: the second round finds nothing new
            later: list[int] = []
            for index in left:
                reads = (self._makers.get(digest, ()) for digest in _read(self._records[index]))
                (later.append if any(makers and clean.isdisjoint(makers) for makers in reads) else clean.add)(index)
            if len(later) == len(left):
                return clean
            left = later


def _read(record: Record) -> Iterator[str]:
    yield from record.inputs.values()
    if record.continued is not None:
        yield record.continued.checkpoint


def _names(record: Record, wanted: AbstractSet[str], known: Known) -> Iterator[Cause]:
    """How the subjects name a record, or what it reads and makes."""
    name = record.step_id
    for address in addresses_of(record.step, record.step_id, record.subject):
        if address in wanted:
            yield Cause(address, name, "it is made of it")
    for address in known.aliases.get(record.key, ()):
        if address in wanted:
            yield Cause(address, name, "it is made of it, under a later name")
    for keyid in sorted(known.signers.get(record.key, ())):
        if KEY + keyid in wanted:
            yield Cause(KEY + keyid, name, "this key signed its record")
    for place, digest in pinned_files(record.parameters) if record.step is StepKind.CURATE else ():
        if digest in wanted:
            yield Cause(digest, name, place)
    artifacts = [*record.inputs.items(), *record.products.items(), *record.byproducts.items()]
    if record.continued is not None:
        artifacts.append(("the checkpoint that it went on from", record.continued.checkpoint))
    for kind, digest in artifacts:
        if digest in wanted:
            yield Cause(digest, name, kind)
        held = known.files.get(digest, {})
        for sha256 in wanted & held.keys():
            yield Cause(sha256, name, f"{kind}/{held[sha256]}")
