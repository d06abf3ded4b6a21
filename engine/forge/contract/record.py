"""What the ledger keeps: records of finished steps, failed attempts, releases and notes about resources. Values only.

A record is never rewritten, and its digest is signed: a field that was added later is left out of its bytes at its default
(``exclude_if``), so that what was written before keeps its digest. What a record says of bytes is what the control plane
hashed, not what the step claimed.
"""

from collections.abc import Mapping
from operator import not_
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from forge.contract.kinds import StepKind
from forge.contract.messages import Continued, FailureCause, Hardware

_Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
_Commit = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
_Subject = Annotated[str, Field(pattern=r"^[A-Z][A-Za-z]*/[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", max_length=300)]
"""``Kind/name``; it becomes a path of the ledger's tree."""
_WithdrawnSubject = Annotated[
    str, Field(pattern=r"^(sha256:[0-9a-f]{64}|key:[0-9a-f]{64}|(DataRecipe|EvalSuite|Model)/[a-z0-9]([a-z0-9-]*[a-z0-9])?)$")
]


def _is_first(version: int) -> bool:
    return version == 1


_Statements = Annotated[Literal[1, 2], Field(exclude_if=_is_first)]
"""Which set of statements signs a body. It decides what attestations the body must have and what they say, and is signed
itself: a signature cannot be taken away by pretending that the body is older."""


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True, allow_inf_nan=False)


class Spent(_Value):
    """Time and money of one step."""

    seconds: float
    cost: float | None = None
    """In the currency of forge.toml; None where no price is known."""


class Record(_Value):
    """A finished step."""

    kind: Literal["record"] = "record"
    key: _Digest
    step: StepKind
    step_version: int
    step_id: str
    """``KIND/NAME``: the place in the step graph, the same for every commit."""
    subject: str
    parameters: dict[str, Any]
    inputs: dict[str, _Digest]
    """Product name -> artifact digest."""
    products: dict[str, _Digest]
    """Product name -> artifact digest."""
    sources: dict[str, dict[str, str]] = {}
    """Input name -> file in the artifact -> path in the repository at ``commit``; for inputs that no step made."""
    metrics: dict[str, float | int | str] = {}
    commit: _Commit
    attempt: int
    started: str
    finished: str
    environment: dict[str, str]
    estimate: Spent | None = None
    actual: Spent
    attestations: dict[str, _Digest]
    """``link``, ``provenance`` or ``test-result``, ``weights-signature`` -> digest of the attestation's bytes."""
    supersedes: _Digest | None = None
    """Digest of the entry whose products this record replaces (the artifact was lost and the step gave other bytes)."""
    byproducts: dict[str, _Digest] = Field(default={}, exclude_if=not_)
    """By-product name -> artifact digest. The artifact may be gone: nothing but a continuation reads it."""
    continued: Continued | None = Field(default=None, exclude_if=not_)
    """The run that this one continued; None for a run from scratch."""
    statements: _Statements = 1
    """1: link, and provenance or test result. 2: these name the lock and the hardware too, and a gate has its ``svr``."""
    lock: _Digest | None = Field(default=None, exclude_if=not_)
    """sha256 of the list of distributions that the step had installed; its text lies among the ledger's attestations."""
    hardware: Hardware | None = Field(default=None, exclude_if=not_)
    """What the step ran on, as it said."""
    about: dict[str, _Digest] = Field(default={}, exclude_if=not_)
    """Of a gate: the weights that its reports are about, by place (``train/handbook/weights``), as known when it ran."""
    plan_approvals: tuple[_Digest, ...] = Field(default=(), exclude_if=not_)
    """Digests of the ledger's approvals of the plan under which the step was done."""

    @model_validator(mode="after")
    def _says_what_its_statements_need(self) -> Self:
        for name in ("lock", "hardware"):
            if (getattr(self, name) is not None) != (self.statements > 1):
                word = "needs" if self.statements > 1 else "has no"
                raise ValueError(f"a record with statements {self.statements} {word} {name}")
        if self.about and (self.statements == 1 or self.step is not StepKind.GATE):
            raise ValueError("only a gate's record with statements 2 says what it is about")
        return self


