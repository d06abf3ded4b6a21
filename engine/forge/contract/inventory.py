"""The inventory: what a curation fetched from outside of its repository, file by file; a by-product of the step.

It is evidence and no input: the pinned digests in the parameters already decide every byte. A curation that fetches nothing
leaves none.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from forge.canonical import PREFIX, canonical_json

BYPRODUCT = "inventory"
INVENTORY_FILE = "inventory.json"


class FetchedFile(BaseModel):
    """One file."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    source: int = Field(ge=0)
    """The number of its source in the recipe."""
    path: str
    """In its repository; of a file behind a URL, its number among the source's."""
    format: str
    """How it was read: a format or the ending of a language (``spec.formats``)."""
    language: str = ""
    """Of source code, as GitHub's Linguist calls it."""
    size: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Inventory(BaseModel):
    """Everything that was fetched, in the order of reading."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    schema_version: Literal[1] = 1
    files: tuple[FetchedFile, ...]

    def to_bytes(self) -> bytes:
        """The canonical bytes."""
        return canonical_json(self.model_dump(mode="json", exclude_defaults=True) | {"schema_version": 1})


def pinned(parameters: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, str]]]:
    """What a curation's parameters pin: ``source-N`` and its ``gitCommit``, ``source-N/M`` and its ``sha256``.

    Parameters of a record may be anybody's: what is malformed pins nothing, and is a finding elsewhere.
    """
    sources = parameters.get("sources")
    for index, source in enumerate(sources if isinstance(sources, list) else ()):
        if not isinstance(source, dict):
            continue
        git, files = source.get("git"), source.get("files")
        if isinstance(git, dict) and isinstance(git.get("commit"), str):
            yield f"source-{index}", {"gitCommit": git["commit"]}
        for number, file in enumerate(files if isinstance(files, list) else ()):
            if isinstance(file, dict) and isinstance(file.get("sha256"), str):
                yield f"source-{index}/{number}", {"sha256": file["sha256"]}


def pinned_files(parameters: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """``source-N/M`` and digest of each file that a curation's parameters pin by its bytes."""
    return ((name, PREFIX + digest["sha256"]) for name, digest in pinned(parameters) if "sha256" in digest)
