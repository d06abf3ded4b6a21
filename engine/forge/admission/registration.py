"""Thresholds are set before the figures are known; and what was measured of some weights before is told.

1. What counts is the first measuring of these very weights by a suite: the first evaluation in the ledger that its role
   signed. Measuring again makes no threshold older. A suite is the same by its name (those that it had before, too), or where
   the evaluation has the same key.
2. Thresholds may be tightened and added since; one that was loosened or left out refuses the release.
3. What stood there is what the first measuring's commit asked of the release's environment. Where it did not ask that
   environment about the suite, nothing laxer counts than the strictest that any environment of that commit asked for: an
   environment that is added afterwards, under any name, promises nothing about the figures.
4. Every measuring of these weights, and every verdict on one, is told: whoever measures often enough passes at last.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from forge.admission.collect import collect_graph
from forge.admission.evidence import Evidence, Measured, signers_of
from forge.admission.history import History
from forge.admission.verdict import Check, Finding, Rule
from forge.attest.envelope import unseal
from forge.attest.statements import VERIFICATION_RESULT, digest_of_record, statement_name
from forge.canonical import hex_of
from forge.contract.kinds import StepKind
from forge.contract.record import Record, Release
from forge.errors import LedgerError, TrustError
from forge.ledger.snapshot import Snapshot
from forge.plan.step import Step
from forge.repo.repository import Repository

_Bounds = dict[tuple[str, str, str], float]
"""By task, metric and side: the threshold."""


def collect_measured(
    repository: Repository, snapshot: Snapshot, evidence: Evidence, history: History, release: Release
) -> None:
    """Add every evaluation of a release's weights that its role signed, and every gate's verdict on one of them."""
    released = evidence.records.get(release.key)
    weights = released.inputs.get("weights") if released is not None else None
    found: list[Measured] = []
    reports: set[str] = set()
    before = evidence.sequence(release)
    for entry in evidence.entries:
        record = entry.body
        if not isinstance(record, Record) or entry.sequence >= before:
            continue
        if record.step is StepKind.EVALUATE and record.inputs.get("weights") == weights:
            if _signed(record, statement_name(record.step), snapshot, evidence, history) is not None:
                found.append(Measured(entry.sequence, record))
                reports |= set(record.products.values())
        elif record.step is StepKind.GATE and not reports.isdisjoint(record.inputs.values()):
            if record.about and weights not in record.about.values():
                continue  # another model gave the same report
            link = _signed(record, statement_name(record.step), snapshot, evidence, history)
            if link is not None:
                found.append(Measured(entry.sequence, record, _decision(record, snapshot, evidence, history)))
    evidence.measured = tuple(found)
    for commit in dict.fromkeys(item.record.commit for item in _firsts(found)):
        collect_graph(repository, commit, evidence)


def judge_registration(release: Release, evidence: Evidence) -> Iterator[Finding | Check]:
    """Whether the thresholds of a release's gates stood there before its weights were measured (rules 1 to 3)."""
    for gate in evidence.records.values():
        if gate.step is not StepKind.GATE:
            continue
        for index, rules in enumerate(gate.parameters.get("gates", [])):
            report, suite = gate.inputs.get(f"report-{index}"), str(rules.get("suite"))
            runs = [record for record in evidence.records.values() if report in record.products.values()]
            first = _first([run for run in runs if run.step is StepKind.EVALUATE], suite, evidence)
            if first is None:
                yield Finding(Rule.PREREGISTERED, gate.step_id, f"no recorded evaluation of these weights by {suite} holds")
                continue
            place = f"entry {first.sequence}, commit {first.record.commit[:12]}"
            loosened = list(_loosened(_stood(release.environment, first.record, evidence), _bounds([rules])))
            if loosened:
                message = (
                    f"its thresholds for {suite} were loosened after these weights were first measured ({place}): "
                    f"{'; '.join(loosened)}. Measuring again changes nothing: keep what stood there, or train another model"
                )
                yield Finding(Rule.PREREGISTERED, gate.step_id, message)
            else:
                yield Check(Rule.PREREGISTERED, f"the thresholds for {suite} stood there before it was measured")


