"""A spec as a value: apiVersion, kind, metadata and the kind's own body."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

from pydantic import Field

from forge.spec.data_recipe import DataRecipeSpec
from forge.spec.deployment import DeploymentSpec
from forge.spec.eval_suite import EvalSuiteSpec
from forge.spec.fields import Name, Part
from forge.spec.inference_policy import InferencePolicySpec
from forge.spec.meaning import GOVERN, NONE, REBUILD
from forge.spec.model import ModelSpec
from forge.spec.supply_chain import PeopleSpec, SupplyChainSpec
from forge.spec.sweep import SweepSpec
from forge.spec.tokenizer import TokenizerSpec
from forge.spec.withdrawals import WithdrawalsSpec

API_VERSION = "forge/v1"
SUSPEND = "forge/suspend"
"""The annotation that pauses a resource: nothing is run, released or healed for it, or for what reads it, until the annotation
goes."""
NEVER_SUSPENDED = {
    "People": "the root signs who the people are, and a plan is refused until it does",
    "SupplyChain": "the root signs the rules, and a plan is refused until it does",
    "Withdrawals": "what it withdraws would be used and served meanwhile",
}
"""Kinds that cannot be paused, and why: what a commit says of them is in force, or refused."""


class Metadata(Part):
    """What a resource is called and who answers for it; never part of an identity.

    Factories, because pydantic copies a mutable default by ``deepcopy``: at ten thousand resources that is a fifth of a second.
    """

    name: Annotated[Name, NONE]
    previous_name: Annotated[Name | None, NONE] = None
    """What the resource was called before: its history and its artifacts stay its own."""
    owners: Annotated[list[str], NONE] = Field(default_factory=list)
    labels: Annotated[dict[str, str], NONE] = Field(default_factory=dict)
    annotations: Annotated[dict[str, str], NONE] = Field(default_factory=dict)
    """Free text for tools; of keys that begin with ``forge/`` there is only ``forge/suspend`` ("true" or "false")."""
    description: Annotated[str, NONE] = ""
    protect: Annotated[bool, NONE] = False
    """Whether its artifacts and releases outlive the spec: the ledger keeps the protection when the file is gone."""


class _Resource(Part):
    apiVersion: Annotated[Literal["forge/v1"], NONE]  # noqa: N815 (the field's standard spelling, as in Kubernetes)
    metadata: Annotated[Metadata, NONE]

    @property
    def address(self) -> str:
        """How other specs and messages name it: ``Kind/name``."""
        return f"{self.kind}/{self.metadata.name}"  # type: ignore[attr-defined, no-any-return, unused-ignore]

    @property
    def is_suspended(self) -> bool:
        """Whether the resource is paused."""
        return self.metadata.annotations.get(SUSPEND) == "true"


class DataRecipe(_Resource):
    """Sources, filters and split of a corpus."""

    kind: Annotated[Literal["DataRecipe"], NONE]
    spec: Annotated[DataRecipeSpec, REBUILD]


class Tokenizer(_Resource):
    """A vocabulary learnt from a corpus."""

    kind: Annotated[Literal["Tokenizer"], NONE]
    spec: Annotated[TokenizerSpec, REBUILD]


class Model(_Resource):
    """An architecture and its training."""

    kind: Annotated[Literal["Model"], NONE]
    spec: Annotated[ModelSpec, REBUILD]


class Sweep(_Resource):
    """A search for some fields of models."""

    kind: Annotated[Literal["Sweep"], NONE]
    spec: Annotated[SweepSpec, REBUILD]


class EvalSuite(_Resource):
    """Tasks that a model is measured by."""

    kind: Annotated[Literal["EvalSuite"], NONE]
    spec: Annotated[EvalSuiteSpec, REBUILD]


class InferencePolicy(_Resource):
    """Rules of the gateway."""

    kind: Annotated[Literal["InferencePolicy"], NONE]
    spec: Annotated[InferencePolicySpec, REBUILD]


class Deployment(_Resource):
    """What an environment serves."""

    kind: Annotated[Literal["Deployment"], NONE]
    spec: Annotated[DeploymentSpec, REBUILD]


class People(_Resource):
    """Who writes commits and approves, and with which keys."""

    kind: Annotated[Literal["People"], NONE]
    spec: Annotated[PeopleSpec, GOVERN]


class SupplyChain(_Resource):
    """Who may do which step, and what a release needs."""

    kind: Annotated[Literal["SupplyChain"], NONE]
    spec: Annotated[SupplyChainSpec, GOVERN]


class Withdrawals(_Resource):
    """What may no longer be used or served."""

    kind: Annotated[Literal["Withdrawals"], NONE]
    spec: Annotated[WithdrawalsSpec, GOVERN]


Resource = Annotated[
    DataRecipe | Tokenizer | Sweep | Model | EvalSuite | InferencePolicy | Deployment | People | SupplyChain | Withdrawals,
    Field(discriminator="kind"),
]
RESOURCE_TYPES: dict[str, type[_Resource]] = {
    "DataRecipe": DataRecipe,
    "Tokenizer": Tokenizer,
    "Sweep": Sweep,
    "Model": Model,
    "EvalSuite": EvalSuite,
    "InferencePolicy": InferencePolicy,
    "Deployment": Deployment,
    "People": People,
    "SupplyChain": SupplyChain,
    "Withdrawals": Withdrawals,
}


def annotation_faults(annotations: Mapping[str, object], kind: str = "") -> Iterator[tuple[str, bool, str]]:
    """What is wrong with the engine's own annotations: key, whether the key itself is at fault, and the message.

    A key that merely looks like the engine's (``Forge/suspend``) would be ignored without a word, so it is refused too.
    """
    for key, value in annotations.items():
        if key == SUSPEND:
            if value not in ("true", "false"):
                quotes = ": put it in quotes" if isinstance(value, bool) else ""
                yield key, False, f'`{SUSPEND}` is {value!r}, expected "true" or "false"{quotes}'
            elif value == "true" and kind in NEVER_SUSPENDED:
                yield key, True, f"`{SUSPEND}` has no effect on {kind}: {NEVER_SUSPENDED[kind]}; leave it out"
        elif key.casefold().startswith("forge/"):
            yield key, True, f"unknown annotation `{key}`; did you mean `{SUSPEND}`? No other begins with forge/"
