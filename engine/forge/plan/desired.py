"""Desired state as a value: the resources of a commit, and the files they name as artifacts-to-be."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from forge.contract.manifest import Manifest, manifest_of
from forge.spec.resource import Resource
from forge.spec.settings import Settings


@dataclass(frozen=True)
class BundleFile:
    """One file of a bundle; ``origin`` is its path in the repository, ``inline`` its bytes where a spec itself holds them."""

    size: int
    sha256: str
    origin: str | None = None
    inline: bytes | None = None


@dataclass(frozen=True)
class Bundle:
    """Files of the commit that a step reads: an artifact that no step made."""

    files: Mapping[str, BundleFile]

    @property
    def manifest(self) -> Manifest:
        """The manifest that the artifact will have."""
        return manifest_of({path: (file.size, file.sha256) for path, file in self.files.items()})

    @property
    def sources(self) -> dict[str, str]:
        """Path in the artifact -> path in the repository."""
        return {path: file.origin for path, file in self.files.items() if file.origin is not None}


@dataclass(frozen=True)
class Desired:
    """What a commit asks for."""

    commit: str | None
    """None: the working tree, which may be planned but not applied."""
    settings: Settings
    resources: Mapping[str, Resource]
    """By address, each after those it refers to."""
    bundles: Mapping[tuple[str, str], Bundle]
    """(address, input name) -> files."""
    protected: frozenset[str] = frozenset()
    """Addresses of the resources that say ``protect: true``."""
    suspended: frozenset[str] = frozenset()
    """Addresses of those whose annotation forge/suspend is "true"."""
    previous: Mapping[str, str] = field(default_factory=dict)
    """Address -> the address under which the resource was known before it was renamed."""
    origins: Mapping[str, str] = field(default_factory=dict)
    """Address -> path of the spec file."""
