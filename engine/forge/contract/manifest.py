"""The manifest of an artifact: relative POSIX paths with size and sha256. The artifact's name is the manifest's digest.

Invariant: equal trees of files give equal manifests; nothing about time, owner, mode or place enters.
"""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from forge.canonical import Digest, canonical_json, digest_of_bytes, is_digest


class ManifestFile(BaseModel):
    """One file of an artifact."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    path: str
    size: int = Field(ge=0)
    sha256: str

    @model_validator(mode="after")
    def _is_safe(self) -> Self:
        parts = self.path.split("/")
        if {"", ".", ".."} & set(parts) or "\\" in self.path or "\0" in self.path:
            raise ValueError(f"unsafe path in a manifest: {self.path!r}")
        if not is_digest(self.sha256):
            raise ValueError(f"not a digest: {self.sha256!r}")
        return self


class Manifest(BaseModel):
    """An immutable set of files."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    schema_version: Literal[1] = 1
    files: tuple[ManifestFile, ...]

    @model_validator(mode="after")
    def _is_ordered(self) -> Self:
        paths = [file.path for file in self.files]
        if paths != sorted(set(paths)):
            raise ValueError("the files of a manifest are sorted by path, each once")
        return self

    def to_bytes(self) -> bytes:
        """The canonical bytes, of which the digest is the artifact's name."""
        return canonical_json(self.model_dump(mode="json"))

    @property
    def digest(self) -> Digest:
        """The artifact's name."""
        return digest_of_bytes(self.to_bytes())

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.files)


def manifest_of(files: dict[str, tuple[int, str]]) -> Manifest:
    """Build a manifest from path -> (size, digest)."""
    return Manifest(
        files=tuple(ManifestFile(path=path, size=size, sha256=digest) for path, (size, digest) in sorted(files.items()))
    )
