"""Tokenizer: how text becomes token ids, learnt by sentencepiece from a recipe's training documents."""

from typing import Annotated, Literal

from pydantic import Field

from forge.spec.fields import Count, DataRecipeRef, Part
from forge.spec.meaning import REBUILD


class TokenizerSpec(Part):
    """The body of a Tokenizer.

    Ids 0, 1 and 2 are ``<unk>``, ``<s>`` and ``</s>``; text that no piece covers falls back to 256 byte pieces.
    """

    data: Annotated[DataRecipeRef, REBUILD]
    algorithm: Annotated[Literal["bpe", "unigram"], REBUILD] = "bpe"
    vocab_size: Annotated[Count, Field(ge=512, le=1_000_000), REBUILD]
    character_coverage: Annotated[float, Field(gt=0.9, le=1.0), REBUILD] = 0.9995
    split_digits: Annotated[bool, REBUILD] = True
    """Each digit is a token of its own, which helps with numbers."""
