"""The fields that the EU AI Act asks a provider for: Annex XI sections 1 and 2, and the summary of Article 53(1)(d).

Regulation (EU) 2024/1689, Annex XI; the template for the public summary of training content (European Commission, July 2025).
Each field is proved by the chain, declared in a spec, or missing. What no spec field holds is declared by an annotation of the
Model, ``ai-act/NAME`` (``DECLARED``): its text is repeated word for word and nothing is concluded from it.
"""

from collections.abc import Mapping

from forge.contract.kinds import StepKind
from forge.contract.record import Record
from forge.report.bases import (
    adapted_text,
    architecture_of,
    base_text,
    chats_behind,
    folder_of,
    parameters_text,
    whole_flops,
)
from forge.report.facts import Facts, shown
from forge.report.model import DataSheet, Evidence, Fact, Measurement, Section, Standing
from forge.spec.resource import DataRecipe, Model

PREFIX = "ai-act/"
DECLARED: Mapping[str, str] = {
    "provider": "who places the model on the market, and how to reach them",
    "tasks": "the tasks that the model is meant for, and the systems that it may be part of",
    "acceptable-use": "the acceptable use policy",
    "distribution": "how the model reaches its users",
    "licence": "the licence of the model",
    "integration": "what it takes to integrate the model: instructions, infrastructure, tools",
    "design-rationale": "the key design choices, their reasons and assumptions, and what the training optimises",
    "data-selection": "how the data was obtained and selected, and its main characteristics",
    "bias-measures": "how unsuitable sources and biases were looked for",
    "energy": "energy consumed, known or estimated, and how",
    "adversarial-testing": "adversarial testing, and what was changed after it",
    "system-architecture": "how the parts of the system build on each other",
    "opt-outs": "how reservations of rights (text and data mining) were respected",
    "illegal-content": "how illegal content was kept out of the data",
    "crawlers": "which crawlers collected data, and when",
    "user-data": "whether data of users was trained on",
    "synthetic-data": "whether data that a model made was trained on",
}
"""Annotation of a Model, without the prefix -> what to write there."""
_BANDS = ((1e9, "less than 1 billion tokens"), (1e13, "1 billion to 10 trillion tokens"))
_GENERAL_PURPOSE, _SYSTEMIC = 1e23, 1e25


def act_sections(facts: Facts, sheets: tuple[DataSheet, ...], measured: tuple[Measurement, ...]) -> tuple[Section, ...]:
    """All fields, by the part of the Act that asks for them."""
    trained = facts.records(StepKind.TRAIN)
    served = [record for record in facts.records(StepKind.RELEASE) if record.key == facts.release.key]
    weights = served[0].inputs.get("weights") if served else None
    found = [record for record in trained if record.products.get("weights") == weights]
    record = found[0] if found else None
    return (
        Section("Annex XI, section 1 (1): general description", _general(facts, record)),
        Section("Annex XI, section 1 (2): design, data and training", _detailed(facts, record, sheets)),
        Section("Annex XI, section 2: evaluation and adaptation", _evaluated(facts, record, measured)),
        Section("Article 53 (1)(d): summary of the training content", _summary(facts, record, sheets)),
    )


def unknown_annotations(facts: Facts) -> list[str]:
    """Annotations that look like one of ours and are none: they would be ignored without a word."""
    if facts.desired is None:
        return []
    return [
        f"{address}: annotation {name} is no field of this report; known: {', '.join(PREFIX + each for each in DECLARED)}"
        for address in facts.desired.compiled
        for name in facts.desired.resources[address].metadata.annotations
        if name.startswith(PREFIX) and (name.removeprefix(PREFIX) not in DECLARED or not address.startswith("Model/"))
    ]


def _said(facts: Facts, label: str, record: Record | None, name: str) -> Fact:
    """What an annotation of the Model declares."""
    address = record.subject if record is not None else "Model"
    model = facts.resource(address)
    text = model.metadata.annotations.get(PREFIX + name, "") if isinstance(model, Model) else ""
    return facts.said(label, text, address, f"annotate {address} with `{PREFIX}{name}`: {DECLARED[name]}")


def _general(facts: Facts, record: Record | None) -> tuple[Fact, ...]:
    release = facts.release
    moved = facts.attested(f"release/{release.environment}", "release")
    return (
        _said(facts, "Provider", record, "provider"),
        _said(facts, "Intended tasks and systems", record, "tasks"),
        _said(facts, "Acceptable use", record, "acceptable-use"),
        Fact("Date of release", release.moved, Standing.PROVED, moved)
        if moved
        else Fact("Date of release", None, Standing.MISSING, remedy="the release is not signed"),
        _said(facts, "Distribution", record, "distribution"),
        facts.proved("Architecture", architecture_of(facts, record), record),
        facts.proved("Number of parameters", parameters_text(record) if record else None, record),
        facts.proved(
            "Modality of input and output",
            "text in, text out (a causal language model)" if record else None,
            record,
        ),
        _said(facts, "Licence of the model", record, "licence"),
    )


def _detailed(facts: Facts, record: Record | None, sheets: tuple[DataSheet, ...]) -> tuple[Fact, ...]:
    metrics = record.metrics if record else {}
    training = record.parameters.get("training") if record else None
    flops = metrics.get("flops")
    return (
        _said(facts, "Means of integration", record, "integration"),
        facts.proved("Training process and hyperparameters", training, record),
        _said(facts, "Design choices and rationale", record, "design-rationale"),
        _provenance(facts, record, sheets),
        _curation(sheets),
        _points(sheets),
        _said(facts, "How the data was obtained and selected", record, "data-selection"),
        _said(facts, "Unsuitable sources and biases", record, "bias-measures"),
        facts.proved("Floating-point operations", _compared(flops, facts, record), record),
        facts.proved("Training time", f"{record.actual.seconds:,.0f} s" if record else None, record),
        _said(facts, "Energy", record, "energy"),
    )


