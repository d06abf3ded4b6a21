"""Our filters and signatures decide as datatrove's own do: the same documents, the same reasons, the same bits."""

import gzip
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datatrove.data import Document
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
from datatrove.pipeline.filters.gopher_quality_filter import GopherQualityFilter
from datatrove.pipeline.filters.gopher_repetition_filter import GopherRepetitionFilter
from datatrove.utils.text import PUNCTUATION, simplify_text
from hypothesis import example, given
from hypothesis import strategies as st

from forge.spec.data_recipe import Filters, GopherQuality, GopherRepetition, MinHash, NGramLimit
from forge.steps.curate import documents, lexicon, sieve, signatures
from forge.steps.curate.words import RegexWordTokenizer, words_of

CORPUS = Path(__file__).resolve().parents[3] / "models" / "handbook" / "corpus"
STRICT = GopherQuality(max_non_alpha_words_ratio=0.8)
LIMITS = [NGramLimit(n=n, max_fraction=0.02) for n in (2, 3, 5, 9)]
TIGHT = GopherRepetition(dup_line_fraction=0.05, top_n_grams=LIMITS, dup_n_grams=LIMITS)
TRACES = [
    "the",
    "a",
    "ab",
    "b",
    "bab",
    "10",
    "0",
    "1.5",
    "00",
    "-",
    "#",
    "...",
    "•",
    "don't",
    "of",
    "and",
    "\n",
    "\n\n",
    "étude",
    "\uff11",
]
"""Words that run together in more than one way, repeat, and mean something to a filter."""
prose = st.lists(st.sampled_from(TRACES), min_size=1, max_size=60).flatmap(
    lambda words: st.sampled_from(["", " ", "  "]).map(lambda space: space.join(words))
)
visible = (prose | st.text(min_size=1)).filter(lambda text: text.strip() != "")


def reasons(texts: list[str], rules: Filters) -> list[str | None]:
    """Why each text is dropped, each judged among the others."""
    found = {}
    own = sieve.Sieve(rules)
    for number, text in enumerate(texts):
        removed = Counter[str]()
        own.sift([documents.Document(str(number), text)], removed)
        found[number] = next(iter(removed), None)
    together = own.sift([documents.Document(str(number), text) for number, text in enumerate(texts)], Counter())
    kept = {int(document.id) for document in together}
    assert kept == {number for number, reason in found.items() if reason is None}
    return list(found.values())


def of_datatrove(texts: list[str], block: Any) -> Iterator[str | None]:
    for text in texts:
        answer = block.filter(Document(text=text, id=""))
        yield None if answer is True else answer[1].removeprefix("gopher_")


def repetition_block(rules: GopherRepetition) -> GopherRepetitionFilter:
    return GopherRepetitionFilter(
        dup_line_frac=rules.dup_line_fraction,
        dup_para_frac=rules.dup_paragraph_fraction,
        dup_line_char_frac=rules.dup_line_character_fraction,
        dup_para_char_frac=rules.dup_paragraph_character_fraction,
        top_n_grams=[(limit.n, limit.max_fraction) for limit in rules.top_n_grams],
        dup_n_grams=[(limit.n, limit.max_fraction) for limit in rules.dup_n_grams],
        language=RegexWordTokenizer(),
    )


def check_repetition(texts: list[str], rules: GopherRepetition) -> None:
    expected = [reason and f"gopher_repetition.{reason}" for reason in of_datatrove(texts, repetition_block(rules))]
    assert reasons(texts, Filters(gopher_repetition=rules)) == expected


def check_quality(texts: list[str], rules: GopherQuality) -> None:
    block = GopherQualityFilter(**rules.model_dump(), language=RegexWordTokenizer())
    expected = [reason and f"gopher_quality.{reason}" for reason in of_datatrove(texts, block)]
    assert reasons(texts, Filters(gopher_quality=rules)) == expected


@pytest.fixture(scope="module")
def manual() -> list[str]:
    with gzip.open(CORPUS / "developers-reference.jsonl.gz") as file:
        return [json.loads(line)["text"] for line in file]


@pytest.mark.parametrize("rules", [GopherRepetition(), TIGHT])
def test_repetition_in_a_real_manual(manual: list[str], rules: GopherRepetition) -> None:
    check_repetition(manual, rules)


