"""What is decided of a document by itself: filters, fingerprints, redaction, split. It runs in several processes.

Invariant: what becomes of a block depends on the block and the recipe, and not on the process, nor on what the process saw
before. Duplicates need all documents and are found afterwards, from the fingerprints; a document that may still go as a
duplicate is already in its final form, so that whoever finds them only copies.
"""

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any, NamedTuple

from forge.contract.control_tokens import neutralise
from forge.contract.survey import SuiteCoverage
from forge.spec.data_recipe import Dedup, Filters, Pii, Split
from forge.spec.licenses import license_fault
from forge.steps.curate.contamination import Decontaminator, joins_words
from forge.steps.curate.documents import Block, Document, SourceKeys, read_documents
from forge.steps.curate.phones import check_library
from forge.steps.curate.redact import PII_TYPES, redact
from forge.steps.curate.report import Size
from forge.steps.curate.sieve import Dropped, Sieve
from forge.steps.curate.signatures import NO_FINGERPRINT, Signer, fingerprint, normalised_words
from forge.steps.curate.survey import Samples

_JSON = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Finished:
    """A document as it will be written, unless it is a duplicate."""

    line: bytes
    is_held_out: bool
    text_bytes: int
    control_tokens: int
    personal: tuple[int, ...]
    """Replacements, in the order of ``PII_TYPES``."""
    fingerprints: tuple[bytes, ...]
    """One for each kind of duplicate that is looked for, in the order of ``duplicates.kinds``."""


class _Redacted(NamedTuple):
    """A text as it will be written, and what was replaced in it."""

    text: str
    control_tokens: int
    personal: Counter[str]


@dataclass(frozen=True, slots=True)
class Judged:
    """What became of a block."""

    source: int
    read: Size
    removed: Counter[str]
    """By rule."""
    finished: list[Finished]
    samples: Samples
    """Of what was removed."""


class Worker:
    """The recipe, ready to judge blocks."""

    def __init__(self, parameters: dict[str, Any], suites: list[Path]) -> None:
        """``suites``: the folders of those that documents are cleaned of. Raises StepError for what cannot be used."""
        self.keys = [
            SourceKeys(
                source.get("text_key", "text"), source.get("id_key", "id"), source.get("url_key"), source.get("license_key")
            )
            for source in parameters["sources"]
        ]
        self._edition = parameters.get("edition", 1)
        self._compares_redacted = self._edition > 1
        self._allowed: list[str] | None = parameters.get("allow_licenses")
        self._sieve = Sieve(Filters.model_validate(parameters.get("filters", {})))
        self._dedup = Dedup.model_validate(parameters.get("dedup", {}))
        self._pii = Pii.model_validate(parameters.get("pii", {}))
        if self._pii.phone_regions:
            check_library()
        self._split = Split.model_validate(parameters["split"])
        named = [name.removeprefix("EvalSuite/") for name in parameters.get("decontaminate_against", [])]
        self._cleaner = (
            Decontaminator(
                list(zip(named, suites, strict=True)),
                parameters.get("decontamination_ngram", 13),
                joins=joins_words(self._edition),
            )
            if named
            else None
        )
        self._signer = None if self._dedup.minhash is None else Signer(self._dedup.minhash)

    def judge(self, block: Block) -> Judged:
        """Read, filter and finish the documents of a block."""
        documents = read_documents(block, self.keys[block.source])
        read = Size()
        for document in documents:
            read.add(len(document.text.encode()))
        removed, samples = Counter[str](), Samples()

        def drop(rule: str, document: Document) -> None:
            samples.add(rule, block.source, document.id, document.text)

        if self.keys[block.source].license is not None:
            documents = self._licensed(documents, removed, drop)
        kept = self._sieve.sift(documents, removed, drop)
        wanted = self._cleaner is not None or (self._signer is not None and not self._compares_redacted)
        lists = [normalised_words(document.text) if wanted else [] for document in kept]
        if self._cleaner is not None:
            reasons = self._cleaner.reasons([document.text for document in kept], lists)
            for document, suite in zip(kept, reasons, strict=True):
                if suite is not None:
                    removed[f"contaminated.{suite}"] += 1
                    drop(f"contaminated.{suite}", document)
            clean = [suite is None for suite in reasons]
            kept, lists = list(compress(kept, clean)), list(compress(lists, clean))
        redacted = [self._redacted(document.text) for document in kept]
        if self._signer is not None and self._compares_redacted:
            lists = [normalised_words(own.text) for own in redacted]
        bands = [[]] * len(kept) if self._signer is None else self._signer.bands(lists)
        finished = [self._finish(document, own, band) for document, own, band in zip(kept, redacted, bands, strict=True)]
        return Judged(block.source, read, removed, finished, samples)

    @property
    def coverage(self) -> dict[str, SuiteCoverage]:
        """How much of each suite is looked for."""
        return {} if self._cleaner is None else self._cleaner.coverage

    def _licensed(self, documents: list[Document], removed: Counter[str], drop: Dropped) -> list[Document]:
        """The documents that may be used by what they say of their own licence."""
        kept = []
        for document in documents:
            fault = license_fault(document.license, self._allowed)
            if fault is None:
                kept.append(document)
            else:
                removed[f"license.{fault.kind}"] += 1
                drop(f"license.{fault.kind}", document)
        return kept

    def _redacted(self, text: str) -> _Redacted:
        personal = Counter[str]()
        text, found = neutralise(redact(text, self._pii, personal, self._edition))
        return _Redacted(text, found, personal)

    def _finish(self, document: Document, redacted: _Redacted, bands: list[bytes]) -> Finished:
        fingerprints = []
        if self._dedup.url:
            fingerprints.append(fingerprint(document.url) if document.url else NO_FINGERPRINT)
        if self._dedup.exact:
            fingerprints.append(fingerprint(redacted.text if self._compares_redacted else document.text))
        text = redacted.text
        return Finished(
            line=(_JSON.encode({"id": document.id, "text": text}) + "\n").encode(),
            is_held_out=_fraction(self._split.seed, text) < self._split.validation_fraction,
            text_bytes=len(text.encode()),
            control_tokens=redacted.control_tokens,
            personal=tuple(redacted.personal[name] for name in PII_TYPES),
            fingerprints=(*fingerprints, *bands),
        )


def _fraction(seed: int, text: str) -> float:
    """A number from 0 to 1 that depends on seed and text alone."""
    return int.from_bytes(hashlib.sha256(f"{seed}\n{text}".encode()).digest()[:8]) / 2**64
