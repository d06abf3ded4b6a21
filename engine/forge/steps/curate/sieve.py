"""The filters of a recipe over a batch of documents, in the order of the fields of ``Filters``.

Invariant: a document is dropped by the first rule that is against it, and judged by itself: which documents it shares a batch
with changes nothing. Words are split once for all filters that ask for them; the C4 filter, which takes lines out of a
document, and FineWeb's are datatrove's own.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import compress
from typing import Any

from datatrove.data import Document as DatatroveDocument
from datatrove.pipeline.filters.c4_filters import C4QualityFilter
from datatrove.pipeline.filters.fineweb_quality_filter import FineWebQualityFilter

from forge.spec.data_recipe import C4Quality, Filters, FineWebQuality
from forge.steps.curate.documents import Document
from forge.steps.curate.gopher import quality, repeated_lines, repeated_words
from forge.steps.curate.language import LanguageFilter
from forge.steps.curate.lexicon import Lexicon, Words, read_words
from forge.steps.curate.words import RegexWordTokenizer

Dropped = Callable[[str, Document], None]
"""Is told a rule and a document that goes because of it."""


class Sieve:
    """The filters, ready to judge."""

    def __init__(self, rules: Filters) -> None:
        self._rules = rules
        self._lexicon = Lexicon()
        self._language = None if rules.language is None else LanguageFilter(rules.language)
        self._c4 = None if rules.c4_quality is None else _c4(rules.c4_quality)
        self._fineweb = None if rules.fineweb_quality is None else _fineweb(rules.fineweb_quality)

    def sift(self, documents: list[Document], removed: Counter[str], dropped: Dropped | None = None) -> list[Document]:
        """The documents that stay; counts the others under the rule, and the part of it, that was against them.

        ``dropped``: told of each document that goes.
        """
        batch = _Batch(documents, removed, dropped)
        batch.drop("empty", [None if text.strip() else "" for text in batch.texts()])
        if self._language is not None:
            batch.drop("language", self._language.reasons(batch.texts()))
        if self._rules.gopher_repetition is not None:
            rules = self._rules.gopher_repetition
            batch.drop("gopher_repetition", [repeated_lines(text, rules) for text in batch.texts()])
            batch.drop("gopher_repetition", repeated_words(batch.texts(), batch.words(self._lexicon), rules))
        if self._rules.gopher_quality is not None:
            batch.drop("gopher_quality", quality(batch.texts(), batch.words(self._lexicon), self._rules.gopher_quality))
        for name, block in (("c4_quality", self._c4), ("fineweb_quality", self._fineweb)):
            if block is not None:
                _by_datatrove(batch, name, block)
        return batch.documents


class _Batch:
    """The documents of a batch that are left."""

    def __init__(self, documents: list[Document], removed: Counter[str], dropped: Dropped | None) -> None:
        self.documents = documents
        self._removed = removed
        self._dropped = dropped
        self._words: Words | None = None

    def texts(self) -> list[str]:
        return [document.text for document in self.documents]

    def words(self, lexicon: Lexicon) -> Words:
        if self._words is None:
            self._words = read_words(self.texts(), lexicon)
        return self._words

    def drop(self, rule: str, reasons: Sequence[str | None]) -> None:
        """Drop the documents that there is a reason against; it may be empty where a rule has one part."""
        kept = [reason is None for reason in reasons]
        if all(kept):
            return
        for document, reason in zip(self.documents, reasons, strict=True):
            if reason is not None:
                name = f"{rule}.{reason}" if reason else rule
                self._removed[name] += 1
                if self._dropped is not None:
                    self._dropped(name, document)
        self.documents = list(compress(self.documents, kept))
        if self._words is not None:
            self._words = self._words.of(kept)


def _by_datatrove(batch: _Batch, name: str, block: Any) -> None:
    """Ask a filter of datatrove's, which may shorten the texts that it keeps."""
    carriers = [DatatroveDocument(text=document.text, id=document.id) for document in batch.documents]
    answers = [block.filter(carrier) for carrier in carriers]
    batch.documents = [
        document if document.text == carrier.text else replace(document, text=carrier.text)
        for document, carrier in zip(batch.documents, carriers, strict=True)
    ]
    reasons = [None if answer is True else str(answer[1]) for answer in answers]
    batch.drop(name, reasons)
    batch.drop(name, [None if text.strip() else "no_line_left" for text in batch.texts()])


def _c4(rules: C4Quality) -> Any:
    return C4QualityFilter(
        remove_citations=rules.remove_citations,
        filter_no_terminal_punct=rules.require_terminal_punctuation,
        min_num_sentences=_or_off(rules.min_sentences),
        min_words_per_line=_or_off(rules.min_words_per_line),
        max_word_length=_or_off(rules.max_word_length),
        filter_lorem_ipsum=rules.drop_lorem_ipsum,
        filter_javascript=rules.remove_javascript_lines,
        filter_curly_bracket=rules.drop_curly_brackets,
        filter_policy=rules.remove_policy_lines,
        language=RegexWordTokenizer(),
    )


def _fineweb(rules: FineWebQuality) -> Any:
    return FineWebQualityFilter(
        line_punct_thr=rules.min_punctuated_lines_ratio,
        line_punct_exclude_zero=rules.allow_no_punctuated_line,
        short_line_thr=rules.max_short_lines_ratio,
        short_line_length=rules.short_line_characters,
        char_duplicates_ratio=rules.max_duplicate_characters_ratio,
        new_line_ratio=rules.max_lines_to_words_ratio,
        language=RegexWordTokenizer(),
    )


def _or_off(value: int | None) -> int:
    return -1 if value is None else value