def tell_measured(evidence: Evidence) -> Iterator[Check]:
    """What was measured of these weights and decided on it, where there is more than one of either (rule 4)."""
    measured = [item for item in evidence.measured if item.record.step is StepKind.EVALUATE]
    decided = [item for item in evidence.measured if item.record.step is StepKind.GATE]
    if len(measured) > 1:
        rows = ", ".join(f"{item.record.step_id} (entry {item.sequence}, {item.record.finished})" for item in measured)
        yield Check(Rule.PREREGISTERED, f"these weights were measured {len(measured)} times before: {rows}")
    if len(decided) > 1:
        rows = ", ".join(f"{item.decision or 'not told'} by {item.record.step_id} (entry {item.sequence})" for item in decided)
        yield Check(Rule.PREREGISTERED, f"verdicts on these weights before: {rows}")


def _signed(record: Record, name: str, snapshot: Snapshot, evidence: Evidence, history: History) -> Mapping[str, Any] | None:
    """A statement about this very record, as its role signed it; None where there is none."""
    digest = record.attestations.get(name, "")
    try:
        sealed = evidence.attestations.get(digest) or snapshot.attestation(digest)
        payload = unseal(sealed, signers_of(record, record.step, evidence, history), name)
        found = json.loads(payload)
    except (LedgerError, TrustError, ValueError):  # ValueError: what it lists is no digest
        return None
    is_about = hex_of(digest_of_record(record)).encode() in payload
    return found if is_about and isinstance(found, dict) else None


def _decision(gate: Record, snapshot: Snapshot, evidence: Evidence, history: History) -> str | None:
    found = _signed(gate, VERIFICATION_RESULT, snapshot, evidence, history)
    said = found.get("predicate", {}).get("urn:forge:verdict", {}).get("verdict") if found is not None else None
    return said if isinstance(said, str) else None


def _suite(record: Record) -> str:
    return f"EvalSuite/{record.step_id.rpartition('.')[2]}"


def _firsts(found: Iterable[Measured]) -> Sequence[Measured]:
    """The first measuring by each suite name and of each key: one of them is what thresholds are held against."""
    firsts: dict[str, Measured] = {}
    for item in found:
        if item.record.step is StepKind.EVALUATE:
            firsts.setdefault(_suite(item.record), item)
            firsts.setdefault(item.record.key, item)
    return list(firsts.values())


def _first(runs: Sequence[Record], suite: str, evidence: Evidence) -> Measured | None:
    names, keys = {suite}, {run.key for run in runs}
    for run in runs:
        step = evidence.graphs.get(run.commit, {}).get(run.step_id)
        names |= {_suite(run), *(f"EvalSuite/{each.rpartition('.')[2]}" for each in (step.previous_ids if step else ()))}
    found = [item for item in _firsts(evidence.measured) if _suite(item.record) in names or item.record.key in keys]
    return min(found, key=lambda item: item.sequence, default=None)


def _stood(environment: str, run: Record, evidence: Evidence) -> _Bounds:
    """What the commit of an evaluation asked of an environment about its suite; of another one, the strictest that it asked."""
    steps = evidence.graphs.get(run.commit, {})
    deployed = [step for step in steps.values() if step.kind is StepKind.RELEASE and step.environment == environment]
    own = [rules for step in deployed for rules in _rules(steps.get(f"{StepKind.GATE}/{step.name}"), run)]
    return _bounds(own or [rules for step in steps.values() for rules in _rules(step, run)])


def _rules(step: Step | None, run: Record) -> Sequence[Mapping[str, Any]]:
    if step is None or step.kind is not StepKind.GATE:
        return ()
    return [rules for rules in step.parameters.get("gates", []) if rules.get("suite") == _suite(run)]


def _bounds(gates: Iterable[Mapping[str, Any]]) -> _Bounds:
    """The strictest of the thresholds of some gates for one suite."""
    found: _Bounds = {}
    for rules in gates:
        for threshold in rules.get("thresholds", []):
            for side, stricter in (("min", max), ("max", min)):
                value = threshold.get(side)
                if value is not None:
                    place = (str(threshold.get("task")), str(threshold.get("metric")), side)
                    found[place] = stricter(found.get(place, value), value)
    return found


def _loosened(before: _Bounds, now: _Bounds) -> Iterator[str]:
    if not before:
        yield "no gate for it stood there"
    for (task, metric, side), value in before.items():
        found = now.get((task, metric, side))
        if found is None or (found < value if side == "min" else found > value):
            is_now = "none" if found is None else f"{side} {found:g}"
            yield f"{task} {metric} had {side} {value:g}, and has {is_now}"
