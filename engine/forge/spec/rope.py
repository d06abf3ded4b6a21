"""Scaled rotary embeddings: how a model of the Llama family turns positions that it was not first trained on.

Names and formulas are transformers' (``modeling_rope_utils``). Here are those whose frequencies are the same at every length.
Those of ``dynamic`` and ``longrope`` are not: with them a model is one function of short texts and another of long ones, and
transformers asks how long a text is, vLLM how long it may be (docs/continue.md).
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from forge.spec.fields import Part
from forge.spec.meaning import REBUILD

_Factor = Annotated[float, Field(ge=1, allow_inf_nan=False)]
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class LinearRope(Part):
    """Every position divided by a factor (Chen et al. 2023)."""

    rope_type: Annotated[Literal["linear"], REBUILD]
    factor: Annotated[_Factor, REBUILD]


class Llama3Rope(Part):
    """Low frequencies divided by a factor, high ones left, those between interpolated (Llama 3.1)."""

    rope_type: Annotated[Literal["llama3"], REBUILD]
    factor: Annotated[_Factor, REBUILD]
    low_freq_factor: Annotated[_Positive, REBUILD]
    high_freq_factor: Annotated[_Positive, REBUILD]
    original_max_position_embeddings: Annotated[int, Field(ge=1), REBUILD]

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.high_freq_factor <= self.low_freq_factor:
            raise ValueError(
                "high_freq_factor must be greater than low_freq_factor: frequencies between the two are interpolated"
            )
        return self


class YarnRope(Part):
    """Frequencies interpolated by parts, and attention scaled (Peng et al. 2023)."""

    rope_type: Annotated[Literal["yarn"], REBUILD]
    factor: Annotated[_Factor, REBUILD]
    original_max_position_embeddings: Annotated[int, Field(ge=1), REBUILD]
    attention_factor: Annotated[_Positive | None, REBUILD] = None
    """None: what the paper derives from ``factor``, or from ``mscale`` and ``mscale_all_dim``."""
    beta_fast: Annotated[_Positive, REBUILD] = 32.0
    beta_slow: Annotated[_Positive, REBUILD] = 1.0
    mscale: Annotated[_Positive | None, REBUILD] = None
    mscale_all_dim: Annotated[_Positive | None, REBUILD] = None
    truncate: Annotated[bool, REBUILD] = True


RopeScaling = Annotated[LinearRope | Llama3Rope | YarnRope, Field(discriminator="rope_type")]
"""How rotary embeddings are scaled."""