class Reproduction(_Value):
    """A recorded step, carried out once more by another functionary, who got the same products. It replaces nothing."""

    kind: Literal["reproduction"] = "reproduction"
    record: _Digest
    """Digest of the ledger's entry of the record."""
    key: _Digest
    step: StepKind
    step_id: str
    """As the record has it."""
    products: dict[str, _Digest]
    """Product name -> digest of what this run made; by-products are not compared, so they are not here."""
    attempt: int
    started: str
    finished: str
    environment: dict[str, str]
    lock: _Digest
    """sha256 of the list of distributions; as of a record."""
    hardware: Hardware
    attestations: dict[str, _Digest] = {}
    """``link`` and ``provenance``; and ``chain-KIND`` (``chain-KIND-2``, ..): the link of all steps of its kind behind a
    release, where the same functionary has carried out each of them."""


class Links(_Value):
    """What a role's machine signs for a release that another one is to make; nothing rests on it until a release names it."""

    kind: Literal["links"] = "links"
    deployment: str
    commit: _Commit
    """The commit whose release it is for."""
    attestations: dict[str, _Digest] = {}
    """``chain-KIND``: as of a release, for the kinds of the role."""


class Attempt(_Value):
    """A step that failed; it made nothing, and is kept so that nobody has to guess."""

    kind: Literal["attempt"] = "attempt"
    key: _Digest
    step: StepKind
    step_id: str
    subject: str
    commit: _Commit
    attempt: int
    cause: FailureCause
    message: str
    seconds: float
    byproducts: dict[str, _Digest] = Field(default={}, exclude_if=not_)
    """By-product name -> artifact digest: the checkpoint of a run that was superseded while it trained."""


class Release(_Value):
    """A move of an environment's pointer."""

    kind: Literal["release"] = "release"
    environment: str
    deployment: str
    release: _Digest
    """Digest of the release artifact."""
    key: _Digest
    """Key of the release step that made it."""
    commit: _Commit
    moved: str
    """UTC, RFC 3339."""
    approvals: tuple[_Digest, ...] = Field(default=(), exclude_if=not_)
    """Digests of the ledger's approval entries that it rests on."""
    plan_approvals: tuple[_Digest, ...] = Field(default=(), exclude_if=not_)
    """Digests of the ledger's approvals of the plan under which the pointer was moved."""
    attestations: dict[str, _Digest] = {}
    statements: _Statements = 1
    """1: ``release``. 2: ``verification-summary`` too."""
    rests_on: tuple[_Digest, ...] = Field(default=(), exclude_if=not_)
    """Digests of the ledger's entries that were verified before the pointer moved: the records that weights and verdict
    descend from, in the ledger's order."""

    @model_validator(mode="after")
    def _says_what_it_rests_on(self) -> Self:
        if bool(self.rests_on) != (self.statements > 1):
            raise ValueError("a release with statements 2, and no other, names the entries that it rests on")
        return self


class Protection(_Value):
    """A resource is protected from now on, or no longer; it holds when the resource's file is gone."""

    kind: Literal["protection"] = "protection"
    subject: _Subject
    protected: bool
    commit: _Commit
    attestations: dict[str, _Digest] = {}


class Renaming(_Value):
    """A resource has another name from now on: what was recorded under the old one until now is its own, protection included.

    It is not signed, for the commit that it names says the same (``previous_name``), and whoever relies on it reads that.
    """

    kind: Literal["renaming"] = "renaming"
    subject: _Subject
    previous: _Subject
    commit: _Commit
    attestations: dict[str, _Digest] = {}

    @model_validator(mode="after")
    def _stays_what_it_is(self) -> Self:
        if self.subject == self.previous or self.subject.split("/", 1)[0] != self.previous.split("/", 1)[0]:
            raise ValueError(f"{self.previous} cannot become {self.subject}: a renaming changes the name alone")
        return self


class Retirement(_Value):
    """A resource left the desired state; nothing is deleted. A retired Deployment's environment serves nothing."""

    kind: Literal["retirement"] = "retirement"
    subject: _Subject
    environment: str | None = None
    """The environment of a Deployment; None for every other kind."""
    commit: _Commit
    moved: str
    """UTC, RFC 3339."""
    attestations: dict[str, _Digest] = {}


