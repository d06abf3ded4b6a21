"""The Gopher filters (Rae et al. 2021, table A1), with datatrove's decisions, for a batch of documents at once.

Invariant: a document is dropped exactly when datatrove's own filter drops it, and for the same reason. Quality is figures per
word, summed. Repetition is decided in two steps: hashes of all n-grams give an upper bound of what a document repeats, which is
never below the truth because equal n-grams have equal hashes; only where the bound is above the limit,
datatrove's own function counts. Most documents never get there.
"""

import re

import numpy as np
from datatrove.pipeline.filters.gopher_repetition_filter import (
    find_all_duplicate,
    find_duplicates,
    find_top_duplicate,
    get_n_grams,
)

from forge.spec.data_recipe import GopherQuality, GopherRepetition
from forge.steps.curate.lexicon import Hashes, Numbers, Words

_PARAGRAPHS = re.compile(r"\n{2,}")
_LINES = re.compile("\n+")
_MIX = np.uint64(0xD6E8FEB86659FD93)
_SPREAD = np.uint64(0xFF51AFD7ED558CCD)


def quality(texts: list[str], words: Words, rules: GopherQuality) -> list[str | None]:
    """For each document the rule that drops it; None for one that stays. No document is without words."""
    lexicon, numbers = words.lexicon, words.numbers
    is_word = ~lexicon.is_symbol[numbers]
    plain = words.of_each(is_word).tolist()
    characters = words.of_each(lexicon.lengths[numbers] * is_word).tolist()
    alpha = words.of_each(lexicon.is_alpha[numbers]).tolist()
    stops = _stop_words(words)
    return [
        _quality(text, len(listed), *figures, rules)
        for text, listed, figures in zip(texts, words.lists, zip(plain, characters, alpha, stops, strict=True), strict=True)
    ]


def _quality(  # noqa: PLR0911, PLR0912 (one return a rule, in datatrove's order; a rule of None or 0 is off)
    text: str, count: int, plain: int, characters: int, alpha: int, stops: int, rules: GopherQuality
) -> str | None:
    if rules.min_doc_words and plain < rules.min_doc_words:
        return "short_doc"
    if rules.max_doc_words and plain > rules.max_doc_words:
        return "long_doc"
    average = characters / plain if plain else float("nan")
    if rules.min_avg_word_length and average < rules.min_avg_word_length:
        return "below_avg_threshold"
    if rules.max_avg_word_length and average > rules.max_avg_word_length:
        return "above_avg_threshold"
    if rules.max_symbol_word_ratio:
        if text.count("#") / count > rules.max_symbol_word_ratio:
            return "too_many_hashes"
        if (text.count("...") + text.count("…")) / count > rules.max_symbol_word_ratio:
            return "too_many_ellipsis"
    lines = text.splitlines()
    if rules.max_bullet_lines_ratio:
        bullets = sum(line.lstrip().startswith(("•", "-")) for line in lines)
        if bullets / len(lines) > rules.max_bullet_lines_ratio:
            return "too_many_bullets"
    if rules.max_ellipsis_lines_ratio:
        ellipses = sum(line.rstrip().endswith(("...", "…")) for line in lines)
        if ellipses / len(lines) > rules.max_ellipsis_lines_ratio:
            return "too_many_end_ellipsis"
    if rules.max_non_alpha_words_ratio and alpha / count < rules.max_non_alpha_words_ratio:
        return "below_alpha_threshold"
    if rules.min_stop_words and stops < rules.min_stop_words:
        return "enough_stop_words"
    return None


def _stop_words(words: Words) -> list[int]:
    """How many different stop words each document holds."""
    places = np.flatnonzero(words.lexicon.is_stop_word[words.numbers])
    documents = np.searchsorted(words.starts, places, side="right") - 1
    pairs = np.unique(documents * (1 << 32) + words.numbers[places])
    found: list[int] = np.bincount(pairs >> 32, minlength=len(words.lists)).tolist()
    return found


def repeated_lines(text: str, rules: GopherRepetition) -> str | None:
    """The rule about lines and paragraphs that drops a document; the first part of the repetition filter."""
    paragraphs, characters = _duplicates(_PARAGRAPHS.split(text.strip()))
    if rules.dup_paragraph_fraction and paragraphs > rules.dup_paragraph_fraction:
        return "dup_para_frac"
    if rules.dup_paragraph_character_fraction and characters / len(text) > rules.dup_paragraph_character_fraction:
        return "dup_para_char_frac"
    lines, characters = _duplicates(_LINES.split(text))
    if rules.dup_line_fraction and lines > rules.dup_line_fraction:
        return "dup_line_frac"
    if rules.dup_line_character_fraction and characters / len(text) > rules.dup_line_character_fraction:
        return "dup_line_char_frac"
    return None


def _duplicates(parts: list[str]) -> tuple[float, int]:
    """The share of parts that occurred before, and their characters."""
    if len(set(parts)) == len(parts):
        return 0.0, 0
    number, characters = find_duplicates(parts)
    return number / len(parts), characters


