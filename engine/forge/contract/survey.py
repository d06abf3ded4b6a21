"""What a curation leaves for ``forge assess`` beside its products: samples of what it removed, and a look at what it kept.

Invariant: a by-product, so that it shapes no key and no product, and recipes that were curated before keep their digests. No
value of personal data stands in it: excerpts and ids are redacted by every rule there is, whatever the recipe asks for. Of
documents that went for their licence, or because they repeat an evaluation suite, it holds no text: the one is not ours to
keep, the other stays with the suite.
"""

from operator import not_
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

SURVEY_FILE = "survey.json"
BYPRODUCT = "survey"
"""The name of the by-product."""

UNDETERMINED = "und"
"""ISO 639-2 for a text whose language cannot be told."""

_Count = Annotated[int, Field(ge=0)]


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class Sample(_Value):
    """A document that a rule removed."""

    source: _Count
    id: str
    """Redacted and shortened."""
    bytes: _Count
    excerpt: str | None
    """The beginning, redacted; None where the rule's documents are not shown."""


class LanguageShare(_Value):
    """How much of what was looked at is in one language."""

    documents: _Count
    bytes: _Count


class SuiteCoverage(_Value):
    """How much of an evaluation suite the documents were cleaned of."""

    looked_for: _Count
    """Items of which a text was long enough to be looked for."""
    too_short: _Count
    """Items that nobody looked for: all their texts are shorter."""


class Survey(_Value):
    """The by-product."""

    schema_version: Literal[1] = 1
    samples_per_rule: _Count
    """At most so many of each rule; which ones is drawn by a hash, so it depends on the documents alone."""
    samples: dict[str, tuple[Sample, ...]]
    """By rule."""
    lengths: tuple[dict[str, _Count], ...]
    """For each source: bits of the length in bytes -> documents kept. 10 stands for 512 to 1023 bytes."""
    documents: _Count
    """So many of the kept documents were drawn, by a hash, and looked at for the three fields below."""
    characters: _Count
    """At most so many characters of each were looked at."""
    languages: dict[str, LanguageShare] | None
    """ISO 639 code, or ``und``; None where it could not be told."""
    languages_fault: str = ""
    """Why it could not."""
    personal_data: dict[str, _Count]
    """Type -> what is still in the documents that were looked at, after the recipe's own redaction."""
    suites: dict[str, SuiteCoverage] = Field(default={}, exclude_if=not_)
    """By name; of those that the recipe is cleaned of."""

    def to_bytes(self) -> bytes:
        """The file."""
        return self.model_dump_json(indent=1).encode() + b"\n"
