"""Sources -> training and validation documents, and a report of what was left out and why.

    fetch what lies elsewhere
    -> read -> empty? -> filters -> evaluation items? -> redaction -> control tokens -> split   (in several processes)
    -> equal and near-equal documents -> the documents that stay   (all documents, in reading order)

Invariant: the documents depend on the sources' bytes, their order and the recipe, and on nothing else: neither on the number of
processes nor on what else the machine does. Between the two passes documents lie in the scratch folder; memory
holds some blocks, and a few bytes for each document (``duplicates``). A folder per attempt keeps a stale attempt's
files from its successor.
"""

import json
import shutil
from pathlib import Path

from forge.canonical import canonical_json
from forge.contract.survey import BYPRODUCT, SURVEY_FILE
from forge.errors import StepError
from forge.spec.data_recipe import Dedup
from forge.steps.curate.documents import BLOCK_BYTES, read_blocks
from forge.steps.curate.duplicates import KEPT, Duplicates
from forge.steps.curate.processes import judged
from forge.steps.curate.redact import PII_TYPES
from forge.steps.curate.report import Tally
from forge.steps.curate.sources import SourceFiles, collect
from forge.steps.curate.spool import Spool
from forge.steps.curate.survey import SurveyTaker
from forge.steps.curate.worker import Worker
from forge.steps.run import Metrics, StepRun

_EVENT_EVERY = 10_000


def run(run: StepRun) -> Metrics:
    """Write the products ``documents`` and ``report``, and the by-products ``survey`` and, of what was fetched, ``inventory``.

    Raises StepError for sources that cannot be used.
    """
    sources, phone_regions = len(run.parameters["sources"]), run.parameters.get("pii", {}).get("phone_regions")
    tally, survey = Tally(sources), SurveyTaker(sources, phone_regions)
    scratch = run.scratch / f"curate-{run.request.attempt}"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    try:
        _curate(run, tally, survey, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    _check(tally, run.request.subject, run.product("documents"))
    (run.product("report") / "report.json").write_bytes(canonical_json(tally.as_json()) + b"\n")
    left = run.byproduct(BYPRODUCT)
    left.mkdir(parents=True)
    (left / SURVEY_FILE).write_bytes(survey.finish().to_bytes())
    run.emit(message="documents written", fraction=1.0)
    return {
        "documents_read": sum(size.documents for size in tally.read),
        "documents_train": tally.splits["train"].documents,
        "documents_validation": tally.splits["validation"].documents,
        "bytes_train": tally.splits["train"].bytes,
        **{f"looked_for.{suite}": found.looked_for for suite, found in survey.suites.items()},
        **{f"too_short.{suite}": found.too_short for suite, found in survey.suites.items()},
    }


def _curate(run: StepRun, tally: Tally, survey: SurveyTaker, scratch: Path) -> None:
    spool, duplicates = Spool(scratch), Duplicates(scratch, Dedup.model_validate(run.parameters.get("dedup", {})))
    try:
        _judge(run, collect(run, scratch), tally, survey, spool, duplicates)
        run.emit(message="filtered; looking for equal and near-equal documents", fraction=0.8)
        removed, rules = duplicates.removals()
        _write(run, tally, survey, spool, removed, rules)
    finally:
        spool.close()
        duplicates.close()


def _judge(
    run: StepRun, sources: list[SourceFiles], tally: Tally, survey: SurveyTaker, spool: Spool, duplicates: Duplicates
) -> None:
    """First pass: each document by itself."""
    folders, names = [source.folder for source in sources], [source.names for source in sources]
    size = sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file())
    processes = min(run.request.resources.threads, size // BLOCK_BYTES + 1)
    documents_read = 0
    suites = [run.input(f"suite-{index}") for index in range(len(run.parameters.get("decontaminate_against", [])))]
    worker = Worker(run.parameters, suites)  # here, so that a fault of the recipe is told before anything is started
    survey.suites = worker.coverage
    for block in judged(read_blocks(folders, worker.keys, names), worker, processes):
        tally.read[block.source] += block.read
        tally.removed[block.source].update(block.removed)
        survey.samples.merge(block.samples)
        spool.add(block.source, block.finished)
        duplicates.add([document.fingerprints for document in block.finished])
        before, documents_read = documents_read, documents_read + block.read.documents
        if before // _EVENT_EVERY != documents_read // _EVENT_EVERY:
            run.emit(message=f"{documents_read} documents read")


def _write(run: StepRun, tally: Tally, survey: SurveyTaker, spool: Spool, removed: bytearray, rules: tuple[str, ...]) -> None:
    """Second pass: the documents that stay."""
    product = run.product("documents")
    for name in tally.splits:
        (product / name).mkdir(exist_ok=True)
    with (
        (product / "train" / "00000.jsonl").open("wb") as train,
        (product / "validation" / "00000.jsonl").open("wb") as validation,
    ):
        for place, (line, row) in zip(removed, spool.read(), strict=True):
            source, text_bytes = int(row["source"]), int(row["text_bytes"])
            if place != KEPT:
                tally.removed[source][rules[place - 1]] += 1
                survey.duplicate(rules[place - 1], source, line)
                continue
            survey.kept(source, text_bytes, line)
            tally.control_tokens += int(row["control_tokens"])
            for name, count in zip(PII_TYPES, row["personal"].tolist(), strict=True):
                if count:
                    tally.personal[name] += count
            tally.splits["validation" if row["is_held_out"] else "train"].add(text_bytes)
            tally.kept[source].add(text_bytes)
            (validation if row["is_held_out"] else train).write(line)


def _check(tally: Tally, subject: str, product: Path) -> None:
    read = sum(size.documents for size in tally.read)
    if read == 0:
        raise StepError(f"{subject}: the corpus is empty: none of {tally.sources} sources holds a document")
    kept = sum(size.documents for size in tally.kept)
    if kept == 0:
        rule, count = min(tally.removals().items(), key=lambda item: (-item[1], item[0]))
        raise StepError(
            f"{subject}: nothing is left of {read} documents; {rule} removed most ({count}): loosen that rule in the recipe"
        )
    for name, size in tally.splits.items():
        if size.documents == 0:
            remedy = "change split.validation_fraction or add documents"
            if kept > 1 and _are_equal(product):
                remedy = (
                    "they all have the same text, by which it is decided: add others (`dedup.exact` would keep one of these)"
                )
            raise StepError(f"{subject}: none of {kept} documents fell into the {name} split: {remedy}")


def _are_equal(product: Path) -> bool:
    """Whether all documents that were written have one text."""
    lines = (line for path in sorted(product.rglob("*.jsonl")) for line in path.open("rb"))
    first: str | None = None
    for line in lines:
        text = json.loads(line)["text"]
        if first is None:
            first = text
        elif text != first:
            return False
    return True
