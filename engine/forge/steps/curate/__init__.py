"""Sources -> training and validation documents, and a report of what was left out and why.

    read -> empty? -> gopher_repetition -> gopher_quality -> exact -> MinHash -> personal data -> control tokens -> split

Invariant: the documents depend on the sources' bytes, their order and the recipe, and on nothing else: everything runs
in one process and in reading order. Between the passes that duplicate detection needs, documents lie in the
scratch folder; memory grows with the number of documents (a few hundred bytes each), not with their length. A folder per
attempt keeps a stale attempt's files from its successor.
"""

import hashlib
import json
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.filters.gopher_quality_filter import GopherQualityFilter
from datatrove.pipeline.filters.gopher_repetition_filter import GopherRepetitionFilter
from loguru import logger

from forge.canonical import canonical_json
from forge.errors import StepError
from forge.spec.data_recipe import Dedup, Filters, Pii, Split
from forge.steps.control_tokens import neutralise
from forge.steps.curate.documents import read_sources
from forge.steps.curate.duplicates import without_exact, without_near
from forge.steps.curate.redact import redact
from forge.steps.curate.report import Removed, Tally
from forge.steps.curate.words import RegexWordTokenizer
from forge.steps.run import Metrics, StepRun

_EVENT_EVERY = 10_000


def run(run: StepRun) -> Metrics:
    """Write the products ``documents`` and ``report``; raises StepError for sources that cannot be used."""
    logger.remove()
    logger.add(sys.stderr, level="ERROR")
    keys = [(source.get("text_key", "text"), source.get("id_key", "id")) for source in run.parameters["sources"]]
    tally = Tally(len(keys))
    scratch = run.scratch / f"curate-{run.request.attempt}"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    try:
        documents = read_sources([run.input(f"source-{index}") for index in range(len(keys))], keys)
        unique = _unique(_filtered(_counted(documents, tally, run), run.parameters, tally), run, tally, scratch)
        _write(unique, run, tally)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    _check(tally, run.request.subject)
    (run.product("report") / "report.json").write_bytes(canonical_json(tally.as_json()) + b"\n")
    run.emit(message="documents written", fraction=1.0)
    return {
        "documents_read": sum(size.documents for size in tally.read),
        "documents_train": tally.splits["train"].documents,
        "documents_validation": tally.splits["validation"].documents,
        "bytes_train": tally.splits["train"].bytes,
    }


def _counted(documents: Iterable[Document], tally: Tally, run: StepRun) -> Iterator[Document]:
    """Count what is read; a document without a visible character goes no further."""
    empty = Removed(tally, "empty")
    for number, document in enumerate(documents, start=1):
        tally.read[document.metadata["source"]].add(document.text)
        if number % _EVENT_EVERY == 0:
            run.emit(message=f"{number} documents read")
        if document.text.strip():
            yield document
        else:
            empty.write(document)


def _filtered(documents: Iterator[Document], parameters: dict[str, Any], tally: Tally) -> Iterator[Document]:
    rules = Filters.model_validate(parameters.get("filters", {}))
    words = RegexWordTokenizer()
    if rules.gopher_repetition is not None:
        limits = rules.gopher_repetition
        documents = GopherRepetitionFilter(
            dup_line_frac=limits.dup_line_fraction,
            dup_para_frac=limits.dup_paragraph_fraction,
            dup_line_char_frac=limits.dup_line_character_fraction,
            dup_para_char_frac=limits.dup_paragraph_character_fraction,
            top_n_grams=[(limit.n, limit.max_fraction) for limit in limits.top_n_grams],
            dup_n_grams=[(limit.n, limit.max_fraction) for limit in limits.dup_n_grams],
            exclusion_writer=Removed(tally, "gopher_repetition"),
            language=words,
        ).run(documents)
    if rules.gopher_quality is not None:
        documents = GopherQualityFilter(
            **rules.gopher_quality.model_dump(),
            exclusion_writer=Removed(tally, "gopher_quality"),
            language=words,
        ).run(documents)
    return documents


def _unique(documents: Iterator[Document], run: StepRun, tally: Tally, scratch: Path) -> Iterator[Document]:
    rules = Dedup.model_validate(run.parameters.get("dedup", {}))
    if rules.exact:
        stored = _Stored(documents, scratch / "filtered.jsonl")
        run.emit(message="filtered; looking for equal documents", fraction=0.3)
        documents = without_exact(stored.read, scratch, Removed(tally, "exact_duplicate"))
    if rules.minhash is not None:
        stored = _Stored(documents, scratch / "unequal.jsonl")
        run.emit(message="looking for near-equal documents", fraction=0.5)
        documents = without_near(stored.read, rules.minhash, scratch, Removed(tally, "near_duplicate"))
    return documents


def _write(documents: Iterator[Document], run: StepRun, tally: Tally) -> None:
    pii = Pii.model_validate(run.parameters.get("pii", {}))
    split = Split.model_validate(run.parameters["split"])
    product = run.product("documents")
    for name in tally.splits:
        (product / name).mkdir(exist_ok=True)
    with (
        (product / "train" / "00000.jsonl").open("w", encoding="utf-8", newline="\n") as train,
        (product / "validation" / "00000.jsonl").open("w", encoding="utf-8", newline="\n") as validation,
    ):
        for document in documents:
            text, found = neutralise(redact(document.text, pii, tally.personal))
            tally.control_tokens += found
            held_out = _fraction(split.seed, text) < split.validation_fraction
            tally.splits["validation" if held_out else "train"].add(text)
            tally.kept[document.metadata["source"]].add(text)
            (validation if held_out else train).write(_line({"id": document.id, "text": text}))


def _fraction(seed: int, text: str) -> float:
    """A number from 0 to 1 that depends on seed and text alone."""
    return int.from_bytes(hashlib.sha256(f"{seed}\n{text}".encode()).digest()[:8]) / 2**64


def _check(tally: Tally, subject: str) -> None:
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
            raise StepError(
                f"{subject}: none of {kept} documents fell into the {name} split: change split.validation_fraction"
                " or add documents"
            )


class _Stored:
    """Documents on disk between two passes."""

    def __init__(self, documents: Iterable[Document], path: Path) -> None:
        self._path = path
        with path.open("w", encoding="utf-8", newline="\n") as file:
            for document in documents:
                file.write(_line({"id": document.id, "source": document.metadata["source"], "text": document.text}))

    def read(self) -> Iterator[Document]:
        with self._path.open(encoding="utf-8", newline="\n") as file:
            for line in file:
                row = json.loads(line)
                yield Document(text=row["text"], id=row["id"], metadata={"source": row["source"]})


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False, sort_keys=True, separators=(",", ":")) + "\n"