class Delegation(_Value):
    """The root's word on who may do what from here on: the charter of a commit, and the layouts that follow from it."""

    kind: Literal["delegation"] = "delegation"
    version: Annotated[int, Field(ge=1)]
    """One more than the delegation before: an older one, appended again, is none."""
    charter: dict[str, Any]
    """The commit's SupplyChain and People (``Charter.to_document``)."""
    digest: _Digest
    """Of the charter."""
    commit: _Commit
    signed: str
    """UTC, RFC 3339."""
    statements: _Statements = 1
    """2: what is made under it names the approvals of its plan, where plans need any. 1: engines before did not."""
    attestations: dict[str, _Digest] = {}
    """``delegation``, and ``layout-SHAPE`` for each shape."""


class RootChange(_Value):
    """A new trust root, signed by the one before and by itself."""

    kind: Literal["root-change"] = "root-change"
    version: Annotated[int, Field(ge=1)]
    """One more than the change before."""
    previous: _Digest
    """Of the root before."""
    root: dict[str, Any]
    signed: str
    """UTC, RFC 3339."""
    attestations: dict[str, _Digest] = {}
    """``by-previous`` and ``by-itself``."""


class Approval(_Value):
    """A person's word that a model may serve an environment, or that a plan may be carried out."""

    kind: Literal["approval"] = "approval"
    subject: Annotated[str, Field(pattern=r"^(plan|release/[a-z0-9]([a-z0-9-]*[a-z0-9])?)$")]
    digest: _Digest
    """Of the weights, or of the plan."""
    verdict: _Digest | None = None
    """Of the gate's verdict, where the subject is a release: another threshold needs another approval."""
    release: _Digest | None = Field(default=None, exclude_if=not_)
    """Key of the release step, where approvals cover releases: the digest of weights, verdict, policy and engine settings."""
    person: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$")]
    commit: _Commit
    """What the person looked at."""
    given: str
    """UTC, RFC 3339."""
    attestations: dict[str, _Digest] = {}
    """``approval``: the statement and the person's SSH signature over it. ``plan``: the plan file that was approved, whose
    digest the statement says."""


class Withdrawal(_Value):
    """Something is withdrawn from now on, or no longer: the newest entry of a subject is the one in force."""

    kind: Literal["withdrawal"] = "withdrawal"
    subject: _WithdrawnSubject
    reason: Annotated[str, Field(min_length=1, max_length=2000)]
    serving: Literal["stop", "refuse"]
    lifted: bool
    supersedes: _Digest | None
    """Digest of the entry of this subject before it; None for the first. An entry that is appended again names another."""
    commit: _Commit
    """Where the withdrawal stands, or no longer stands."""
    moved: str
    """UTC, RFC 3339."""
    attestations: dict[str, _Digest] = {}


class Made(NamedTuple):
    """What planning asks of a record, as the ledger's index keeps it; never evidence. A tuple: a plan reads twenty thousand."""

    key: str
    step_id: str
    subject: str
    commit: str
    step_version: int
    sequence: int
    inputs: Mapping[str, str]
    products: Mapping[str, str]
    byproducts: Mapping[str, str]
    verdict: str | None
    """What a gate said; None for other steps."""
    failed: str
    """The checks that a gate found failed, as its record words them."""
    seconds: float
    cost: float | None


class Pointer(NamedTuple):
    """What an environment serves, as the ledger's index keeps it; never evidence."""

    environment: str
    deployment: str
    release: str
    """Digest of the release artifact."""


class Subject(NamedTuple):
    """A resource that the ledger knows, whether or not a commit still asks for it."""

    address: str
    """``Kind/name``."""
    protected: bool
    retired: str | None
    """The commit of a retirement that no later record or release undid; None of a deployment that still serves something."""
    renamed: str | None = None
    """What it is called since, unless something was noted or recorded under the old name afterwards."""


class Renamed(NamedTuple):
    """A renaming, as the ledger's index keeps it; never evidence."""

    sequence: int
    address: str
    previous: str
