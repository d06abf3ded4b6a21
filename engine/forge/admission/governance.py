"""What the supply chain in force asks of a release, beside that its chain of records holds.

1. Authority: the commit's own supply chain is the one that the root signed, it has not expired, and when it was signed it
   outlived what its commit keeps (``retention.days``), as far as that commit is here.
2. Layout: the chain has a shape that is listed, and the links that were signed for it are those of its records.
3. Approvals: enough people approved these weights, with this verdict, for this environment; where approvals cover releases,
   under this policy and with these engine settings.
4. Order: the pointer moves to a commit that descends from the one before; rolling back is a commit too.
5. Pre-registration: the thresholds stood there before these weights were first measured (``registration``).
"""

import datetime
from collections.abc import Iterator

from forge.admission.approvals import judge_approvals
from forge.admission.evidence import Evidence
from forge.admission.history import History
from forge.admission.registration import judge_registration, tell_measured
from forge.admission.verdict import Check, Finding, Rule
from forge.attest.authority import Authority
from forge.attest.delegation import expires_too_soon
from forge.attest.envelope import unseal
from forge.attest.layout import chain_links, chain_of, shape_of
from forge.canonical import digest_of_json
from forge.contract.charter import Charter
from forge.contract.kinds import StepKind
from forge.contract.record import Delegation, Release
from forge.errors import TrustError
from forge.plan.approvals import tally

Judgement = Finding | Check


def judge_governance(release: Release, evidence: Evidence, history: History, now: datetime.datetime) -> list[Judgement]:
    """Everything that the supply chain in force at a release asks of it; nothing where none is."""
    sequence = evidence.sequence(release)
    authority = history.authority(sequence)
    place = f"release of {release.environment}"
    if authority.charter is None:
        if evidence.charters.get(release.commit) is None:
            return []
        message = f"commit {release.commit} has a SupplyChain that the root has not signed: `forge keys delegate`"
        return [Finding(Rule.AUTHORITY, place, message)]
    return [
        *_commit_agrees(place, release, evidence, authority.charter),
        *history.expired(sequence, now),
        *_outlives_retention(authority.charter, evidence, history.delegation(sequence)),
        *_judge_layout(place, release, evidence, history, authority),
        *_judge_approvals(place, release, evidence, history, authority),
        *_judge_order(place, release, evidence),
        *(judge_registration(release, evidence) if authority.charter.supply_chain.release.preregistered else ()),
        *tell_measured(evidence),
    ]


def _commit_agrees(place: str, release: Release, evidence: Evidence, charter: Charter) -> Iterator[Judgement]:
    asked = evidence.charters.get(release.commit)
    if asked is None or digest_of_json(asked) != charter.digest:
        found = "none" if asked is None else f"{digest_of_json(asked)}"
        message = f"commit {release.commit} has the supply chain {found}, and the root signed {charter.digest}"
        yield Finding(Rule.AUTHORITY, place, message)


def _outlives_retention(charter: Charter, evidence: Evidence, delegation: Delegation | None) -> Iterator[Judgement]:
    """What was signed by an engine that did not hold the root to it (statements 1) stays valid."""
    if delegation is None or delegation.statements == 1 or evidence.retention_days is None:
        return
    too_soon = expires_too_soon(charter, datetime.datetime.fromisoformat(delegation.signed), evidence.retention_days)
    if too_soon is not None:
        yield Finding(Rule.AUTHORITY, f"delegation {delegation.version}", too_soon)


def _judge_layout(
    place: str, release: Release, evidence: Evidence, history: History, authority: Authority
) -> Iterator[Judgement]:
    graph = evidence.graphs.get(release.commit, {})
    step = graph.get(f"{StepKind.RELEASE}/{release.deployment}")
    if step is None or authority.charter is None:
        return  # that the commit asks for no such release is a finding of its own
    try:
        chain = chain_of(step, graph, evidence.records.get, release.key)
        shape = shape_of(done.step for done in chain)
        listed = authority.charter.supply_chain.shapes
        if shape is None or shape not in listed:
            kinds = ", ".join(sorted({done.step.kind.value for done in chain}))
            message = (
                f"a chain of {kinds} has {f'the shape {shape}' if shape else 'no known shape'}; listed: {', '.join(listed)}"
            )
            yield Finding(Rule.LAYOUT, place, message)
            return
        links = chain_links(chain, evidence.manifests)
    except TrustError as error:
        yield Finding(Rule.LAYOUT, place, str(error))
        return
    except KeyError as error:  # what cannot be made again is not taken for what was signed
        message = f"its links cannot be made again without the artifact {error.args[0]}, which is lost or damaged"
        yield Finding(Rule.LAYOUT, place, message)
        return
    moment = history.moment(evidence.sequence(release), release.moved)
    faults = 0
    for kind, payload in links.items():
        name = f"chain-{kind.value}"
        sealed = evidence.attestations.get(release.attestations.get(name, ""))
        try:
            if sealed is None:
                raise TrustError("the release carries no such link")
            if unseal(sealed, authority.signers(authority.role_of(kind), moment), name) != payload:
                raise TrustError("what was signed is not what the chain's records and artifacts say")
        except TrustError as error:
            faults += 1
            yield Finding(Rule.LAYOUT, f"{place} {name}", str(error).removeprefix(f"{name}: "))
    if not faults:
        yield Check(Rule.LAYOUT, f"{len(links)} signed links, one for each kind of step, fit the layout {shape}")


def _judge_approvals(
    place: str, release: Release, evidence: Evidence, history: History, authority: Authority
) -> Iterator[Judgement]:
    needed = authority.charter.supply_chain.release.approvals.get(release.environment, 0) if authority.charter else 0
    record = evidence.records.get(release.key)
    if not needed or record is None:
        return
    named = [entry for entry in evidence.entries if entry.digest in release.approvals]
    sequence = evidence.sequence(release)
    given = judge_approvals(named, evidence.attestations, history, sequence, evidence.authors, evidence.parts)
    weights, verdict = record.inputs.get("weights", ""), record.inputs.get("verdict")
    covers = authority.charter.supply_chain.release.approvals_cover if authority.charter else "model"
    asked = release.key if covers == "release" else None
    found = tally(given, f"release/{release.environment}", weights, verdict, needed, asked)
    if found.suffices:
        yield Check(Rule.APPROVAL, f"approved by {', '.join(item.person for item in found.counted)}")
        return
    elsewhere = sum(1 for item in given if (item.digest, item.verdict) != (weights, verdict))
    about = f"; {elsewhere} of what it names is about another model, verdict or environment" if elsewhere else ""
    message = f"{found}{about}: `forge approve release/{release.environment}` gives one"
    yield Finding(Rule.APPROVAL, place, message)


def _judge_order(place: str, release: Release, evidence: Evidence) -> Iterator[Judgement]:
    if evidence.goes_back_from is not None:
        message = (
            f"it moves the pointer from commit {evidence.goes_back_from} to {release.commit}, which does not descend from it: "
            "to roll back, revert in a commit"
        )
        yield Finding(Rule.ORDER, place, message)