def repeated_words(texts: list[str], words: Words, rules: GopherRepetition) -> list[str | None]:
    """For each document the rule about n-grams that drops it; the second part of the repetition filter."""
    reasons: list[str | None] = [None] * len(texts)
    if not texts or not (rules.top_n_grams or rules.dup_n_grams):
        return reasons
    grams = _NGrams(words)
    sizes = np.array([len(text) for text in texts])
    top, dup = [limit.n for limit in rules.top_n_grams], [limit.n for limit in rules.dup_n_grams]
    top_bounds, dup_bounds = grams.top_bounds(set(top)), grams.duplicate_bounds(set(dup))
    suspects: list[tuple[list[int], int, float, bool]] = [
        (np.flatnonzero(bounds[limit.n] / sizes > limit.max_fraction).tolist(), limit.n, limit.max_fraction, is_top)
        for limits, bounds, is_top in ((rules.top_n_grams, top_bounds, True), (rules.dup_n_grams, dup_bounds, False))
        for limit in limits
    ]
    for documents, n, limit, is_top in suspects:
        for document in documents:
            if reasons[document] is None:
                listed = words.lists[document]
                found = _top(listed, n) if is_top else find_all_duplicate(listed, n)
                if found / len(texts[document]) > limit:
                    reasons[document] = f"top_{n}_gram" if is_top else f"duplicated_{n}_n_grams"
    return reasons


def _top(words: list[str], n: int) -> int:
    grams = get_n_grams(words, n)
    return int(find_top_duplicate(grams)) if grams else 0


class _NGrams:
    """Upper bounds of what n-grams make up. A gram is named by the place of its first word."""

    def __init__(self, words: Words) -> None:
        lexicon, numbers = words.lexicon, words.numbers
        self._numbers = numbers.astype(np.uint64)
        self._hashes, self._powers = lexicon.hashes[numbers], lexicon.powers[numbers]
        self._offsets = np.concatenate([[0], np.cumsum(lexicon.lengths[numbers])])
        """Characters before each word, without the space between words."""
        counts = np.diff(words.starts)
        self._documents = np.repeat(np.arange(len(counts)), counts)
        self._left = words.starts[1:][self._documents] - np.arange(len(numbers))
        """Words from each place to the end of its document."""
        self._starts, self._counts = words.starts[:-1], counts
        self._bits = np.uint64(max(1, len(numbers).bit_length()))

    def top_bounds(self, lengths: set[int]) -> dict[int, Numbers]:
        """For each n and document, at least the characters of its most frequent n-gram, spaces between words counted."""
        found: dict[int, Numbers] = {}
        keys = np.zeros_like(self._numbers)
        for n in range(1, max(lengths, default=0) + 1):
            keys = self._shifted(keys, n, self._numbers, None)
            if n not in lengths:
                continue
            long_enough = self._counts >= n
            first = self._starts[long_enough]
            bound = np.zeros(len(self._counts), np.int64)
            bound[long_enough] = self._offsets[first + n] - self._offsets[first] + n - 1  # if no n-gram occurs twice
            groups, places = self._grouped(keys, n)
            begins = np.flatnonzero(np.concatenate([[True], groups[1:] != groups[:-1]])) if len(groups) else groups
            times = np.diff(np.concatenate([begins, [len(groups)]]))
            places, times = places[begins[times > 1]], times[times > 1]
            sizes = (self._offsets[places + n] - self._offsets[places] + n - 1) * times
            np.maximum.at(bound, self._documents[places], sizes)
            found[n] = bound
        return found

    def duplicate_bounds(self, lengths: set[int]) -> dict[int, Numbers]:
        """For each n and document, at least the characters in n-grams that occurred before; without the spaces."""
        found: dict[int, Numbers] = {}
        keys = np.zeros_like(self._numbers)
        for n in range(1, max(lengths, default=0) + 1):
            keys = self._shifted(keys, n, self._hashes, self._powers)
            if n not in lengths:
                continue
            groups, places = self._grouped(keys, n)
            again = np.sort(places[1:][groups[1:] == groups[:-1]])
            ends = np.minimum(again + n, np.concatenate([again[1:], again[-1:] + n]))
            sizes = self._offsets[ends] - self._offsets[again]
            bound = np.zeros(len(self._counts), np.int64)
            np.add.at(bound, self._documents[again], sizes)
            found[n] = bound
        return found

    def _shifted(self, keys: Hashes, n: int, values: Hashes, factors: Hashes | None) -> Hashes:
        """The key of each n-gram from those of the (n-1)-grams; only places with n words left count."""
        keys = keys[: max(0, len(values) - n + 1)]
        return keys * (_MIX if factors is None else factors[n - 1 :]) + values[n - 1 :]

    def _grouped(self, keys: Hashes, n: int) -> tuple[Hashes, Numbers]:
        """Places ordered so that those of equal n-grams of one document follow each other, with what tells groups apart."""
        places = np.flatnonzero(self._left[: len(keys)] >= n)
        own = self._documents[places].astype(np.uint64)
        mixed = (keys[places] + own * _SPREAD) * _MIX  # place in the low bits: sorting keeps the order of equal ones
        mixed ^= mixed >> np.uint64(32)
        mixed *= _SPREAD
        packed = np.sort((mixed >> self._bits << self._bits) | places.astype(np.uint64))
        return packed >> self._bits, (packed & ((np.uint64(1) << self._bits) - np.uint64(1))).astype(np.int64)
