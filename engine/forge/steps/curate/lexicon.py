"""Words as numbers: each word of a batch once in Python, everything about its occurrences in numpy.

Invariant: what is kept of a word depends on the word alone, so that a lexicon may be emptied at any time, and it does not
matter which documents a process saw before. A word's hash is that of its characters under concatenation: the hash of
two words written together follows from theirs (Karp and Rabin 1987, modulo 2**64), so equal texts have equal
hashes wherever they were split into words.
"""

from dataclasses import dataclass
from itertools import compress

import numpy as np
import numpy.typing as npt
from datatrove.pipeline.filters.gopher_quality_filter import STOP_WORDS
from datatrove.utils.text import PUNCTUATION_SET

from forge.steps.curate.words import words_of

Numbers = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]
Flags = npt.NDArray[np.bool_]

_BASE = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1
_MAX_WORDS = 1 << 18
_MAX_CHARACTERS = 1 << 24
_LONG = 256


class Lexicon(dict[str, int]):
    """Word -> its number; per number what the filters ask of a word."""

    def __init__(self) -> None:
        super().__init__()
        self._forget()

    def numbers(self, words: list[str]) -> Numbers:
        """The numbers of some words; those that are new get one."""
        return np.fromiter(map(self.__getitem__, words), np.int64, len(words))

    def make_room(self) -> None:
        """Forget all words if they are many; numbers given before are void then."""
        if len(self) > _MAX_WORDS or self._characters > _MAX_CHARACTERS:
            self.clear()
            self._forget()

    def __missing__(self, word: str) -> int:
        number = len(self)
        if number == len(self.lengths):
            self._grow()
        self[word] = number
        self._characters += len(word)
        self.lengths[number] = len(word)
        self.hashes[number] = _hash(word)
        self.powers[number] = pow(_BASE, len(word), 1 << 64)
        self.is_symbol[number] = all(character in PUNCTUATION_SET for character in word)
        self.is_alpha[number] = any(character.isalpha() for character in word)
        self.is_stop_word[number] = word in _STOP_WORDS
        return number

    def _forget(self) -> None:
        self._characters = 0
        self.lengths: Numbers = np.zeros(4096, np.int64)
        self.hashes: Hashes = np.zeros(4096, np.uint64)
        self.powers: Hashes = np.zeros(4096, np.uint64)
        """What the hash of a text is multiplied by when the word is appended to it."""
        self.is_symbol: Flags = np.zeros(4096, np.bool_)
        """Made of signs alone (datatrove's PUNCTUATION_SET)."""
        self.is_alpha: Flags = np.zeros(4096, np.bool_)
        """Holds a letter."""
        self.is_stop_word: Flags = np.zeros(4096, np.bool_)

    def _grow(self) -> None:
        for name in ("lengths", "hashes", "powers", "is_symbol", "is_alpha", "is_stop_word"):
            array = getattr(self, name)
            setattr(self, name, np.concatenate([array, np.zeros_like(array)]))


_STOP_WORDS = frozenset(STOP_WORDS)


@dataclass(frozen=True)
class Words:
    """The words of several documents, one after the other."""

    lexicon: Lexicon
    lists: list[list[str]]
    numbers: Numbers
    """Of all words."""
    starts: Numbers
    """Where each document begins; one more than there are documents."""

    def of(self, kept: list[bool]) -> "Words":
        """The words of the documents that are kept."""
        counts = np.diff(self.starts)
        chosen = np.array(kept, np.bool_)
        return Words(
            self.lexicon,
            list(compress(self.lists, kept)),
            self.numbers[np.repeat(chosen, counts)],
            np.concatenate([[0], np.cumsum(counts[chosen])]),
        )

    def of_each(self, values: npt.NDArray[np.generic]) -> Numbers:
        """The sum of a value per word, for each document."""
        sums = np.concatenate([[0], np.cumsum(values, dtype=np.int64)])
        return sums[self.starts[1:]] - sums[self.starts[:-1]]  # type: ignore[no-any-return]


def read_words(texts: list[str], lexicon: Lexicon) -> Words:
    """Split texts into words; void once the lexicon is told to make room again."""
    lexicon.make_room()
    lists = [words_of(text) for text in texts]
    numbers = [lexicon.numbers(words) for words in lists]
    starts = np.cumsum([0, *(len(words) for words in lists)], dtype=np.int64)
    return Words(lexicon, lists, np.concatenate([np.zeros(0, np.int64), *numbers]), starts)


def _hash(word: str) -> int:
    if len(word) > _LONG:  # the same in numpy
        codes = np.frombuffer(word.encode("utf-32-le"), np.uint32).astype(np.uint64) + np.uint64(1)
        factors = np.full(len(word), _BASE, np.uint64)
        factors[0] = 1
        return int((codes[::-1] * np.cumprod(factors)).sum())
    found = 0
    for character in word:
        found = (found * _BASE + ord(character) + 1) & _MASK
    return found
