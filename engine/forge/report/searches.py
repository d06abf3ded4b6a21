"""What a reviewer is told of a search: by which figure it chose, every trial with its values, and which one was picked."""

from collections.abc import Iterator

from pydantic import ValidationError

from forge.contract.hyperparameters import HYPERPARAMETERS, HYPERPARAMETERS_FILE, Pick
from forge.contract.kinds import StepKind
from forge.contract.record import Record
from forge.contract.search import best_of, score_of
from forge.contract.verdict import REPORT_FILE, Report
from forge.report.facts import Facts, shown
from forge.report.model import Fact, Section


def searches(facts: Facts) -> tuple[Section, ...]:
    """One for each search of the chain."""
    picks = (record for record in facts.records(StepKind.SWEEP) if record.parameters.get("pick") == Pick.BEST)
    return tuple(_search(facts, record) for record in picks if facts.holds(record))


def chosen(facts: Facts, record: Record) -> tuple[Fact, ...]:
    """The values that a search chose for a training; nothing for one that no search chose anything of."""
    if HYPERPARAMETERS not in record.inputs:
        return ()
    return (facts.proved("Hyperparameters that a search chose", _values(facts, record.inputs[HYPERPARAMETERS]), record),)


def measured_by_searches(facts: Facts) -> frozenset[str]:
    """The reports that searches chose by, as far as no gate reads them."""
    read = {
        step: {digest for record in facts.records(step) for digest in record.inputs.values()}
        for step in (StepKind.SWEEP, StepKind.GATE)
    }
    return frozenset(read[StepKind.SWEEP] - read[StepKind.GATE])


def _search(facts: Facts, record: Record) -> Section:
    objective = record.parameters["objective"]
    count = sum(name.startswith("report-") for name in record.inputs)
    reports = [_report(facts, record.inputs[f"report-{number}"]) for number in range(count)]
    known = [report for report in reports if report is not None]
    best = best_of(known, objective) if len(known) == count else None
    name = f"{objective['task']} {objective['metric']}"
    spent = [each for each in facts.records(StepKind.TRAIN) if each.products.get("weights") in facts.beside]
    spent = [each for each in spent if each.subject == record.subject]
    flops = sum(float(each.metrics.get("flops", 0)) for each in spent)
    picked = None if best is None else f"trial {best[0]}, {name} {shown(best[1])}"
    return Section(
        f"Search for {record.subject}",
        (
            facts.proved("Chosen by", f"{name}, {objective['direction']}d", record),
            *_trials(facts, record, reports),
            facts.proved("Picked", picked, record),
            facts.proved("Trained for trials that were not picked", f"{len(spent)} trainings, {flops:.3g} FLOPs", record),
        ),
    )


def _trials(facts: Facts, record: Record, reports: list[Report | None]) -> Iterator[Fact]:
    objective = record.parameters["objective"]
    for number, report in enumerate(reports):
        values = _values(facts, record.inputs[f"{HYPERPARAMETERS}-{number}"])
        score = None if report is None else score_of(report, objective)
        label = f"Trial {number}" if number else "Trial 0, the model as it is written"
        ended = None if report is None else report.diverged_at_step
        figure = f"diverged at step {ended}" if ended is not None else "no figure" if score is None else shown(score)
        told = None if values is None else f"{values}: {figure}"
        yield facts.proved(label, told, _maker(facts, record.inputs[f"report-{number}"]))


def _maker(facts: Facts, digest: str) -> Record | None:
    return next(iter(facts.examined.evidence.makers.get(digest, ())), None)


def _values(facts: Facts, digest: str) -> str | None:
    """The values of the fields that were searched, in words; None where their file is not to be believed."""
    maker = _maker(facts, digest)
    document = None if maker is None else facts.document(maker, HYPERPARAMETERS, HYPERPARAMETERS_FILE)
    return None if document is None else shown(document.get("values", {}))


def _report(facts: Facts, digest: str) -> Report | None:
    maker = _maker(facts, digest)
    document = None if maker is None else facts.document(maker, "report", REPORT_FILE)
    try:
        return None if document is None else Report.model_validate(document)
    except ValidationError:  # the rule `sweep` says so
        return None
