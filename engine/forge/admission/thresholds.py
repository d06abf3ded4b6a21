"""Whether what is verified was carried out by as many functionaries as the roles of its steps ask for. Pure.

A release answers to the supply chain in force when it was made, so only what the ledger held before it counts; the root signed
the threshold, and a commit cannot lower it. What is verified without a release asks for nothing: who carried it out is told.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping

from forge.admission.evidence import Evidence
from forge.admission.history import History
from forge.admission.reproductions import Link, Runs
from forge.admission.verdict import Check, Finding, Rule
from forge.admission.withdrawals import standing
from forge.attest.authority import Authority
from forge.attest.envelope import opened_by
from forge.attest.layout import Done, chain_links, chain_of
from forge.contract.kinds import StepKind
from forge.contract.record import Record, Release, Reproduction
from forge.errors import TrustError
from forge.ledger.entry import Entry
from forge.plan.step import producers_of
from forge.plan.withdrawn import KEY


def runs_in(evidence: Evidence, history: History, release: Release | None) -> Runs:
    """The runs of everything that was collected, as things stood before a release; at the ledger's end without one."""
    records: dict[str, list[Entry]] = defaultdict(list)
    reproductions: dict[str, list[Entry]] = defaultdict(list)
    for entry in evidence.entries:
        if isinstance(entry.body, Record):
            records[entry.body.key].append(entry)
        elif isinstance(entry.body, Reproduction):
            reproductions[entry.body.key].append(entry)

    def producers(record: Record) -> Mapping[str, str] | None:
        step = evidence.graphs.get(record.commit, {}).get(record.step_id)
        return producers_of(step) if step is not None else None

    withdrawn = (subject for subject in standing(evidence, history).in_force if subject.startswith(KEY))
    before = evidence.sequence(release) if release is not None else len(evidence.entries) + 1
    return Runs(
        history,
        before,
        evidence.attestations,
        evidence.manifests,
        producers,
        records,
        reproductions,
        frozenset(subject.removeprefix(KEY) for subject in withdrawn),
    )


def judge_thresholds(release: Release | None, evidence: Evidence, history: History) -> list[Finding | Check]:
    """What a release lacks, step by step; and who carried out what was carried out more than once."""
    charter = history.authority(evidence.sequence(release)).charter if release is not None else None
    asks = charter is not None and any(rules.threshold > 1 for rules in charter.supply_chain.roles.values())
    if not asks and not any(isinstance(entry.body, Reproduction) for entry in evidence.entries):
        return []
    runs = runs_in(evidence, history, release)
    judged: list[Finding | Check] = list(_told(runs, evidence))
    if release is not None:
        judged += _judge_release(release, runs, evidence)
    return judged


def counted_links(release: Release, evidence: Evidence, history: History) -> dict[StepKind, list[Link]]:
    """The links by others than who signed the release's own, for the kinds of step that ask for several functionaries."""
    runs = runs_in(evidence, history, release)
    chain, payloads = _chain(release, runs.authority, evidence)
    return {kind: list(runs.links(kind, payload, chain).values()) for kind, payload in payloads.items()}


def _told(runs: Runs, evidence: Evidence) -> Iterator[Check]:
    for record in sorted(evidence.records.values(), key=evidence.sequence):
        if runs.reproductions.get(record.key):
            counted = [str(run) for run in runs.of(record) if run.refusal is None]
            refused = [f"{run} does not count: {run.refusal}" for run in runs.of(record) if run.refusal is not None]
            message = f"{record.step_id} was carried out by {len(counted)}: {', '.join(counted)}"
            yield Check(Rule.THRESHOLD, "; ".join([message, *refused]))


def _chain(release: Release, authority: Authority, evidence: Evidence) -> tuple[list[Done], dict[StepKind, bytes]]:
    """The steps behind a release, and the links of the kinds whose role has a threshold; nothing where there is no chain."""
    graph = evidence.graphs.get(release.commit, {})
    step = graph.get(f"{StepKind.RELEASE}/{release.deployment}")
    asking = {kind for kind in StepKind if authority.charter is not None and authority.threshold(kind) > 1}
    if step is None or not asking:
        return [], {}
    try:
        chain = chain_of(step, graph, evidence.records.get, release.key)
        links = chain_links(chain, evidence.manifests)
    except (TrustError, KeyError):  # both are findings of the layout
        return [], {}
    return chain, {kind: payload for kind, payload in links.items() if kind in asking}


def _judge_release(release: Release, runs: Runs, evidence: Evidence) -> Iterator[Finding | Check]:
    chain, payloads = _chain(release, runs.authority, evidence)
    counts = runs.counts(chain, payloads, lambda kind: _own(kind, release, runs, evidence))
    for count in counts:
        if not count.suffices:
            yield Finding(Rule.THRESHOLD, f"release of {release.environment}", str(count))
    if counts and all(count.suffices for count in counts):
        listed = ", ".join(f"{count.about} by {len(count.counted)} of {count.needed}" for count in counts)
        yield Check(Rule.THRESHOLD, f"as often carried out as their roles ask for: {listed}")


def _own(kind: StepKind, release: Release, runs: Runs, evidence: Evidence) -> str | None:
    """Whose link of a kind the release itself carries; one that does not hold is a finding of the layout."""
    name, role = f"chain-{kind}", runs.authority.role_of(kind)
    sealed = evidence.attestations.get(release.attestations.get(name, ""))
    if sealed is None:
        return None
    try:
        signers = runs.authority.signers(role, runs.history.moment(runs.before, release.moved))
        return runs.authority.functionaries(role).get(opened_by(sealed, signers, name)[1].key.keyid)
    except TrustError:
        return None
