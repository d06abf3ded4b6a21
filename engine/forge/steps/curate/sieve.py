"""The filters of a recipe over a batch of documents, in the order of the fields of ``Filters``.

Invariant: a document is dropped by the first rule that is against it, and judged by itself: which documents it shares a batch
with changes nothing. Words are split once for all filters that ask for them.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import compress

from forge.spec.data_recipe import Filters
from forge.steps.curate.documents import Document
from forge.steps.curate.gopher import quality, repeated_lines, repeated_words
from forge.steps.curate.lexicon import Lexicon, Words, read_words


class Sieve:
    """What is left of some documents, and how many each rule dropped."""

    def __init__(self, documents: list[Document], lexicon: Lexicon) -> None:
        self.documents = documents
        self.removed = Counter[str]()
        self._lexicon = lexicon
        self._words: Words | None = None

    def apply(self, rules: Filters) -> None:
        """Drop what the rules are against."""
        self._drop("empty", [None if text.strip() else "" for text in self._texts()])
        if rules.gopher_repetition is not None:
            self._drop("gopher_repetition", [repeated_lines(text, rules.gopher_repetition) for text in self._texts()])
            self._drop("gopher_repetition", repeated_words(self._texts(), self._split(), rules.gopher_repetition))
        if rules.gopher_quality is not None:
            self._drop("gopher_quality", quality(self._texts(), self._split(), rules.gopher_quality))

    def _texts(self) -> list[str]:
        return [document.text for document in self.documents]

    def _split(self) -> Words:
        if self._words is None:
            self._words = read_words(self._texts(), self._lexicon)
        return self._words

    def _drop(self, rule: str, reasons: Sequence[str | None]) -> None:
        """Drop the documents that there is a reason against; counted under the rule and the part of it that failed."""
        kept = [reason is None for reason in reasons]
        if all(kept):
            return
        self.removed.update(f"{rule}.{reason}" if reason else rule for reason in reasons if reason is not None)
        self.documents = list(compress(self.documents, kept))
        if self._words is not None:
            self._words = self._words.of(kept)
