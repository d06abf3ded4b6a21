"""The charter: a commit's SupplyChain and People as one value, which the root signs.

Its digest leaves out what stands at its default, so a field that is added later changes no charter that was signed before.
"""

from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from forge.canonical import Digest, digest_of_json
from forge.spec.supply_chain import PeopleSpec, SupplyChainSpec


class Charter(BaseModel):
    """Who may do what, and what a release needs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    supply_chain: SupplyChainSpec
    people: PeopleSpec = PeopleSpec(people=[])

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Self:
        """The inverse of ``to_document``; raises ValueError (pydantic's) for anything else."""
        return cls.model_validate(document)

    def to_document(self) -> dict[str, Any]:
        """The JSON form, defaults left out."""
        return self.model_dump(mode="json", exclude_defaults=True)

    @property
    def digest(self) -> Digest:
        """What the root signs."""
        return digest_of_json(self.to_document())
