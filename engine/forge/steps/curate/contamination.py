"""Documents that repeat items of an evaluation suite (Brown et al. 2020, appendix C).

Invariant: what is compared are words without case, signs and diacritics, numbers as 0; a document goes when it shares n
consecutive words with any text of an item (a field of a row of the suite's data files), or all the words of a text that has
fewer than n but at least eight. Shorter texts are found everywhere and say nothing: how many items have no other is counted.
Neither the report nor a message shows what was found: items of a suite stay with the suite.
"""

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from forge.contract.survey import SuiteCoverage
from forge.errors import StepError
from forge.steps.curate.lexicon import Hashes, Lexicon
from forge.steps.curate.signatures import normalised_words

LEAST_WORDS = 8
_FACTOR = np.uint64(0xC2B2AE3D27D4EB4F)
_BATCH_ITEMS = 1024
_CUT = re.compile(r"(?<=\w)[-\u2010][ \t]{0,8}\r?\n[ \t]{0,64}(?=\w)")


def joins_words(edition: int) -> bool:
    """Whether words that a line break cuts in two are also joined, under an edition's rules."""
    return edition > 1


def unhyphenated(text: str) -> str | None:
    """The text with words joined that a hyphen and a line break cut in two; None where there are none."""
    joined, found = _CUT.subn("", text)
    return joined if found else None


class Decontaminator:
    """The runs of words of some suites, ready to be looked for."""

    def __init__(self, suites: list[tuple[str, Path]], ngram: int, *, joins: bool = False) -> None:
        """``suites``: name and folder of each. Raises StepError for one that cannot be read or that nothing can be found of.

        ``joins``: items and documents are also compared as they read once words that a line break cuts in two are joined.
        """
        self.coverage: dict[str, SuiteCoverage] = {}
        """By suite."""
        self._lexicon = Lexicon()
        self._ngram = ngram
        self._joins = joins
        self._suites = [(name, self._index(name, folder)) for name, folder in suites]

    def reasons(self, texts: Iterable[str], lists: list[list[str]]) -> list[str | None]:
        """For each document, given also by its normalised words, the first suite that it repeats; None for none."""
        found = self._first_repeated(lists)
        if self._joins:
            joined = [unhyphenated(text) for text in texts]
            others = self._first_repeated([[] if text is None else normalised_words(text) for text in joined])
            found = [one or other for one, other in zip(found, others, strict=True)]
        return found

    def _first_repeated(self, lists: list[list[str]]) -> list[str | None]:
        found: list[str | None] = [None] * len(lists)
        lengths = {length for _, index in self._suites for length in index}
        for length, (keys, documents) in self._grams(lists, lengths).items():
            for name, index in self._suites:
                if length in index:
                    places = np.searchsorted(index[length], keys)
                    hits = index[length][np.minimum(places, len(index[length]) - 1)] == keys
                    for document in np.unique(documents[hits]).tolist():
                        found[document] = self._first(found[document], name)
        return found

    def _first(self, one: str | None, other: str) -> str:
        names = [name for name, _ in self._suites if name in (one, other)]
        return names[0]

    def _index(self, name: str, folder: Path) -> dict[int, Hashes]:
        """Length -> sorted keys of the suite's runs of so many words."""
        keys: dict[int, list[Hashes]] = {}
        looked_for = too_short = 0
        for items in _batches(_items(name, folder)):
            of_items = [self._long_enough(texts) for texts in items]
            looked_for += sum(map(bool, of_items))
            too_short += sum(not found for found in of_items)
            lists = [words for found in of_items for words in found]
            long = [words for words in lists if len(words) >= self._ngram]
            for length, (found, _) in self._grams(long, {self._ngram}).items():
                keys.setdefault(length, []).append(found)
            for length in {len(words) for words in lists if len(words) < self._ngram}:
                whole = [words for words in lists if len(words) == length]
                keys.setdefault(length, []).append(self._grams(whole, {length})[length][0])
        self.coverage[name] = SuiteCoverage(looked_for=looked_for, too_short=too_short)
        index = {length: np.unique(np.concatenate(parts)) for length, parts in keys.items() if any(map(len, parts))}
        if not index:
            raise StepError(
                f"EvalSuite/{name}: no item of it has a text of {LEAST_WORDS} words or more, so nothing can be found:"
                " take it out of `decontaminate_against`"
            )
        return index

    def _long_enough(self, texts: list[str]) -> list[list[str]]:
        """The words of an item's texts that are looked for."""
        joined = [text for text in map(unhyphenated, texts) if text is not None] if self._joins else []
        return [words for words in map(normalised_words, (*texts, *joined)) if len(words) >= LEAST_WORDS]

    def _grams(self, lists: list[list[str]], lengths: set[int]) -> dict[int, tuple[Hashes, Hashes]]:
        """For each length the keys of all runs of so many words, and the document of each."""
        self._lexicon.make_room()
        numbers = [self._lexicon.numbers(words) for words in lists]
        counts = np.array([len(words) for words in lists], np.int64)
        values = self._lexicon.hashes[np.concatenate([np.zeros(0, np.int64), *numbers])]
        documents = np.repeat(np.arange(len(lists)), counts)
        left = np.cumsum(counts)[documents] - np.arange(len(values))
        keys = np.zeros_like(values)
        found = {}
        for length in range(1, max(lengths, default=0) + 1):
            keys = keys[: max(0, len(values) - length + 1)] * _FACTOR + _spread(values[length - 1 :])
            if length in lengths:
                whole = left[: len(keys)] >= length
                found[length] = (keys[whole], documents[: len(keys)][whole])
        return found


