"""The document that an environment's pointer names: these weights, under this policy, because of this verdict."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, model_validator

from forge.canonical import canonical_json, is_digest
from forge.spec.deployment import Engine
from forge.spec.fields import Name

RELEASE_FILE = "release.json"
POLICY_FILE = "policy.json"


class ReleaseDocument(BaseModel):
    """The ``release.json`` of a release step; it names bytes by digest only and says nothing of time or place."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    schema_version: Literal[1] = 1
    environment: Name
    deployment: Name
    model: Name
    weights: str
    """Digest of the weights artifact."""
    policy: str
    """Digest of the artifact that holds ``policy.json``."""
    policy_name: Name
    verdict: str
    """Digest of the verdict artifact, which is a GO."""
    engine: Engine
    """With every default filled in: an agent needs no other source."""

    @model_validator(mode="after")
    def _names_digests(self) -> Self:
        for name in ("weights", "policy", "verdict"):
            if not is_digest(getattr(self, name)):
                raise ValueError(f"{name}: expected a digest (sha256:<64 hex digits>), found {getattr(self, name)!r}")
        return self

    def to_bytes(self) -> bytes:
        """The canonical bytes of the file."""
        return canonical_json(self.model_dump(mode="json")) + b"\n"
