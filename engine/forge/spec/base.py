"""What a model begins with, where it is not random weights: another model of the commit, or a folder."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Discriminator, Field, Tag

from forge.spec.fields import ContentOf, ModelRef, Part, RepoPath
from forge.spec.meaning import NONE, REBUILD


class ModelBase(Part):
    """A model of the same commit: whenever its weights change, so does what continues it."""

    hints: ClassVar[Mapping[str, str]] = {"path": "a base is a model or a folder: leave out `model` or `path`"}

    model: Annotated[ModelRef, REBUILD]


class FolderBase(Part):
    """A folder of the repository as Hugging Face writes it: config.json, safetensors, tokenizer.json and its config."""

    hints: ClassVar[Mapping[str, str]] = ModelBase.hints

    path: Annotated[RepoPath, ContentOf(), REBUILD]
    """From the repository's root. The files' bytes are the identity, so the commit pins them; weights are safetensors only."""
    license: Annotated[str, Field(min_length=1), NONE]
    """SPDX expression of the licence that the weights stand under."""
    origin: Annotated[str, Field(min_length=1), NONE]
    """Where the weights come from, in words or as a URL."""


def _kind_of_base(value: Any) -> str | None:
    names = value if isinstance(value, Mapping) else type(value).model_fields if isinstance(value, Part) else ()
    return next((kind.__name__ for name, kind in (("model", ModelBase), ("path", FolderBase)) if name in names), None)


Base = Annotated[
    Annotated[ModelBase, Tag("ModelBase")] | Annotated[FolderBase, Tag("FolderBase")],
    Discriminator(
        _kind_of_base,
        custom_error_type="base",
        custom_error_message="expected `model: Model/NAME`, or `path: FOLDER` with its licence and origin",
    ),
]
