"""Searches: the best trial is picked once more, and what was drawn for the others may have been drawn.

That each report is about a training with the values of its trial is a matter of the materials (``rules``): every input is a
product of a step that the commit asks for. What is left is what the sweep steps themselves decide: the first trial has the
values that are written, a point of a grid is that point, a draw lies in its space, and what was picked is the best of them.
"""

from collections.abc import Collection, Iterable, Iterator

from pydantic import ValidationError

from forge.admission.closure import Closure
from forge.admission.evidence import Evidence
from forge.admission.history import History
from forge.admission.rules import record_holds
from forge.admission.verdict import Check, Finding, Rule
from forge.contract.hyperparameters import HYPERPARAMETERS, Hyperparameters, Pick
from forge.contract.kinds import StepKind
from forge.contract.record import Record
from forge.contract.search import best_of, why_not_chosen
from forge.contract.verdict import Report


def beside_the_best(roots: Iterable[Record], records: Collection[Record], closure: Closure) -> set[str]:
    """The weights that nothing but a search's choice rests on: they were measured, and another trial's were taken.

    Args:
        roots: what is verified.
        records: all that they descend from, and themselves.
        closure: how they were found.
    """
    if not closure.chosen:
        return set()
    needed: dict[str, Record] = {}
    pending = list(roots)
    while pending:
        record = pending.pop()
        if record.key not in needed and record.step is not StepKind.SWEEP:
            needed[record.key] = record
            for name, digest in record.inputs.items():
                pending += closure.made(record, name, digest)
    others = [record for record in records if record.key not in needed]
    used = {digest for record in needed.values() for digest in (*record.inputs.values(), *record.products.values())}
    trained = (record.products.get("weights") for record in others if record.step is StepKind.TRAIN)
    return {digest for digest in trained if digest is not None} - used


def judge_searches(evidence: Evidence, history: History) -> Iterator[Finding | Check]:
    """Whether each search of the chain picked its best trial, and what was drawn for the trials may have been drawn.

    A record that does not hold is a finding of its own, and nothing that it says is looked at: it may say anything.
    """
    for record in evidence.records.values():
        if record.step is StepKind.SWEEP and record_holds(record, evidence, history):
            try:
                yield from _judge_choice(record, evidence)
                if record.parameters["pick"] == Pick.BEST:
                    yield _judge(record, evidence)
            except ValidationError as error:
                yield Finding(Rule.SWEEP, record.step_id, f"what it read or made is no report, or no choice of values: {error}")
    if evidence.beside:
        told = f"the weights of {len(evidence.beside)} trials that were not picked are not hashed"
        yield Check(Rule.SWEEP, f"{told}; what was signed about them is verified")


def _judge_choice(record: Record, evidence: Evidence) -> Iterator[Finding]:
    """Whether a step chose what its parameters allow: Optuna's draws are not made again, but they lie where they may."""
    digest = record.products[HYPERPARAMETERS]
    if digest not in evidence.documents:
        return  # its bytes are a finding of their own
    values = Hyperparameters.model_validate_json(evidence.documents[digest]).values
    fault = why_not_chosen(values, record.parameters)
    if fault is not None:
        yield Finding(Rule.SWEEP, record.step_id, fault)


def _judge(record: Record, evidence: Evidence) -> Finding | Check:
    count = sum(name.startswith("report-") for name in record.inputs)
    digests = [record.inputs[f"report-{number}"] for number in range(count)]
    missing = next((digest for digest in digests if digest not in evidence.documents), None)
    if missing is not None:
        return Finding(Rule.SWEEP, record.step_id, f"the report {missing} of one of its trials could not be read")
    objective = record.parameters["objective"]
    best = best_of([Report.model_validate_json(evidence.documents[digest]) for digest in digests], objective)
    if best is None:
        return Finding(Rule.SWEEP, record.step_id, "none of its trials has a figure, and it picked one all the same")
    number, score = best
    name = f"{objective['task']} {objective['metric']}"
    expected, found = record.inputs[f"{HYPERPARAMETERS}-{number}"], record.products[HYPERPARAMETERS]
    if expected != found:
        message = f"the best of its {count} trials is trial {number} ({name} {score:g}), and it picked other values ({found})"
        return Finding(Rule.SWEEP, record.step_id, message)
    return Check(Rule.SWEEP, f"{record.step_id} picked the best of {count} trials: trial {number}, {name} {score:g}")
