"""A step as a value: its place in the graph, what shapes its products, and its identity.

A step's id is its place in the graph (``train/handbook``) and stays the same from commit to commit; its key is its
identity and changes with whatever shapes its products. A step carries its parameters as the canonical JSON that its key
is made of, and reads them back only when somebody asks: most steps of a large plan are never looked at.
"""

import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from hashlib import sha256
from typing import Any, NamedTuple

from forge.canonical import PREFIX, Digest, digest_of_json
from forge.contract.kinds import STEPS, StepKind
from forge.plan.desired import Bundle
from forge.spec.compiled import read_json


class FromStep(NamedTuple):
    """An input that another step makes."""

    step_id: str
    product: str


class FromCommit(NamedTuple):
    """An input that lies in the commit."""

    address: str
    bundle: Bundle


Input = FromStep | FromCommit


class _StepFields(NamedTuple):
    id: str
    """``KIND/NAME``."""
    kind: StepKind
    name: str
    subject: str
    """The address of the resource that answers for it."""
    canonical_parameters: str
    """Canonical JSON of all that shapes the products, besides the inputs."""
    inputs: Mapping[str, Input]
    json_settings: str = "{}"
    processes: int = 1
    accelerator: str = "cpu"
    environment: str | None = None
    """What a release moves the pointer of."""
    previous_ids: tuple[str, ...] = ()
    """What the commit says it was called before, when a resource it is named after was; ``lineage`` knows the whole history."""
    suspended: str | None = None
    """The paused resource that holds it: its subject, another one that it reads, or the one that alone asks for it."""
    after: tuple[str, ...] = ()
    """Of a branch: the trainings that it leaves, the nearest first. It needs nothing of them; what they keep saves it work."""
    trial: int | None = None
    """The number of the trial of a search that it is a part of."""


class Step(_StepFields):
    """One node of the graph. A tuple by its fields, because making twenty thousand of them has to cost nothing."""

    @cached_property
    def parameters(self) -> Mapping[str, Any]:
        """The parameters as a value."""
        found: dict[str, Any] = read_json(self.canonical_parameters)
        return found

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        """What travels to the step beside its parameters and is no part of its identity."""
        found: dict[str, Any] = json.loads(self.json_settings)
        return found


def step_key(kind: StepKind, version: int, parameters: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """The identity of a step: sha256 of the canonical JSON of all that shapes its products (docs/design.md, "step key")."""
    return digest_of_json({"step": kind.value, "version": version, "parameters": dict(parameters), "inputs": dict(inputs)})


def key_of(step: Step, inputs: Mapping[str, str]) -> Digest:
    """The step's key, given the digests of its inputs: ``step_key`` without serialising the parameters once more."""
    rows = ",".join([f'"{name}":"{inputs[name]}"' for name in sorted(inputs)])
    head = f'{{"inputs":{{{rows}}},"parameters":{step.canonical_parameters}'
    return Digest(PREFIX + sha256(f'{head},"step":"{step.kind}","version":{STEPS[step.kind].version}}}'.encode()).hexdigest())


def producers_of(step: Step) -> dict[str, str]:
    """Input name -> where it comes from, as attestations write it: ``STEP_ID/PRODUCT`` or ``commit/ADDRESS/INPUT``.

    What a curation fetches from outside is no input, for its digests are parameters; its addresses stand here all the same.
    """
    return {
        name: f"{source.step_id}/{source.product}" if isinstance(source, FromStep) else f"commit/{source.address}/{name}"
        for name, source in step.inputs.items()
    } | (dict(_fetched(step)) if step.kind is StepKind.CURATE else {})


def _fetched(step: Step) -> Iterator[tuple[str, str]]:
    """``source-N`` of a Git repository, and ``source-N/M`` of a file behind a URL, each with its address."""
    for index, source in enumerate(step.settings.get("sources", ())):
        if "git" in source:
            yield f"source-{index}", source["git"]["url"]
        for number, file in enumerate(source.get("files", ())):
            yield f"source-{index}/{number}", file["url"]


def version_of(kind: StepKind) -> int:
    """The step version that this engine makes."""
    return STEPS[kind].version
