"""What an assessment is made from, as values: a curation's report and survey, and what the models of a commit want.

Invariant: plain values, however they came about, so that ``assess`` is tested without a ledger or a store.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from forge.contract.survey import Survey
from forge.report.readiness import Size, TokenCount
from forge.spec.data_recipe import DataRecipeSpec

REPORT_FILE = "report.json"
_Count = Annotated[int, Field(ge=0)]


class _Read(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class SourceReport(_Read):
    """What became of a source's documents."""

    read: Size
    kept: Size
    removed: dict[str, _Count]


class CurateReport(_Read):
    """The product ``report`` of a curation."""

    schema_version: Literal[1]
    sources: tuple[SourceReport, ...]
    removed: dict[str, _Count]
    personal_data_replaced: dict[str, _Count]
    control_tokens_neutralised: _Count
    splits: dict[Literal["train", "validation"], Size]


@dataclass(frozen=True)
class Use:
    """A model that reads the recipe."""

    model: str
    objective: str
    reads: str
    """``data``, ``replay``, or as the training's input is called."""
    parameters: int | None
    planned_tokens: int | None
    """Of this recipe's tokens, repeats counted."""
    tokens: TokenCount | None
    """None where they were not counted."""
    tokenizer: str
    bytes_per_token: float | None
    """As the tokenizer needed where it was checked; None where there is no tokenizer yet."""


@dataclass(frozen=True)
class Material:
    """All that an assessment is made from."""

    recipe: str
    commit: str
    curated: str
    documents: str
    spec: DataRecipeSpec
    report: CurateReport
    survey: Survey | None
    survey_fault: str
    """Why there is no survey."""
    survey_remedy: str
    """How one comes about."""
    uses: tuple[Use, ...]
    evaluated: Mapping[str, tuple[str, ...]]
    """Suite -> models that read the recipe and are evaluated on it."""
    withdrawn: tuple[str, ...] = ()
    """What is withdrawn of it, and why."""
    is_lost: bool = False
    """The store has no documents."""
