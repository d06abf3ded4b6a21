"""DataRecipe: which files, under which licence, become training documents, and what is filtered on the way."""

from collections.abc import Iterable
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from forge.spec.fields import ContentOf, EvalSuiteRef, FileOrder, Part, Regions, RepoPath
from forge.spec.licenses import checked_license
from forge.spec.meaning import GOVERN, NONE, REBUILD
from forge.spec.phone_regions import PhoneRegions
from forge.spec.remote import GitFiles, RemoteFile


class Source(Part):
    """Files that hold documents: of this repository (``path``), of a commit of another (``git``), or behind URLs (``files``).

    ``.jsonl`` and ``.jsonl.gz``: one JSON object a line; ``.parquet``: one document a row; ``.txt``, ``.md``, ``.html``,
    ``.pdf``, ``.docx`` and source code (``spec.formats``): one document a file.
    """

    path: Annotated[RepoPath | None, ContentOf(), REBUILD] = None
    """A glob from the repository's root. The files' bytes, order and suffixes, not their names, are the identity."""
    order: Annotated[FileOrder, REBUILD] = "path"
    """Of the files that ``path`` names. content: no renaming changes it, and so none curates again."""
    git: Annotated[GitFiles | None, REBUILD] = None
    files: Annotated[list[RemoteFile], REBUILD] = []
    regions: Annotated[Regions | None, GOVERN] = None
    """Where these documents may be stored and worked at; None: wherever the recipe's may."""
    text_key: Annotated[str, REBUILD] = "text"
    id_key: Annotated[str, REBUILD] = "id"
    url_key: Annotated[str | None, REBUILD] = None
    """The JSON field that holds a document's URL, for ``dedup.url``; a document may be without one."""
    license_key: Annotated[str | None, REBUILD] = None
    """The JSON field that holds a document's own licence, an SPDX expression. A document without one is not kept."""
    license: Annotated[str, Field(min_length=1), NONE]
    """SPDX expression of the licence that the documents stand under; with ``license_key``, of all of them together."""
    origin: Annotated[str, Field(min_length=1), NONE]
    """Where the documents come from, in words or as a URL."""

    @model_validator(mode="after")
    def _comes_from_one_place(self) -> Self:
        written = [name for name in ("path", "git", "files") if getattr(self, name)]
        if len(written) != 1:
            found = ", ".join(f"`{name}`" for name in written) or "none of them"
            raise ValueError(f"expected one of `path`, `git` and `files`, found {found}")
        if self.path is None and self.order != "path":
            raise ValueError("`order` is that of the files which `path` names: leave it out")
        if len({file.sha256 for file in self.files}) < len(self.files):
            raise ValueError("`files` names the same bytes twice: list each file once")
        return self

    @property
    def is_remote(self) -> bool:
        """Whether its files come from outside of the repository."""
        return self.path is None

    @property
    def place(self) -> str:
        """How plans and reports call where its files are."""
        if self.git is not None:
            return self.git.place
        more = f" and {len(self.files) - 1} more" if len(self.files) > 1 else ""
        return self.path or f"{self.files[0].url}{more}"


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


class Language(Part):
    """Documents in these languages stay: fastText's lid.176 (Joulin et al. 2016), which comes with an installed package."""

    allow: Annotated[list[Annotated[str, Field(pattern="^[a-z]{2,3}$")]], Field(min_length=1), REBUILD]
    """ISO 639 codes such as ``en``, as lid.176 writes them."""
    min_score: Annotated[float, Field(ge=0, lt=1), REBUILD] = 0.65
    """A document stays when one of the languages has a higher score."""


class C4Quality(Part):
    """Raffel et al. 2020, section 2.2; datatrove's C4QualityFilter. Drops lines, and documents that have too few left."""

    remove_citations: Annotated[bool, REBUILD] = True
    """Take ``[1]``, ``[edit]`` and ``[citation needed]`` out of lines."""
    require_terminal_punctuation: Annotated[bool, REBUILD] = True
    min_sentences: Annotated[int | None, Field(ge=0), REBUILD] = 5
    min_words_per_line: Annotated[int | None, Field(ge=0), REBUILD] = 3
    max_word_length: Annotated[int | None, Field(ge=1), REBUILD] = 1000
    drop_lorem_ipsum: Annotated[bool, REBUILD] = True
    drop_curly_brackets: Annotated[bool, REBUILD] = True
    """Documents with a ``{``: switch it off for source code."""
    remove_javascript_lines: Annotated[bool, REBUILD] = True
    remove_policy_lines: Annotated[bool, REBUILD] = True
    """Lines about cookies, terms of use and privacy."""


class FineWebQuality(Part):
    """Penedo et al. 2024, section 3.6; datatrove's FineWebQualityFilter."""

    min_punctuated_lines_ratio: Annotated[float, Field(ge=0, le=1), REBUILD] = 0.12
    """Least share of lines that end with a sign that ends a sentence."""
    allow_no_punctuated_line: Annotated[bool, REBUILD] = False
    max_short_lines_ratio: Annotated[float, Field(ge=0, le=1), REBUILD] = 0.67
    short_line_characters: Annotated[int, Field(ge=0), REBUILD] = 30
    max_duplicate_characters_ratio: Annotated[float, Field(ge=0, le=1), REBUILD] = 0.01
    max_lines_to_words_ratio: Annotated[float, Field(ge=0), REBUILD] = 0.3