def _spread(hashes: Hashes) -> Hashes:
    """A word's hash, far from those of similar words, so that sums of them differ."""
    mixed: Hashes = (hashes ^ (hashes >> np.uint64(29))) * np.uint64(0x9FB21C651E98DF25)
    mixed ^= mixed >> np.uint64(32)
    return mixed


def _batches(items: Iterator[list[str]]) -> Iterator[list[list[str]]]:
    batch: list[list[str]] = []
    for texts in items:
        batch.append(texts)
        if len(batch) == _BATCH_ITEMS:
            yield batch
            batch = []
    yield batch


def _items(name: str, folder: Path) -> Iterator[list[str]]:
    """The texts of every row of the suite's data files that has any, whichever task reads them."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        read = _READERS.get(path.suffix)
        if read is not None:
            try:
                for row in read(path):
                    if texts := list(_strings(row)):
                        yield texts
            except (ValueError, RecursionError, csv.Error) as error:
                place = path.relative_to(folder).as_posix()
                raise StepError(f"EvalSuite/{name}, which documents are cleaned of: {place} cannot be read: {error}") from error


def _json_rows(path: Path) -> Iterator[Any]:
    """JSON lines, or one JSON value: of a list its elements."""
    text = path.read_text(encoding="utf-8")
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        yield from (json.loads(line) for line in text.splitlines() if line.strip())
    else:
        yield from value if isinstance(value, list) else [value]


def _jsonl_rows(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8") as file:
        yield from (json.loads(line) for line in file if line.strip())


def _csv_rows(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8", newline="") as file:
        yield from csv.reader(file)


def _text_rows(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8") as file:
        yield from file


def _parquet_rows(path: Path) -> Iterator[Any]:
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_BATCH_ITEMS):
                yield from batch.to_pylist()
    except pyarrow.ArrowException as error:
        raise ValueError(str(error)) from error


_READERS: dict[str, Callable[[Path], Iterator[Any]]] = {
    ".jsonl": _jsonl_rows,
    ".json": _json_rows,
    ".csv": _csv_rows,
    ".txt": _text_rows,
    ".parquet": _parquet_rows,
}


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
