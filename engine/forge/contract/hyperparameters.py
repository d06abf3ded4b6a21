"""What a sweep step makes: values of the fields that are searched, which a training reads."""

from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict

from forge.canonical import canonical_json

HYPERPARAMETERS = "hyperparameters"
"""The product of a sweep step, and the input of the training that reads it."""
HYPERPARAMETERS_FILE = "hyperparameters.json"


class Pick(StrEnum):
    """What a sweep step chooses."""

    WRITTEN = "written"
    """The values that the model has as it is written: the first trial."""
    NEXT = "next"
    """Those of a further trial, as the sampler draws them."""
    BEST = "best"
    """Those of the best trial."""


class Hyperparameters(BaseModel):
    """The ``hyperparameters.json`` of a sweep step. It does not say which trial it is of: equal values are equal bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    schema_version: Literal[1] = 1
    values: dict[str, int | float]
    """By field of the Model's body, dotted."""

    def to_bytes(self) -> bytes:
        """The canonical bytes of the file."""
        return canonical_json(self.model_dump(mode="json")) + b"\n"
