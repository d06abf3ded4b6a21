"""MinHash signatures (Broder 1997): datatrove's own values, computed for a batch of documents at once.

Invariant: the signature of a text is the one that datatrove computes with the words of ``words.py``, bit for bit; the tests
compare them. A document's band is kept as 16 bytes of BLAKE2 of its hashes: documents are near-equal where a band is.
"""

import functools
import hashlib
import re
import unicodedata
from itertools import accumulate

import numpy as np
import regex
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.utils.text import PUNCTUATION, PUNCTUATION_TRANS, simplify_text
from xxhash import xxh64_intdigest

from forge.spec.data_recipe import MinHash
from forge.steps.curate.lexicon import Hashes
from forge.steps.curate.words import words_of

FINGERPRINT_BYTES = 16
NO_FINGERPRINT = bytes(FINGERPRINT_BYTES)

_PRIME = np.uint64((1 << 61) - 1)
_AT_ONCE = 1 << 15
_NON_ASCII = re.compile(r"[^\x00-\x7f]+")
_NUMBER = re.compile(r"[0-9]+(?:[.,][0-9]+)?")
_FOREIGN_NUMBER = regex.compile("[^\\P{Nd}0-9]|[\u060c\u066b\u2396\u2397\u2398]")
_ASCII_PUNCTUATION = re.compile("[" + re.escape("".join(sign for sign in PUNCTUATION if sign.isascii())) + "]")
_MOST_KINDS = 24


def fingerprint(text: str) -> bytes:
    """What equal texts, and only those, have in common; never ``NO_FINGERPRINT``."""
    return hashlib.blake2b(text.encode(), digest_size=FINGERPRINT_BYTES).digest()


class Signer:
    """The words of texts -> their bands."""

    def __init__(self, rules: MinHash) -> None:
        self._ngram, self._buckets, self._rows = rules.ngram, rules.buckets, rules.hashes_per_bucket
        generator = np.random.RandomState(MinhashConfig().seed)
        size = rules.buckets * rules.hashes_per_bucket
        self._factors = generator.randint(1, int(_PRIME), dtype=np.uint64, size=size)
        self._summands = generator.randint(0, int(_PRIME), dtype=np.uint64, size=size)

    def bands(self, lists: list[list[str]]) -> list[list[bytes]]:
        """For each text, given by its normalised words, a fingerprint per bucket.

        ``NO_FINGERPRINT`` for texts that are too short to be compared.
        """
        shingles = [self._shingles(words) for words in lists]
        signatures = self._signatures(shingles)
        return [
            [
                hashlib.blake2b(row[start : start + 8 * self._rows], digest_size=FINGERPRINT_BYTES).digest()
                for start in range(0, len(row), 8 * self._rows)
            ]
            if len(own)
            else [NO_FINGERPRINT] * self._buckets
            for own, row in zip(shingles, (signature.tobytes() for signature in signatures), strict=True)
        ]

    def _shingles(self, words: list[str]) -> Hashes:
        encoded = " ".join(words).encode()
        counts = map(len, words) if len(encoded) == sum(map(len, words)) + len(words) - 1 else (len(w.encode()) for w in words)
        ends = list(accumulate(count + 1 for count in counts))
        starts = [0, *ends]
        last = self._ngram - 1
        return np.array(
            [xxh64_intdigest(encoded[start : end - 1]) for start, end in zip(starts, ends[last:], strict=False)], np.uint64
        )

    def _signatures(self, shingles: list[Hashes]) -> Hashes:
        """Minima of (shingle * a + b) mod 2**64 mod (2**61 - 1), a row for each document; without shingles the row is void."""
        values = np.concatenate([np.zeros(0, np.uint64), *shingles])
        sizes = np.array([len(own) for own in shingles], np.int64)
        ends = np.cumsum(sizes)
        minima = np.full((len(self._factors), len(shingles)), _PRIME, np.uint64)
        filled = np.flatnonzero(sizes)
        for start in range(0, len(values), _AT_ONCE):
            part = values[start : start + _AT_ONCE]
            here = filled[(ends[filled] > start) & (ends[filled] - sizes[filled] < start + len(part))]
            cuts = np.maximum(ends[here] - sizes[here] - start, 0)
            one, other = np.empty_like(part), np.empty_like(part)
            for row, (factor, summand) in enumerate(zip(self._factors, self._summands, strict=True)):
                np.multiply(part, factor, out=one)
                np.add(one, summand, out=one)
                np.right_shift(one, np.uint64(61), out=other)
                np.bitwise_and(one, _PRIME, out=one)
                np.add(one, other, out=one)  # now below 2**61 + 7, and congruent
                np.subtract(one, _PRIME, out=other)  # wraps to a huge number where there is nothing to subtract
                np.minimum(one, other, out=one)
                minima[row, here] = np.minimum(minima[row, here], np.minimum.reduceat(one, cuts))
        return minima.T


def normalised_words(text: str) -> list[str]:
    """``words_of(simplify_text(text))`` of datatrove: lower case, numbers as 0, no signs, no diacritics."""
    lower = text.lower()
    if lower.isascii():
        return _NUMBER.sub("0", lower).translate(PUNCTUATION_TRANS).split()  # what is left are letters, digits and space
    foreign = "".join(_NON_ASCII.findall(lower))
    kinds = {sign: _plain(sign) for sign in set(foreign)}
    if _FOREIGN_NUMBER.search(foreign) or None in kinds.values():
        return words_of(simplify_text(text))
    plain = _NUMBER.sub("0", lower)
    if len(kinds) > _MOST_KINDS:
        plain = plain.translate({ord(sign): replacement for sign, replacement in kinds.items()})
    else:
        for sign, replacement in kinds.items():
            plain = plain.replace(sign, replacement or "")
    if plain.isascii():
        return plain.translate(PUNCTUATION_TRANS).split()
    return words_of(_ASCII_PUNCTUATION.sub(" ", plain))


@functools.lru_cache(maxsize=1 << 14)
def _plain(sign: str) -> str | None:
    """What becomes of a sign that is not ASCII; None where that depends on its neighbours or on the order of the rules."""
    if ord(sign) in PUNCTUATION_TRANS:
        return " "
    parts = unicodedata.normalize("NFD", sign)
    kept = "".join(part for part in parts if unicodedata.category(part) != "Mn")
    combining = any(unicodedata.combining(part) and unicodedata.category(part) != "Mn" for part in parts)
    new = any((ord(part) in PUNCTUATION_TRANS or part.isspace() or (part.isascii() and not part.isalnum())) for part in kept)
    return None if combining or (new and not sign.isspace()) else (" " if sign.isspace() else kept)