class Filters(Part):
    """Quality filters, applied in the order of these fields; one that is absent does not run."""

    language: Annotated[Language | None, REBUILD] = None
    gopher_repetition: Annotated[GopherRepetition | None, REBUILD] = None
    gopher_quality: Annotated[GopherQuality | None, REBUILD] = None
    c4_quality: Annotated[C4Quality | None, REBUILD] = None
    fineweb_quality: Annotated[FineWebQuality | None, REBUILD] = None


class MinHash(Part):
    """Near-duplicate removal (Broder 1997) over word n-grams: similarity threshold ~ (1/buckets)^(1/hashes_per_bucket)."""

    ngram: Annotated[int, Field(ge=1, le=32), REBUILD] = 5
    buckets: Annotated[int, Field(ge=1, le=128), REBUILD] = 14
    hashes_per_bucket: Annotated[int, Field(ge=1, le=64), REBUILD] = 8


class Dedup(Part):
    """Duplicate removal over all sources together; of equal documents the first in reading order stays."""

    url: Annotated[bool, REBUILD] = False
    """Of documents with the same URL, as their source's ``url_key`` gives it, the first stays."""
    exact: Annotated[bool, REBUILD] = False
    minhash: Annotated[MinHash | None, REBUILD] = None


class Pii(Part):
    """Personal data that is replaced by a fixed placeholder; the report counts replacements and never shows values."""

    emails: Annotated[bool, REBUILD] = False
    ip_addresses: Annotated[bool, REBUILD] = False
    ibans: Annotated[bool, REBUILD] = False
    """Bank account numbers whose check digits are right (ISO 13616)."""
    credit_cards: Annotated[bool, REBUILD] = False
    """Card numbers whose check digit is right (Luhn) and that begin as an issuer's do."""
    phone_numbers: Annotated[bool, REBUILD] = False
    """With the country's code; written as within a country (``030 901820``), those of ``phone_regions``."""
    phone_regions: Annotated[PhoneRegions, REBUILD] = []
    """Countries, by their two letters (ISO 3166), whose own way to write telephone numbers is looked for too."""

    @model_validator(mode="after")
    def _asks_for_numbers_of_regions(self) -> Self:
        if self.phone_regions and not self.phone_numbers:
            raise ValueError("`phone_regions` adds to what `phone_numbers` finds: write `phone_numbers: true` beside it")
        return self


class Split(Part):
    """Documents held out from training. Membership is a hash of seed and text, so it does not depend on order."""

    validation_fraction: Annotated[float, Field(gt=0, lt=1), REBUILD]
    seed: Annotated[int, Field(ge=0), REBUILD] = 0


class DataRecipeSpec(Part):
    """The body of a DataRecipe."""

    sources: Annotated[list[Source], Field(min_length=1), REBUILD]
    allow_licenses: Annotated[list[Annotated[str, AfterValidator(checked_license)]] | None, REBUILD] = None
    """SPDX licences that documents may stand under; a source, or a document, under none of them is refused."""
    regions: Annotated[Regions | None, GOVERN] = None
    """Where documents and what is derived of them may be stored and worked at (docs/data.md, "Residency"); None: anywhere."""
    filters: Annotated[Filters, REBUILD] = Filters()
    dedup: Annotated[Dedup, REBUILD] = Dedup()
    pii: Annotated[Pii, REBUILD] = Pii()
    decontaminate_against: Annotated[list[EvalSuiteRef], REBUILD] = []
    """Suites whose items no document may repeat; their files are inputs of the curation."""
    decontamination_ngram: Annotated[int, Field(ge=8, le=64), REBUILD] = 13
    """A document goes that shares so many consecutive words with an item (Brown et al. 2020, appendix C), or all the words of
    a field of an item that has at least eight."""
    split: Annotated[Split, REBUILD]
    edition: Annotated[Literal[1, 2], REBUILD] = 1
    """By which rules it is curated (docs/data.md, "Editions"). 2: for new recipes; 1: as those before it were."""
    language: Annotated[Literal["en"], REBUILD] = "en"
    """Chooses the word splitter's rules and the stop words."""

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.dedup.url and all(source.url_key is None for source in self.sources):
            raise ValueError("`dedup.url` needs a source that says its `url_key`, and none does")
        if len(set(self.decontaminate_against)) < len(self.decontaminate_against):
            raise ValueError("`decontaminate_against` names a suite twice")
        if self.allowed_regions == []:
            raise ValueError("no region is allowed by `regions` of the recipe and of all its sources: split the recipe")
        return self

    @property
    def allowed_regions(self) -> list[str] | None:
        """Regions in which all of its data may be, sorted; None: anywhere."""
        return common_regions([self.regions, *(source.regions for source in self.sources)])


def common_regions(declared: Iterable[list[str] | None]) -> list[str] | None:
    """The regions that all declarations have in common, sorted; None where none restricts anything."""
    sets = [set(item) for item in declared if item is not None]
    return sorted(set.intersection(*sets)) if sets else None