def _evaluated(facts: Facts, record: Record | None, measured: tuple[Measurement, ...]) -> tuple[Fact, ...]:
    results = "; ".join(
        f"{item.task} {item.metric} {shown(item.value)}" + (f" ({item.bound} {shown(item.threshold)})" if item.bound else "")
        for item in measured
        if item.value is not None
    )
    evidence = tuple(dict.fromkeys(each for item in measured for each in item.evidence))
    from_scratch = record is not None and record.continued is None
    adapted = "none: trained from scratch by this objective alone" if from_scratch else "continued from an earlier run"
    base = base_text(facts, record) if record is not None else None
    if record is not None and base is not None:
        adapted = adapted_text(facts, record, base)
    return (
        Fact("Evaluation results", results, Standing.PROVED, evidence)
        if results
        else Fact("Evaluation results", None, Standing.MISSING, remedy="no evaluation of this chain holds"),
        _said(facts, "Adversarial testing", record, "adversarial-testing"),
        facts.proved("Adaptation (alignment, fine-tuning)", adapted if record else None, record),
        _said(facts, "System architecture", record, "system-architecture"),
    )


def _summary(facts: Facts, record: Record | None, sheets: tuple[DataSheet, ...]) -> tuple[Fact, ...]:
    tokenized = facts.records(StepKind.TOKENIZE)
    tokens = [each.metrics.get("tokens_train") for each in tokenized if facts.holds(each)]
    known = [number for number in tokens if isinstance(number, int)]
    total = sum(known) if known and len(known) == len(tokenized) else None
    band = None
    if total is not None:
        band = next((text for limit, text in _BANDS if total < limit), "more than 10 trillion tokens")
    folder = folder_of(facts, record) if record is not None else None
    beside = f", without what the weights in {folder.path} were trained on" if folder else ""
    return (
        _said(facts, "Provider", record, "provider"),
        facts.proved(
            "Size of the training data (text)",
            f"{band} ({shown(total)}){beside}" if band else None,
            tokenized[0] if tokenized else None,
        ),
        _provenance(facts, record, sheets),
        _said(facts, "Crawled data", record, "crawlers"),
        _said(facts, "Data of users", record, "user-data"),
        _said(facts, "Synthetic data", record, "synthetic-data"),
        _said(facts, "Reservations of rights", record, "opt-outs"),
        _said(facts, "Illegal content", record, "illegal-content"),
    )


def _provenance(facts: Facts, record: Record | None, sheets: tuple[DataSheet, ...]) -> Fact:
    rows = []
    for sheet in sheets:
        if isinstance(facts.resource(sheet.address), DataRecipe):
            rows += [f"{source.origin} ({source.license})" for source in sheet.sources]
    folder = folder_of(facts, record) if record is not None else None
    if folder is not None:
        rows.append(
            f"the weights in {folder.path}, whose own data is not part of this chain: {folder.origin} ({folder.license})"
        )
    for name, item in chats_behind(facts, record) if record is not None else ():
        rows.append(f"{name} in {item.path}: {item.origin} ({item.license})")
    if not rows:
        return Fact("Sources and licences", None, Standing.MISSING, remedy="the released commit has no recipe that can be read")
    return Fact("Sources and licences", "; ".join(rows), Standing.DECLARED, tuple(sheet.declared for sheet in sheets))


def _curation(sheets: tuple[DataSheet, ...]) -> Fact:
    wanted = ("Filters", "Duplicates removed", "Personal data replaced in the documents")
    rows = [fact for sheet in sheets for fact in sheet.facts if fact.label in wanted and fact.standing is Standing.PROVED]
    if not rows:
        return Fact("Curation", None, Standing.MISSING, remedy="no curate step of this chain holds")
    evidence = tuple(dict.fromkeys(each for fact in rows for each in fact.evidence))
    return Fact("Curation", "; ".join(f"{fact.label}: {fact.value}" for fact in rows), Standing.PROVED, evidence)


def _points(sheets: tuple[DataSheet, ...]) -> Fact:
    rows = [fact for sheet in sheets for fact in sheet.facts if fact.label.startswith("Documents for ")]
    if not rows:
        return Fact("Number of data points", None, Standing.MISSING, remedy="no report of a curate step holds")
    evidence: tuple[Evidence, ...] = tuple(dict.fromkeys(each for fact in rows for each in fact.evidence))
    text = "; ".join(f"{fact.label.removeprefix('Documents for ')}: {fact.value}" for fact in rows)
    return Fact("Number of data points", text, Standing.PROVED, evidence)


def _compared(flops: object, facts: Facts, record: Record | None) -> str | None:
    """A model's operations against the Act's marks, which count its training as a whole: its base's belong to it."""
    if not isinstance(flops, int | float) or record is None:
        return None
    whole, has_base = whole_flops(facts, record)
    if has_base and whole is None:
        return f"{flops:.3g}, and those of its base, which are unknown"
    if has_base and whole is not None:
        return f"{flops:.3g}; with its base's {_against_marks(whole)}"
    return _against_marks(float(flops))


def _against_marks(flops: float) -> str:
    if flops >= _SYSTEMIC:
        return f"{flops:.3g}: above 1e25, where systemic risk is presumed (Article 51)"
    if flops >= _GENERAL_PURPOSE:
        return f"{flops:.3g}: above 1e23, the guideline for a general-purpose model"
    return f"{flops:.3g}: below 1e23, the guideline for a general-purpose model"
