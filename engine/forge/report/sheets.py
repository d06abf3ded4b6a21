"""The data sheet and the training facts: what the records of curate, tokenize and train say, beside what specs declare."""

from typing import Any

from forge.contract.kinds import StepKind
from forge.contract.record import Record
from forge.report.bases import architecture_of, base_text, parameters_text, replay_text
from forge.report.facts import Facts, shown
from forge.report.model import DataSheet, DataSource, Evidence, Fact, Section, Standing
from forge.report.searches import chosen, searches
from forge.spec.extend import TRUNK
from forge.spec.resource import DataRecipe, Model

REPORT_FILE = "report.json"
_EVERY_DEFAULT = "none"


def data_sheets(facts: Facts) -> tuple[DataSheet, ...]:
    """One for each recipe that the chain curated."""
    return tuple(_data_sheet(facts, record) for record in facts.records(StepKind.CURATE))


def training(facts: Facts) -> tuple[Section, ...]:
    """One for each model that the chain trained, and one for each search; trials that were not picked stand in those."""
    trained = [record for record in facts.records(StepKind.TRAIN) if record.products.get("weights") not in facts.beside]
    return (*(_training(facts, record) for record in trained), *searches(facts))


def _data_sheet(facts: Facts, record: Record) -> DataSheet:
    recipe = facts.resource(record.subject)
    report = facts.document(record, "report", REPORT_FILE) or {}
    rows = report.get("sources", [])
    listed = recipe.spec.sources if isinstance(recipe, DataRecipe) else []
    sources = []
    for index in range(max(len(rows), len(listed))):
        row: dict[str, Any] = rows[index] if index < len(rows) else {}
        source = listed[index] if index < len(listed) else None
        sources.append(
            DataSource(
                path=source.place if source else "not in the released commit",
                license=source.license if source else "",
                origin=source.origin if source else "",
                documents_read=row.get("read", {}).get("documents"),
                documents_kept=row.get("kept", {}).get("documents"),
                bytes_kept=row.get("kept", {}).get("bytes"),
            )
        )
    counted = facts.in_bundle(record, "report", REPORT_FILE) if report else None
    tokens = [each for each in facts.records(StepKind.TOKENIZE) if record.products.get("documents") in each.inputs.values()]
    tokenized = tokens[0] if tokens else None
    splits = report.get("splits", {})
    parameters = record.parameters
    return DataSheet(
        address=record.subject,
        sources=tuple(sources),
        declared=facts.declared(record.subject),
        counted=counted,
        removed=tuple(sorted(report.get("removed", {}).items())),
        replaced=tuple(sorted(report.get("personal_data_replaced", {}).items())),
        facts=(
            facts.said(
                "Description",
                recipe.metadata.description if recipe else "",
                record.subject,
                f"write `metadata.description` in {record.subject}",
            ),
            facts.said(
                "Owners",
                recipe.metadata.owners if recipe else [],
                record.subject,
                f"write `metadata.owners` in {record.subject}",
            ),
            *(_split(name, size, record, counted, facts) for name, size in splits.items()),
            facts.proved("Training tokens", tokenized.metrics.get("tokens_train") if tokenized else None, tokenized),
            facts.proved("Validation tokens", tokenized.metrics.get("tokens_validation") if tokenized else None, tokenized),
            facts.proved("Filters", parameters.get("filters", {}), record),
            facts.proved("Duplicates removed", parameters.get("dedup", {}), record),
            facts.proved("Personal data replaced in the documents", parameters.get("pii", {}), record),
            facts.proved("Held out for validation", parameters.get("split", {}), record),
        ),
    )


def _split(name: str, size: dict[str, int], record: Record, counted: Evidence | None, facts: Facts) -> Fact:
    value = f"{shown(size['documents'])} documents, {shown(size['bytes'])} bytes"
    evidence = (*facts.attested(record.step_id, "provenance"), *((counted,) if counted else ()))
    return Fact(f"Documents for {name}", value, Standing.PROVED, evidence)