@pytest.mark.parametrize("rules", [GopherQuality(), STRICT])
def test_quality_in_a_real_manual(manual: list[str], rules: GopherQuality) -> None:
    check_quality(manual, rules)


@given(st.lists(visible, min_size=1, max_size=4), st.sampled_from([GopherRepetition(), TIGHT]))
@example(["ab a b " * 3, "a " * 400, "10 0 1 00 " * 9], TIGHT)
def test_repetition_of_any_text(texts: list[str], rules: GopherRepetition) -> None:
    check_repetition(texts, rules)


@given(
    st.lists(visible, min_size=1, max_size=4),
    st.sampled_from([0, 3]),
    st.sampled_from([None, 2.0, 4.0]),
    st.sampled_from([None, 0.2]),
)
@example(["\u2028 -a\x0b-b", "######", "… …", "x" * 300], 0, None, 0.2)
def test_quality_of_any_text(texts: list[str], least: int, average: float | None, share: float | None) -> None:
    check_quality(texts, GopherQuality(min_doc_words=least, min_avg_word_length=average, max_ellipsis_lines_ratio=share))


@given(st.lists(st.text() | st.sampled_from([*PUNCTUATION, "≠", "İ", "٣،٤", "ﬁ", "\u3000", "e\u0301", "각"])).map("".join))
@example("Ünïcödé “quotes” 1,234.5 ½ ① \u0969 Ω\u1fef\u037e \U0001d165 ᾍ ß")
def test_words_without_case_signs_and_diacritics(text: str) -> None:
    assert signatures.normalised_words(text) == words_of(simplify_text(text))


@given(st.lists(st.text(max_size=80) | prose, min_size=1, max_size=5))
@example(["one two three four", "a b c d e f g", "", "a b c d e f g"])
def test_signatures_of_any_text(texts: list[str]) -> None:
    signer = signatures.Signer(MinHash())
    theirs = MinhashDedupSignature("memory://unused", MinhashConfig(), language=RegexWordTokenizer())
    shingles = [signer._shingles(signatures.normalised_words(text)) for text in texts]
    ours = signer._signatures(shingles)
    for text, own, row in zip(texts, shingles, ours, strict=True):
        expected = theirs.get_shingles(text)
        assert own.tolist() == expected[:, 0].tolist()
        if len(own):
            assert row.tolist() == [number for band in theirs.get_signature(expected) for number in band]
    bands = signer.bands([signatures.normalised_words(text) for text in texts])
    assert [band[0] == signatures.NO_FINGERPRINT for band in bands] == [len(own) == 0 for own in shingles]


def test_a_signature_does_not_depend_on_how_its_shingles_are_cut(monkeypatch: pytest.MonkeyPatch, manual: list[str]) -> None:
    signer = signatures.Signer(MinHash(buckets=3, hashes_per_bucket=2))
    shingles = [
        signer._shingles(signatures.normalised_words(text)) for text in ["", *manual[:20], "", "too short", *manual[20:25]]
    ]
    whole = signer._signatures(shingles)
    monkeypatch.setattr(signatures, "_AT_ONCE", 97)
    assert np.array_equal(whole, signer._signatures(shingles))


def test_a_lexicon_that_forgets_judges_alike(monkeypatch: pytest.MonkeyPatch, manual: list[str]) -> None:
    rules = Filters(gopher_repetition=GopherRepetition(), gopher_quality=STRICT)
    found = []
    for limit in (1 << 18, 0):
        monkeypatch.setattr(lexicon, "_MAX_WORDS", limit)
        one = sieve.Sieve(rules)
        batches = [manual[start : start + 7] for start in range(0, len(manual), 7)]
        kept = [one.sift([documents.Document("", text) for text in batch], Counter()) for batch in batches]
        found.append([document.text for batch in kept for document in batch])
    assert found[0] == found[1]
    assert 0 < len(found[0]) < len(manual)


def test_long_words_hash_as_short_ones_do() -> None:
    word = "aé😀" * 120
    numbers = 0
    for character in word:
        numbers = (numbers * lexicon._BASE + ord(character) + 1) % (1 << 64)
    assert lexicon._hash(word) == numbers
