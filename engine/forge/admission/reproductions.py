"""Who carried out a recorded step: its record and the reproductions of it, and whether they are as many as its role asks for.

Pure. ``forge verify``, the plan and ``forge reproduce`` call the same functions; they differ in how they read what is judged.
A functionary is counted once, however many keys or runs they have. Rules:
1. The record counts for whose key signed its link.
2. A reproduction counts where it names an earlier record of this very key and these very products; where its link and its
   provenance are what follows from that record, signed by one key of the role that was valid then; and where that key is
   neither withdrawn nor one that stands for nobody (weights). One that does not count changes nothing.
3. in-toto knows one link per kind of step behind a release. Besides the one that the release carries, a link of a kind counts
   that lies beside a reproduction, is the release's byte for byte, and is signed by somebody who carried out all that it lists.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from forge.admission.history import History, claimed_moment
from forge.admission.stamps import moment_of
from forge.attest.authority import Authority, Signer
from forge.attest.envelope import opened_by, unseal
from forge.attest.layout import Done, keys_in_layout
from forge.attest.reproduction import digest_of_reproduction, reproduction_payloads
from forge.attest.timestamps import signature_in
from forge.contract.kinds import Role, StepKind
from forge.contract.manifest import Manifest
from forge.contract.record import Record, Reproduction
from forge.errors import TrustError
from forge.ledger.entry import Entry
from forge.plan.reproductions import Count

_CHAIN = "chain-"


@dataclass(frozen=True)
class Run:
    """A record or a reproduction of it, judged."""

    body: Record | Reproduction
    sequence: int
    signer: str = "nobody"
    """What its key is called."""
    functionary: str | None = None
    refusal: str | None = None
    """Why it does not count; None where it does."""

    def __str__(self) -> str:
        how = "recorded it" if isinstance(self.body, Record) else f"entry {self.sequence}"
        return f"{self.signer} ({how})"


@dataclass(frozen=True)
class Link:
    """A link of a kind that a functionary signed beside a reproduction."""

    name: str
    """Under which the reproduction lists it."""
    reproduction: Reproduction
    functionary: str
    signer: str
    sealed: bytes


@dataclass(frozen=True)
class Runs:
    """What is judged, as things stand at a place of the ledger."""

    history: History
    before: int
    """The place; only entries before it are looked at, and the supply chain in force at it says how many have to be there."""
    attestations: Mapping[str, bytes]
    manifests: Mapping[str, Manifest]
    """By artifact digest. Where one is absent no link can be compared, and provenance alone is: for a verification that is a
    fault of its own, and a plan may be made where the store cannot be read."""
    producers: Callable[[Record], Mapping[str, str] | None]
    """Input name -> prefix of its paths, as the record's commit has it; None where that cannot be read."""
    records: Mapping[str, Sequence[Entry]]
    """By step key: every record, oldest first."""
    reproductions: Mapping[str, Sequence[Entry]]
    """By step key, oldest first."""
    withdrawn: frozenset[str] = frozenset()
    """Ids of keys that are withdrawn."""
    _judged: dict[str, list[Run]] = field(default_factory=dict, compare=False)

    @cached_property
    def authority(self) -> Authority:
        """Who may do what at the place."""
        return self.history.authority(self.before)

    def of(self, record: Record) -> list[Run]:
        """The record, then its reproductions; each functionary counts once."""
        if record.key not in self._judged:
            self._judged[record.key] = self._once([self._recorded(record), *self._reproduced(record)])
        return self._judged[record.key]

    def counts(
        self, chain: Sequence[Done], payloads: Mapping[StepKind, bytes], own: Callable[[StepKind], str | None]
    ) -> list[Count]:
        """Everything that the thresholds ask of a release.

        Args:
            chain: the steps behind it, itself included or not.
            payloads: its links by kind (``chain_links``); one that is absent, because an artifact is, is not asked for.
            own: by kind, whose link the release itself carries, or would.
        """
        found = []
        for kind in dict.fromkeys(done.step.kind for done in chain):
            if self.authority.threshold(kind) == 1:
                continue
            steps = [self.count(done) for done in chain if done.step.kind is kind]
            found += steps
            if kind in payloads and all(count.suffices for count in steps):  # else the link is the smaller lack
                found.append(self.count_links(kind, payloads[kind], chain, own(kind)))
        return found

    def count(self, done: Done) -> Count:
        """The functionaries who carried out a step of a release's chain."""
        runs = self.of(done.record)
        refused = tuple(f"{run.signer}'s in entry {run.sequence} does not count: {run.refusal}" for run in runs if run.refusal)
        remedy = f"`forge reproduce {done.step.id}` by who holds another key of the {self._role(done.step.kind)} adds one"
        needed = self.authority.threshold(done.step.kind)
        return Count(done.step.id, needed, tuple(run.signer for run in runs if run.refusal is None), refused, remedy)

    def links(self, kind: StepKind, payload: bytes, chain: Sequence[Done]) -> dict[str, Link]:
        """By functionary: the links of a kind beside reproductions that are this very one.

        Args:
            kind: of the steps.
            payload: what the release's own link says.
            chain: the steps behind the release; of other kinds too.
        """
        steps = [done for done in chain if done.step.kind is kind]
        able = [{run.functionary for run in self.of(done.record) if run.refusal is None} for done in steps]
        everyone = set.intersection(*able) if able else set()
        delegation = self.history.delegation(self.before)
        listed = keys_in_layout(self.authority, kind, delegation.signed) if delegation is not None else frozenset()
        found: dict[str, Link] = {}
        for entry, body in (each for done in steps for each in self._entries(done.record)):
            for name in sorted(body.attestations):
                if name != f"{_CHAIN}{kind}" and not name.startswith(f"{_CHAIN}{kind}-"):
                    continue
                try:
                    said, signer = self._opened(entry, body, name)
                except TrustError:
                    continue  # whoever can write the ledger can write this
                who = self._functionary(self.history.authority(entry.sequence), kind, signer)
                counts = signer.key.keyid in listed and signer.key.keyid not in self.withdrawn
                if said == payload and counts and who in everyone and who is not None:
                    sealed = self.attestations[body.attestations[name]]
                    found.setdefault(who, Link(name, body, who, signer.name, sealed))
        return found

    def count_links(self, kind: StepKind, payload: bytes, chain: Sequence[Done], own: str | None) -> Count:
        """The functionaries who signed the link of all steps of a kind.

        ``own``: who signs, or signed, the release's own link; None where nobody does.
        """
        links = self.links(kind, payload, chain)
        names = [link.signer for link in links.values()]
        if own is not None and own not in links:
            names.insert(0, "the release's own")
        steps = [done.step.id for done in chain if done.step.kind is kind]
        remedy = (
            f"`forge reproduce {steps[0]}` by who has carried out each of {', '.join(steps)} signs it, where `forge apply` is "
            "not run with a key of theirs"
        )
        return Count(f"the link of all {kind} steps", self.authority.threshold(kind), tuple(names), (), remedy)

    def recorders(self, kind: StepKind, chain: Sequence[Done]) -> list[str]:
        """Who recorded steps of a kind."""
        runs = [self.of(done.record)[0] for done in chain if done.step.kind is kind]
        return [run.functionary for run in runs if run.functionary is not None and run.refusal is None]

    def _role(self, kind: StepKind) -> Role:
        return self.authority.role_of(kind)

    def _functionary(self, then: Authority, kind: StepKind, signer: Signer) -> str | None:
        """Who a key stands for: as the supply chain in force at the place has it, else as the one when it signed had."""
        role, keyid = self._role(kind), signer.key.keyid
        return self.authority.functionaries(role).get(keyid) or then.functionaries(then.role_of(kind)).get(keyid)

    def _entries(self, record: Record) -> list[tuple[Entry, Reproduction]]:
        rows = self.reproductions.get(record.key, ())
        return [(row, row.body) for row in rows if isinstance(row.body, Reproduction) and row.sequence < self.before]

    def _once(self, runs: Sequence[Run]) -> list[Run]:
        seen: set[str] = set()
        judged: list[Run] = []
        for run in runs:
            if any(_is_said_again(run, other) for other in judged):
                continue
            again = run.refusal is None and run.functionary in seen
            judged.append(replace(run, refusal="the same functionary has carried it out before") if again else run)
            if run.refusal is None and run.functionary is not None:
                seen.add(run.functionary)
        return judged

    def _recorded(self, record: Record) -> Run:
        entry = next((row for row in reversed(self.records.get(record.key, ())) if row.body == record), None)
        run = Run(record, entry.sequence if entry is not None else self.before)
        if entry is None:
            return replace(run, refusal="the ledger does not hold it")
        try:
            return self._credited(run, entry, record, self._opened(entry, record, "link")[1])
        except TrustError as error:
            return replace(run, refusal=str(error))

    def _reproduced(self, record: Record) -> list[Run]:
        return [self._judge(entry, body, record) for entry, body in self._entries(record)]

    def _judge(self, entry: Entry, body: Reproduction, record: Record) -> Run:
        run = Run(body, entry.sequence)
        try:
            link, signer = self._opened(entry, body, "link")
            run = replace(run, signer=signer.name)
            provenance, other = self._opened(entry, body, "provenance")
            if signer.key != other.key:
                raise TrustError("two keys signed its link and its provenance")
            expected = self._expected(entry, body, record)
            for name, said in (("link", link), ("provenance", provenance)):
                if said != expected.get(name, said):
                    raise TrustError(f"what was signed as its {name} is not what follows from the record and its artifacts")
            return self._credited(run, entry, body, signer)
        except TrustError as error:
            return replace(run, refusal=str(error))

    def _credited(self, run: Run, entry: Entry, body: Record | Reproduction, signer: Signer) -> Run:
        """The run with who it counts for; raises TrustError where it counts for nobody."""
        run = replace(run, signer=signer.name)
        if signer.key.keyid in self.withdrawn:
            raise TrustError("its key is withdrawn")
        who = self._functionary(self.history.authority(entry.sequence), body.step, signer)
        if who is None:
            raise TrustError("its key signs weights, and stands for no functionary")
        return replace(run, functionary=who)

    def _expected(self, entry: Entry, body: Reproduction, record: Record) -> Mapping[str, bytes]:
        """What has to be signed; raises TrustError where it is no reproduction of this record."""
        rows = [row for row in self.records.get(record.key, ()) if row.digest == body.record and row.sequence < entry.sequence]
        named = next((row.body for row in rows if isinstance(row.body, Record)), None)
        if named is None:
            raise TrustError("it names no record of this step key that the ledger held before it")
        if (body.key, body.step, body.step_id) != (named.key, named.step, named.step_id):
            raise TrustError("it is about another step than the record that it names")
        if not body.products == named.products == record.products:
            raise TrustError("it made other products than the record has")
        producers = self.producers(named)
        if producers is None:
            raise TrustError(f"commit {named.commit[:12]} of the record that it names cannot be read")
        whole = all(digest in self.manifests for digest in (*named.inputs.values(), *named.products.values()))
        return reproduction_payloads(body, named, self.manifests if whole else None, producers)

    def _opened(self, entry: Entry, body: Record | Reproduction, name: str) -> tuple[bytes, Signer]:
        """An attestation and its signer, valid when the ledger's order, and the time stamp if there is one, say it signed."""
        sealed = self.attestations.get(body.attestations.get(name, ""))
        if sealed is None:
            raise TrustError(f"it has no {name}")
        authority = self.history.authority(entry.sequence)
        role, moment = authority.role_of(body.step), self.history.moment(entry.sequence, claimed_moment(body))
        try:
            found = opened_by(sealed, authority.signers(role, moment), name)
            stamp = moment_of(name, body.attestations, sealed, signature_in, self.attestations, self.history, entry.sequence)
            if stamp is not None:
                unseal(sealed, authority.signers(role, stamp), name)
        except TrustError as error:
            raise TrustError(str(error).removeprefix(f"{name}: ")) from error
        return found


def _is_said_again(run: Run, other: Run) -> bool:
    """Whether an entry repeats what was counted, to list another link beside it."""
    one, before = run.body, other.body
    if not isinstance(one, Reproduction) or not isinstance(before, Reproduction) or other.refusal is not None:
        return False
    return run.refusal is None and digest_of_reproduction(one) == digest_of_reproduction(before)
