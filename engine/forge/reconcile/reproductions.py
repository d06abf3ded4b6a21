"""The runs behind what a commit would release, read from the ledger: what planning and ``forge reproduce`` count.

The decision is admission's (``admission.reproductions``). Here nothing is hashed: whether records and bytes hold is asked when
the pointer moves.
"""

from collections.abc import Iterable, Mapping

from forge.admission.reproductions import Runs
from forge.attest.layout import Done, chain_links, recorded_behind, steps_behind
from forge.contract.kinds import StepKind
from forge.contract.manifest import Manifest
from forge.contract.record import Record
from forge.errors import ForgeError, StoreError, TrustError
from forge.ledger.entry import Entry, key_folder, reproduction_folder
from forge.ledger.ledger import Snapshot
from forge.plan.graph import build_graph
from forge.plan.reproductions import Count
from forge.plan.step import Step, producers_of
from forge.plan.withdrawn import KEY
from forge.reconcile.approvals import read_trusted, trust_of
from forge.reconcile.place import Place
from forge.repo.desired import read_desired
from forge.repo.tree import CommitTree


def release_counts(place: Place, snapshot: Snapshot) -> dict[str, tuple[Count, ...]]:
    """By environment: what the thresholds ask of its release, as far as everything behind it is recorded."""
    graph = build_graph(place.desired)
    found: dict[str, tuple[Count, ...]] = {}
    for step in graph.values():
        if step.kind is StepKind.RELEASE and step.environment is not None:
            behind = recorded_behind(step, graph, snapshot.record)
            chain = [done for done in behind.values() if done.step.id != step.id]
            if len(chain) == len(steps_behind(step, graph)) - 1:
                found[step.environment] = tuple(_counts(place, snapshot, chain))
    return found


def runs_here(place: Place, snapshot: Snapshot, records: Iterable[Record]) -> Runs:
    """The runs of some records, as of now; raises TrustError where no root is pinned or what it signed does not hold."""
    keys = dict.fromkeys(record.key for record in records)
    recorded = {key: snapshot.entries_in(key_folder(key)) for key in keys}
    reproduced = {key: snapshot.entries_in(reproduction_folder(key)) for key in keys}
    entries: list[Entry] = [entry for rows in (*recorded.values(), *reproduced.values()) for entry in rows]
    attestations, history = read_trusted(place, snapshot, trust_of(snapshot), entries)
    digests = {
        digest
        for entry in entries
        if isinstance(entry.body, Record)
        for digest in (*entry.body.inputs.values(), *entry.body.products.values())
    }
    return Runs(
        history,
        snapshot.head[0] + 1,
        attestations,
        manifests_of(place, digests),
        _Producers(place),
        recorded,
        reproduced,
        withdrawn_keys(place, snapshot),
    )


def withdrawn_keys(place: Place, snapshot: Snapshot) -> frozenset[str]:
    """The ids of keys that the commit or the ledger says are withdrawn."""
    withdrawn = {item.subject for item in place.desired.withdrawn}
    withdrawn |= {subject for subject, item in snapshot.withdrawals().items() if not item.lifted}
    return frozenset(subject.removeprefix(KEY) for subject in withdrawn if subject.startswith(KEY))


def links_of(place: Place, chain: Iterable[Done]) -> dict[StepKind, bytes]:
    """The links of a chain, by kind; none where an artifact of it is lost."""
    chain = list(chain)
    digests = {each for done in chain for each in (*done.record.inputs.values(), *done.record.products.values())}
    try:
        return chain_links(chain, manifests_of(place, digests))
    except (KeyError, TrustError):
        return {}


def manifests_of(place: Place, digests: Iterable[str]) -> dict[str, Manifest]:
    """The manifests of artifacts, by digest; those that cannot be read are left out."""
    found = {}
    for digest in digests:
        try:
            found[digest] = place.store.manifest(digest)
        except StoreError:
            continue
    return found


def _counts(place: Place, snapshot: Snapshot, chain: list[Done]) -> list[Count]:
    runs = runs_here(place, snapshot, (done.record for done in chain))
    links = links_of(place, chain)

    def own(kind: StepKind) -> str | None:
        """Whoever applies has the keys by which the steps were recorded; on other machines the plan is to be the same."""
        signed = runs.links(kind, links[kind], chain)
        return next((who for who in runs.recorders(kind, chain) if who not in signed), None)

    return runs.counts(chain, links, own)


class _Producers:
    """Where the inputs of a record come from, as its commit has it; commits are read once."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._graphs: dict[str, Mapping[str, Step]] = {}

    def __call__(self, record: Record) -> Mapping[str, str] | None:
        step = self._graph(record.commit).get(record.step_id)
        return producers_of(step) if step is not None else None

    def _graph(self, commit: str) -> Mapping[str, Step]:
        if commit not in self._graphs:
            here = self._place
            try:
                is_here = commit == here.desired.commit
                desired = here.desired if is_here else read_desired(CommitTree(here.repository, commit))
                self._graphs[commit] = build_graph(desired)
            except ForgeError:
                self._graphs[commit] = {}
        return self._graphs[commit]
