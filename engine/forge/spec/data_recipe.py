"""DataRecipe: which files, under which licence, become training documents, and what is filtered on the way."""

from typing import Annotated, Literal

from pydantic import Field

from forge.spec.fields import ContentOf, Part, RepoPath
from forge.spec.meaning import NONE, REBUILD


class Source(Part):
    """Files in the repository that hold documents, one JSON object a line."""

    path: Annotated[RepoPath, ContentOf(), REBUILD]
    """A glob from the repository's root; ``.jsonl`` or ``.jsonl.gz``. The files' bytes, not their names, are the identity."""
    text_key: Annotated[str, REBUILD] = "text"
    id_key: Annotated[str, REBUILD] = "id"
    license: Annotated[str, Field(min_length=1), NONE]
    """SPDX expression of the licence that the documents stand under."""
    origin: Annotated[str, Field(min_length=1), NONE]
    """Where the documents come from, in words or as a URL."""


class GopherQuality(Part):
    """Rae et al. 2021, table A1; datatrove's GopherQualityFilter. None switches a rule off."""

    min_doc_words: Annotated[int | None, Field(ge=0), REBUILD] = 50
    max_doc_words: Annotated[int | None, Field(ge=1), REBUILD] = 100_000
    min_avg_word_length: Annotated[float | None, Field(ge=0), REBUILD] = 3.0
    max_avg_word_length: Annotated[float | None, Field(ge=0), REBUILD] = 10.0
    max_symbol_word_ratio: Annotated[float | None, Field(ge=0, le=1), REBUILD] = 0.1
    max_bullet_lines_ratio: Annotated[float | None, Field(ge=0, le=1), REBUILD] = 0.9
    max_ellipsis_lines_ratio: Annotated[float | None, Field(ge=0, le=1), REBUILD] = 0.3
    max_non_alpha_words_ratio: Annotated[float | None, Field(ge=0, le=1), REBUILD] = 0.8
    """Least share of words that hold a letter (datatrove's name). Its default drops most technical text: lower it there."""
    min_stop_words: Annotated[int | None, Field(ge=0), REBUILD] = 2


class NGramLimit(Part):
    """How much of a document's characters repeated runs of n words may make up."""

    n: Annotated[int, Field(ge=1, le=32), REBUILD]
    max_fraction: Annotated[float, Field(ge=0, le=1), REBUILD]


def _limits(*pairs: tuple[int, float]) -> list[NGramLimit]:
    return [NGramLimit(n=n, max_fraction=fraction) for n, fraction in pairs]


class GopherRepetition(Part):
    """Rae et al. 2021, table A1; datatrove's GopherRepetitionFilter. None, or an empty list, switches a rule off."""

    dup_line_fraction: Annotated[float | None, Field(ge=0, le=1), REBUILD] = 0.3
    dup_paragraph_fraction: Annotated[float | None, Field(ge=0, le=1), REBUILD] = 0.3
    dup_line_character_fraction: Annotated[float | None, Field(ge=0, le=1), REBUILD] = 0.2
    dup_paragraph_character_fraction: Annotated[float | None, Field(ge=0, le=1), REBUILD] = 0.2
    top_n_grams: Annotated[list[NGramLimit], REBUILD] = _limits((2, 0.20), (3, 0.18), (4, 0.16))
    """Characters in the most frequent n-gram of a document. An n-gram that occurs once counts too: short texts fail."""
    dup_n_grams: Annotated[list[NGramLimit], REBUILD] = _limits(
        (5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10)
    )
    """Characters in all n-grams that occurred before in the same document."""


class Filters(Part):
    """Quality filters, applied in the order of these fields; one that is absent does not run."""

    gopher_repetition: Annotated[GopherRepetition | None, REBUILD] = None
    gopher_quality: Annotated[GopherQuality | None, REBUILD] = None


class MinHash(Part):
    """Near-duplicate removal (Broder 1997) over word n-grams: similarity threshold ~ (1/buckets)^(1/hashes_per_bucket)."""

    ngram: Annotated[int, Field(ge=1, le=32), REBUILD] = 5
    buckets: Annotated[int, Field(ge=1, le=128), REBUILD] = 14
    hashes_per_bucket: Annotated[int, Field(ge=1, le=64), REBUILD] = 8


class Dedup(Part):
    """Duplicate removal over all sources together; of equal documents the first in reading order stays."""

    exact: Annotated[bool, REBUILD] = False
    minhash: Annotated[MinHash | None, REBUILD] = None


class Pii(Part):
    """Personal data that is replaced by a fixed placeholder; the report counts replacements and never shows values."""

    emails: Annotated[bool, REBUILD] = False
    ip_addresses: Annotated[bool, REBUILD] = False
    phone_numbers: Annotated[bool, REBUILD] = False


class Split(Part):
    """Documents held out from training. Membership is a hash of seed and text, so it does not depend on order."""

    validation_fraction: Annotated[float, Field(gt=0, lt=1), REBUILD]
    seed: Annotated[int, Field(ge=0), REBUILD] = 0


class DataRecipeSpec(Part):
    """The body of a DataRecipe."""

    sources: Annotated[list[Source], Field(min_length=1), REBUILD]
    filters: Annotated[Filters, REBUILD] = Filters()
    dedup: Annotated[Dedup, REBUILD] = Dedup()
    pii: Annotated[Pii, REBUILD] = Pii()
    split: Annotated[Split, REBUILD]
    language: Annotated[Literal["en"], REBUILD] = "en"
    """Chooses the word splitter's rules and the stop words."""
