"""What ``forge assess`` says of a recipe's documents, as values: volume, quality, and the findings that the answer rests on.

Invariant: the answer is a function of the findings alone, and each finding names a rule that docs/readiness.md writes down.
None means "cannot tell". Nothing here holds a value of personal data, or text that a survey does not show.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from forge.contract.survey import LanguageShare, Sample


class Answer(StrEnum):
    """Whether the documents are usable for training."""

    READY = "ready"
    """No finding."""
    WARNINGS = "usable with warnings"
    """Nothing stands against it, but somebody should look."""
    NOT_USABLE = "not usable"
    """At least one finding stands against it."""


class Rule(StrEnum):
    """What a finding is about."""

    WITHDRAWN = "withdrawn"
    """The recipe, its documents or a file of its sources is withdrawn."""
    LOST = "lost"
    """The store no longer has the documents."""
    EMPTY = "empty"
    """There is nothing to train on."""
    LICENSE = "license"
    """A source's licence is not allowed, or is no SPDX expression."""
    LANGUAGE = "language"
    """Much is in languages that the recipe is not for."""
    REPEATS = "repeats"
    """A model reads the documents more often than they are worth."""
    VOLUME = "volume"
    """There is less than a model's size asks for."""
    UNUSED = "unused"
    """No model of the commit reads the recipe."""
    DUPLICATES = "duplicates"
    """Nobody looked for equal, or for nearly equal, documents."""
    PERSONAL_DATA = "personal-data"
    """There is personal data in the documents, or nobody looked."""
    CONTAMINATION = "contamination"
    """A model is evaluated on what its data was not cleaned of, or much had to be cleaned away."""
    REMOVAL = "removal"
    """The filters leave little of a source, or of everything."""
    VALIDATION = "validation"
    """Too few documents are held out to measure with."""
    SURVEY = "survey"
    """Something could not be looked at."""


@dataclass(frozen=True)
class Finding:
    """What a rule has to say."""

    rule: Rule
    blocks: bool
    """Whether it stands against using the documents; else it is a warning."""
    message: str
    remedy: str


@dataclass(frozen=True)
class Size:
    """A number of documents, and the UTF-8 bytes of their texts."""

    documents: int
    bytes: int


@dataclass(frozen=True)
class SourceQuality:
    """One source of the recipe."""

    path: str
    license: str
    license_fault: str
    """Empty where there is none."""
    origin: str
    read: Size
    kept: Size
    removed: tuple[tuple[str, int], ...]
    """Rule and documents, the most first."""
    lengths: tuple[tuple[int, int], ...]
    """Bits of the length in bytes, and documents that are kept."""


@dataclass(frozen=True)
class TokenCount:
    """How many tokens the training documents are for a model."""

    train: int
    counted: bool
    """False: an estimate."""
    basis: str
    """How it is known."""


@dataclass(frozen=True)
class Need:
    """What a model asks of the documents."""

    model: str
    objective: str
    reads: str
    """``data`` or ``replay``, or as the training's input is called."""
    parameters: int | None
    tokens: TokenCount
    planned_tokens: int | None
    """Tokens of these documents that the model is to be trained on, repeats counted."""
    optimal_tokens: int | None
    """Compute-optimal for its size (Hoffmann et al. 2022); None for a model that begins with trained weights."""
    epochs: float | None
    """Planned tokens over tokens."""
    worth_tokens: int | None
    """New tokens that the planned ones, repeats among them, are worth (Muennighoff et al. 2023)."""


@dataclass(frozen=True)
class DuplicateCount:
    """One kind of duplicates."""

    kind: str
    looked_for: bool
    removed: int


@dataclass(frozen=True)
class PersonalCount:
    """One type of personal data; counts, never values."""

    type: str
    is_replaced: bool
    """Whether the recipe asks for it."""
    replaced: int
    left: int | None
    """In what was looked at of the kept documents."""


@dataclass(frozen=True)
class SuiteCount:
    """An evaluation suite that the documents are cleaned of, or that a model which reads them is evaluated on."""

    suite: str
    is_cleaned: bool
    removed: int
    models: tuple[str, ...]
    looked_for: int | None = None
    """Items that documents were compared with; None where nobody counted."""
    too_short: int | None = None
    """Items that are too short to be looked for."""


@dataclass(frozen=True)
class Readiness:
    """The assessment."""

    recipe: str
    commit: str
    """The one that was assessed."""
    curated: str
    """The commit at which the documents were made."""
    documents: str
    """Digest of the documents."""
    findings: tuple[Finding, ...]
    read: Size
    train: Size
    validation: Size
    sources: tuple[SourceQuality, ...]
    removed: tuple[tuple[str, int], ...]
    """Rule and documents, the most first."""
    samples: Mapping[str, tuple[Sample, ...]]
    """By rule; empty where there is no survey."""
    surveyed: int | None
    """Kept documents that were looked at."""
    surveyed_characters: int
    """At most so many characters of each."""
    languages: Mapping[str, LanguageShare] | None
    needs: tuple[Need, ...]
    duplicates: tuple[DuplicateCount, ...]
    personal_data: tuple[PersonalCount, ...]
    control_tokens: int
    suites: tuple[SuiteCount, ...]
    allowed_licenses: tuple[str, ...] | None

    @property
    def answer(self) -> Answer:
        """Follows from the findings."""
        if any(finding.blocks for finding in self.findings):
            return Answer.NOT_USABLE
        return Answer.WARNINGS if self.findings else Answer.READY
