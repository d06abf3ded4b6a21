"""The files that a step and its launcher exchange (docs/design.md, decision 5).

``request.json`` goes in. ``events.jsonl`` grows while the step works. ``result.json`` is renamed into place last: its
presence is what "finished" means. A step that fails writes ``failure.json`` instead and exits with status 1.
Every message says its schema version; a newer one than the reader knows is refused by the ``Literal``. A field that was
added later is left out at its default (``exclude_if``): values that do not use it keep the bytes they always had.
"""

from enum import StrEnum
from operator import not_
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from forge.contract.checkpoints import BYPRODUCT
from forge.contract.kinds import StepKind

REQUEST_FILE = "request.json"
RESULT_FILE = "result.json"
FAILURE_FILE = "failure.json"
EVENTS_FILE = "events.jsonl"


class Message(BaseModel):
    """Base of everything that is written to a step's folder."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    schema_version: Literal[1] = 1


class InputArtifact(BaseModel):
    """One product that a step reads; ``path`` is a folder to be treated as read-only, or None where only the digest matters."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    digest: str
    path: str | None = None
    sources: dict[str, str] = Field(default={}, exclude_if=not_)
    """Paths in the commit, by the files' names here, of files that a message to a person may be about; for messages only."""


class Continued(BaseModel):
    """The run that another one is the exact continuation of: of fewer tokens, or one that it branches from."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    key: str = Field(pattern=r"^sha256:[0-9a-f]{64}$")
    """Its step key."""
    checkpoint: str = Field(pattern=r"^sha256:[0-9a-f]{64}$")
    """Digest of the checkpoint's artifact: the sha256 of its manifest."""
    tokens: int = Field(ge=1, le=2**53 - 1)
    """Its ``training.tokens``: with them, and the trunk of a branch, the parameters of its key follow from the other's."""
    byproduct: str = Field(default=BYPRODUCT, pattern=r"^[a-z][a-z0-9-]*$", exclude_if=BYPRODUCT.__eq__)
    """What the checkpoint is called among the by-products of its run."""


class Hardware(BaseModel):
    """What a step ran on, as its process saw it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cpu: str = Field(min_length=1, max_length=200)
    """The processor's model name."""
    cores: int = Field(ge=1)
    """Logical cores that the process may use."""
    memory_bytes: int = Field(ge=0, le=2**53 - 1)
    """Of the whole machine."""
    accelerators: tuple[str, ...] = ()
    """Model name of each accelerator of the machine, sorted."""


class Resources(BaseModel):
    """What the step may use. Thread, process and task counts are pinned here because bytes may depend on them."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    accelerator: str = "cpu"
    threads: int = Field(default=2, ge=1)
    """Threads of one process."""
    processes: int = Field(default=1, ge=1)
    """Processes (torchrun's world size) of a train step."""


class StepRequest(Message):
    """All that a step may know."""

    step: StepKind
    step_version: int
    key: str
    subject: str
    """The resource that the step belongs to, as ``Kind/name``; for messages only."""
    parameters: dict[str, Any]
    """The spec's fields that shape the products (Meaning.REBUILD), those at their default left out; part of the key."""
    settings: dict[str, Any] = {}
    """The spec's fields that do not shape the products (how often to validate, to checkpoint); not part of the key."""
    inputs: dict[str, InputArtifact]
    output: str
    """A folder of this attempt's own; product P is written to ``output/P/``."""
    scratch: str
    """A folder that attempts at the same key share: a train step keeps its checkpoints there."""
    attempt: int = Field(ge=1)
    resources: Resources = Resources()
    downloads: str | None = Field(default=None, exclude_if=not_)
    """A folder for what a curation fetches, which steps of all keys on a machine share; None: nothing is kept."""
    continues: InputArtifact | None = Field(default=None, exclude_if=not_)
    """A train step may go on from this checkpoint of another key, of which it makes sure that its run is the exact
    continuation; not part of the key, because the weights are the same without it."""


class StepResult(Message):
    """What a finished step says of itself; the launcher hashes the products and believes no digest from here."""

    key: str
    attempt: int
    products: dict[str, str]
    """Product name -> folder, relative to the request's ``output``."""
    metrics: dict[str, float | int | str]
    started: str
    """UTC, RFC 3339."""
    finished: str
    environment: dict[str, str]
    """Versions of the libraries that shaped the bytes, thread count, machine type."""
    byproducts: dict[str, str] = Field(default={}, exclude_if=not_)
    """By-product name -> folder, relative to the request's ``output``; only those that were made."""
    continued: Continued | None = Field(default=None, exclude_if=not_)
    """What the weights really descend from, over all attempts; None for a run from scratch."""
    lock: str = Field(default="", exclude_if=not_)
    """Every installed distribution as a line ``name==version``; empty in a result that an older engine wrote."""
    hardware: Hardware | None = Field(default=None, exclude_if=not_)
    """What the step ran on; None in a result that an older engine wrote."""


class FailureCause(StrEnum):
    """Why a step failed, for those who decide whether to try again."""

    INPUT = "input"
    """An input cannot be used (corrupt file, empty corpus): trying again gives the same."""
    RESOURCE = "resource"
    """The machine lacked something (disk, memory): trying again may help."""
    INTERNAL = "internal"
    """A fault in the step's own code."""
    STOPPED = "stopped"
    """Asked to stop; the next attempt goes on from the last checkpoint."""


class StepFailure(Message):
    """The reason of a failed attempt, in words for a user."""

    key: str
    attempt: int
    cause: FailureCause
    message: str


class Event(Message):
    """One line of ``events.jsonl``. Fields that do not apply are left out."""

    time: float
    """Seconds since the epoch."""
    message: str | None = None
    fraction: float | None = None
    """Work done, 0..1."""
    step: int | None = None
    """Optimiser step."""
    tokens: int | None = None
    loss: float | None = None
    """Nats per token."""
    bits_per_byte: float | None = None
    learning_rate: float | None = None
    gradient_norm: float | None = None
    tokens_per_second: float | None = None
    flops_per_second: float | None = None
    """What the model's arithmetic amounts to, over all processes (``plan.compute.FLOPS_FORMULA``)."""
    router_aux_loss: float | None = None
    """Load-balancing loss of the whole batch, not weighted: num_experts_per_tok where the experts' load is even."""
    router_entropy: float | None = None
    """Of the router's softmax over all experts, nats, the mean over tokens and layers; at most ln(num_local_experts)."""
    expert_max_share: float | None = None
    """The largest share of a layer's assignments that one expert has, the most of all layers."""
    dead_experts: int | None = None
    """Experts, over all layers, that no token was routed to."""
    memory_bytes: int | None = None
    """The most that the main process has held: of the accelerator where there is one, else resident."""
    checkpoint_stall_seconds: float | None = None
    """How long the training waited for the checkpoint that the message names."""