def _training(facts: Facts, record: Record) -> Section:
    model = facts.resource(record.subject)
    metrics, parameters = record.metrics, record.parameters
    architecture = architecture_of(facts, record)
    training = parameters.get("training", {})
    hardware = record.hardware
    machine = None
    if hardware is not None:
        accelerators = shown(hardware.accelerators) if hardware.accelerators else "no accelerator"
        machine = f"{hardware.cpu}, {hardware.cores} cores, {hardware.memory_bytes / 2**30:.0f} GiB, {accelerators}"
    continued, base = record.continued, base_text(facts, record)
    return Section(
        record.subject,
        (
            facts.said(
                "Description",
                model.metadata.description if isinstance(model, Model) else "",
                record.subject,
                f"write `metadata.description` in {record.subject}",
            ),
            facts.said(
                "Owners",
                model.metadata.owners if isinstance(model, Model) else [],
                record.subject,
                f"write `metadata.owners` in {record.subject}",
            ),
            facts.proved("Objective", parameters.get("objective"), record),
            facts.proved("Architecture", architecture or None, record),
            facts.proved("Parameters", parameters_text(record), record),
            facts.proved("Tokens trained on", metrics.get("tokens"), record),
            facts.proved("Passes over the data", metrics.get("epochs"), record),
            facts.proved("Floating-point operations", _flops(record), record),
            facts.proved("Time", f"{record.actual.seconds:,.0f} s, from {record.started} to {record.finished}", record),
            facts.proved("Hardware, as the step says", machine, record),
            facts.proved("Software, as the step says", record.environment, record),
            facts.proved("Hyperparameters that are not at their default", {**training} or _EVERY_DEFAULT, record),
            *chosen(facts, record),
            facts.proved("Training loss", metrics.get("train_loss"), record),
            facts.proved("Validation loss", metrics.get("validation_loss"), record),
            facts.proved(
                "Continued from",
                f"the run {continued.key} of {shown(continued.tokens)} tokens"
                if continued
                else "its base"
                if base
                else "scratch",
                record,
            ),
            *_shared_steps(facts, record),
            *((_begun(facts, record, base)) if base else ()),
            *_mixed_in(facts, record),
            facts.proved("Weights", record.products.get("weights"), record, "provenance", "weights-signature"),
        ),
    )


def _rewards(record: Record) -> str | None:
    """Both, because a margin grows as well where the chosen answers become less likely, only less so than the others."""
    found = [record.metrics.get(f"validation_{name}_reward") for name in ("chosen", "rejected")]
    return None if None in found else " and ".join(shown(value) for value in found)


def _begun(facts: Facts, record: Record, base: str) -> tuple[Fact, ...]:
    """What a training from a base says beside what every training does."""
    metrics = record.metrics
    rows: tuple[Fact, ...] = (
        facts.proved("Base", base, record),
        facts.proved("Validation loss of the base on the same documents", metrics.get("base_validation_loss"), record),
    )
    cleaned = ("Personal data replaced in what it learnt from", "replaced."), ("Left out, as items of a suite", "contaminated.")
    for label, prefix in cleaned:
        found = {name.removeprefix(prefix): count for name, count in metrics.items() if name.startswith(prefix)}
        rows += (facts.proved(label, found, record),) if found else ()
    if "preferences" in record.inputs:
        return (
            *rows,
            facts.proved("Reward margin on held-out pairs", metrics.get("validation_reward_margin"), record),
            facts.proved("Share of them that reward the chosen answer more", metrics.get("validation_reward_accuracy"), record),
            facts.proved("Rewards on held-out pairs, of the chosen and the rejected answers", _rewards(record), record),
        )
    if "replay" not in record.inputs:
        return (*rows, facts.proved("Replayed against forgetting", "nothing", record))
    before, after = (metrics.get(name) for name in ("base_replay_validation_loss", "replay_validation_loss"))
    return (
        *rows,
        facts.proved("Replayed against forgetting", replay_text(facts, record), record),
        facts.proved("Validation loss on the replayed data, of the base and now", f"{shown(before)}, {shown(after)}", record),
    )


def _shared_steps(facts: Facts, record: Record) -> tuple[Fact, ...]:
    """How the first steps of a branch were taken, which are another training's; nothing for a training of its own."""
    told, before = [], 0
    for stretch in record.parameters.get(TRUNK, []):
        ways = shown({"optimizer": stretch["optimizer"], "schedule": stretch["schedule"]})
        told.append(f"steps {before + 1:,} to {stretch['steps']:,} with {ways}")
        before = stretch["steps"]
    return (facts.proved("Begun as another training", "; ".join(told), record),) if told else ()


def _mixed_in(facts: Facts, record: Record) -> tuple[Fact, ...]:
    """What was read besides the model's own data; nothing where nothing was."""
    parts = record.parameters.get("mixture", [])
    told = []
    for index, part in enumerate(parts):
        tokens, data = record.metrics.get(f"mixture_{index}_tokens"), record.inputs.get(f"mixture-{index}", "unknown data")
        told.append(f"{shown(tokens)} tokens of {data} ({part.get('fraction')} of the sequences)")
    return (facts.proved("Mixed in", "; ".join(told), record),) if told else ()


def _flops(record: Record) -> str | None:
    flops = record.metrics.get("flops")
    if not isinstance(flops, int | float):
        return None
    return f"{flops:.3g} ({record.metrics.get('flops_formula', 'formula not recorded')})"
