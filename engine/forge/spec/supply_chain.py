"""SupplyChain and People: who may do what, with which keys, and what a release needs. Nothing is made of them.

They are a proposal until the root has signed them (``forge keys delegate``): a commit that changes them is refused before
that, so whoever may write the repository cannot give themselves a role.
"""

import functools
from itertools import combinations
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, AwareDatetime, Field, TypeAdapter, model_validator

from forge.spec.fields import EvalSuiteRef, Name, Part
from forge.spec.meaning import GOVERN

RoleName = Literal["data-steward", "trainer", "evaluator", "releaser", "agent"]
StepName = Literal["curate", "tokenizer", "tokenize", "train", "sweep", "evaluate", "gate", "release"]
Duty = Literal["author", "data-steward", "trainer", "evaluator", "approver", "releaser", "agent"]
Shape = Literal[
    "pretrain",
    "continue",
    "continue-imported",
    "sft",
    "sft-imported",
    "dpo",
    "dpo-imported",
    "pretrain-sweep",
    "continue-sweep",
    "continue-imported-sweep",
    "sft-sweep",
    "sft-imported-sweep",
    "dpo-sweep",
    "dpo-imported-sweep",
]
"""A way from data to a release: ``pretrain`` is curate, tokenizer, tokenize, train, evaluate, gate, release; ``continue`` is
the same with trainings that begin with another's weights; ``continue-imported`` has no tokenizer step, for the first weights
and their tokenizer lie in the repository. ``sft`` has trainings that read conversations of the commit, ``dpo`` some that read
preferences; their ``-imported`` begin with a folder and tokenize nothing. Each with ``-sweep`` behind it is the same where a
training has the values that a search chose: the chain then has all of its trials, and what chose between them."""
MOST_FUNCTIONARIES = 10
"""The highest threshold of a role: each of them carries out every step, the trainings too."""
STEP_NAMES: tuple[StepName, ...] = ("curate", "tokenizer", "tokenize", "train", "evaluate", "gate", "release")
"""Those that have to be given to a role. ``sweep`` may be: else the role that does ``train`` does it."""


@functools.cache
def _instants() -> TypeAdapter[Any]:
    """Made when a time is first read: most commands read none."""
    return TypeAdapter(AwareDatetime)


def _moment(value: str) -> str:
    if not value.endswith("Z") or len(value) != len("2026-01-01T00:00:00Z"):
        raise ValueError("expected a time in UTC such as 2026-01-01T00:00:00Z")
    _instants().validate_python(value)
    return value


def _public_key(value: str) -> str:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    if "PRIVATE" in value:
        raise ValueError("this is a private key: it is lost now; make another one, and put only its public key here")
    try:
        key = load_pem_public_key(value.encode())
    except ValueError as error:
        raise ValueError("not a public key in PEM (`openssl pkey -pubout` prints one)") from error
    is_p256 = isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)
    if not is_p256 and not isinstance(key, ed25519.Ed25519PublicKey):
        raise ValueError("expected an Ed25519 or P-256 key")
    return value


def _ssh_key(value: str) -> str:
    """One line, and one way of writing each key: it is written into files that ssh-keygen reads, and tells people apart."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_public_key

    words = value.split()
    if len(words) < 2 or words[0] != "ssh-ed25519":
        raise ValueError("expected a line such as `ssh-ed25519 AAAA..`, as in ~/.ssh/id_ed25519.pub")
    if not value.strip().isprintable():
        raise ValueError("more than one line, or a control character: expected a line such as `ssh-ed25519 AAAA.. COMMENT`")
    try:
        key = load_ssh_public_key(" ".join(words[:2]).encode())
        written = key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode("ascii")
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError("not a public key of OpenSSH") from error
    if written.split() != words[:2]:
        raise ValueError(f"not as OpenSSH writes this key: expected `{written}`")
    return value


Moment = Annotated[str, AfterValidator(_moment)]
"""A point in time, UTC, whole seconds: ``2026-01-01T00:00:00Z``. Two of them compare as text."""
PublicPem = Annotated[str, AfterValidator(_public_key)]
SshPublicKey = Annotated[str, AfterValidator(_ssh_key)]


class _Validity(Part):
    valid_from: Annotated[Moment, GOVERN]
    valid_until: Annotated[Moment | None, GOVERN] = None
    revoked: Annotated[Moment | None, GOVERN] = None
    """From then on nothing that it signs counts; what it signed before stays valid."""

    @model_validator(mode="after")
    def _follows(self) -> Self:
        if self.valid_until is not None and self.valid_until <= self.valid_from:
            raise ValueError("valid_until is not later than valid_from")
        return self


class RoleKey(_Validity):
    """A key of a role."""

    name: Annotated[Name, GOVERN]
    """What messages and reports call it."""
    public: Annotated[PublicPem, GOVERN]
    """PEM, Ed25519 or P-256. The trainer's P-256 keys sign weights: OpenSSF model signing takes no Ed25519."""
    holder: Annotated[Name | None, GOVERN] = None
    """The person whose key it is, where it is a person's: then separation of duties sees both as one."""

    @property
    def material(self) -> bytes:
        """The key itself, however its PEM is laid out."""
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

        return load_pem_public_key(self.public.encode()).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    @property
    def is_p256(self) -> bool:
        """Whether it is a P-256 key; else it is Ed25519."""
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

        return isinstance(load_pem_public_key(self.public.encode()), ec.EllipticCurvePublicKey)


class RoleRules(Part):
    """What a role may do, and with which keys."""

    steps: Annotated[list[StepName], GOVERN] = []
    threshold: Annotated[int, Field(ge=1, le=MOST_FUNCTIONARIES), GOVERN] = 1
    """How many functionaries have to have carried out each step of the role that a release rests on: one recorded it, the
    others made the same of the same (``forge reproduce STEP``), each with a key of the role."""
    keys: Annotated[list[RoleKey], GOVERN] = []
    """None: the pinned root's own key for the role, which only a development root has."""


class RequiredEvaluation(Part):
    """A suite that every deployment's gates must name."""

    suite: Annotated[EvalSuiteRef, GOVERN]


class ReleaseRules(Part):
    """What has to be there before an environment's pointer moves."""

    approvals: Annotated[dict[Name, Annotated[int, Field(ge=0, le=100)]], GOVERN] = {}
    """By environment: how many people have to approve the model."""
    approvals_cover: Annotated[Literal["model", "release"], GOVERN] = "model"
    """``model``: an approval is about weights and their verdict, under whatever policy. ``release``: it is about the policy and
    the engine's settings, too, and a change of either asks anew."""
    evaluations: Annotated[list[RequiredEvaluation], GOVERN] = []
    licenses: Annotated[list[Annotated[str, Field(min_length=1)]] | None, GOVERN] = None
    """The only licences (SPDX expressions, as recipes write them) that data may have; None: any."""
    preregistered: Annotated[bool, GOVERN] = True
    """Whether the thresholds of a gate must stand in the commit that the evaluation was run for: then nobody can set them
    after seeing the figures."""


class PlanRules(Part):
    """What has to be there before a plan is applied."""

    approvals: Annotated[int, Field(ge=0, le=100), GOVERN] = 0
    above_cost: Annotated[float | None, Field(ge=0), GOVERN] = None
    """Only plans that may cost more than this, in the currency of forge.toml, or train what no price is known for, need
    approvals; None: all that do something."""


class SupplyChainSpec(Part):
    """The body of a SupplyChain."""

    roles: Annotated[dict[RoleName, RoleRules], GOVERN]
    approvers: Annotated[list[Name], GOVERN] = []
    """People, by name, whose approvals count."""
    separation_of_duties: Annotated[list[Annotated[list[Duty], Field(min_length=2)]], GOVERN] = []
    """Groups of duties of which nobody may have two. ``author`` is who signed the commits that are released."""
    shapes: Annotated[list[Shape], Field(min_length=1), GOVERN] = ["pretrain"]
    """A release whose chain has another shape is refused."""
    release: Annotated[ReleaseRules, GOVERN] = ReleaseRules()
    plans: Annotated[PlanRules, GOVERN] = PlanRules()
    timestamps: Annotated[Literal["optional", "required"], GOVERN] = "optional"
    """``required``: a signature of a role, or of an approver, counts only with a time stamp of an authority that whoever
    verifies has pinned. It holds for what is signed under this supply chain; what was signed before stays as it is."""
    expires: Annotated[Moment, GOVERN]
    """When the root has to have signed anew."""

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        owners: dict[str, str] = {}
        for role, rules in self.roles.items():
            for step in rules.steps:
                if owners.setdefault(step, role) != role:
                    raise ValueError(f"the step `{step}` is given to {owners[step]} and to {role}: one role answers for a step")
        missing = [step for step in STEP_NAMES if step not in owners]
        if missing:
            raise ValueError(f"no role may do: {', '.join(missing)}")
        self._keys_are_separate()
        for role, rules in self.roles.items():
            fault = _why_never_met(role, rules)
            if fault is not None:
                raise ValueError(f"roles.{role}: threshold {rules.threshold}: {fault}")
        most = max((*self.release.approvals.values(), self.plans.approvals), default=0)
        if most > len(set(self.approvers)):
            raise ValueError(f"{most} approvals are asked for, but there are {len(set(self.approvers))} approvers")
        return self

    def _keys_are_separate(self) -> None:
        rules: dict[str, RoleRules] = dict(self.roles.items())
        for group in self.separation_of_duties:
            for one, other in combinations(group, 2):
                if one == other:
                    raise ValueError(f"separation_of_duties: `{one}` stands twice in a group")
                mine, theirs = (rules.get(duty, _NO_RULES) for duty in (one, other))
                both = {key.material for key in mine.keys} & {key.material for key in theirs.keys}
                names = [key.name for key in mine.keys if key.material in both]
                holders = {key.holder for key in mine.keys if key.holder} & {key.holder for key in theirs.keys if key.holder}
                if names or holders:
                    who = f"the key {names[0]}" if names else f"{min(holders)}"
                    raise ValueError(f"{who} has the roles {one} and {other}, which separation_of_duties keeps apart")


_NO_RULES = RoleRules()


def functionary_of(role: str, key: RoleKey) -> str | None:
    """Who a key stands for where a role's threshold is counted: its holder, or by itself where it has none.

    None for a P-256 key of the trainer that has no holder: it signs weights, and lies beside the key that signs steps.
    """
    if key.holder is not None:
        return key.holder
    return None if role == "trainer" and key.is_p256 else key.material.hex()


def _why_never_met(role: str, rules: RoleRules) -> str | None:
    """Why a role's threshold cannot be met by the keys that are listed; None where it can."""
    if rules.threshold == 1:
        return None
    if not rules.steps:
        return "the role does no step: leave it out"
    if "release" in rules.steps:
        return (
            "nobody carries out a release a second time: how many people have to agree to one stands in release.approvals; "
            "give `release` to a role without a threshold"
        )
    counts = [(key, functionary_of(role, key)) for key in rules.keys]
    most = 0
    for moment in {key.valid_from for key in rules.keys}:
        ends = [(key, who, min(end for end in (key.valid_until, key.revoked, "9") if end)) for key, who in counts]
        most = max(most, len({who for key, who, end in ends if who is not None and key.valid_from <= moment < end}))
    if most >= rules.threshold:
        return None
    return (
        f"at no time are the keys of more than {most} functionaries valid at once: list as many keys, of different holders (a "
        "P-256 key of the trainer without a holder signs weights and does not count)"
    )


class PersonKey(_Validity):
    """A key that a person signs commits and approvals with."""

    public: Annotated[SshPublicKey, GOVERN]
    """One line as OpenSSH writes it; ssh-ed25519."""


class Person(Part):
    """Somebody who writes commits or approves."""

    name: Annotated[Name, GOVERN]
    keys: Annotated[list[PersonKey], Field(min_length=1), GOVERN]


class PeopleSpec(Part):
    """The body of People."""

    people: Annotated[list[Person], GOVERN]

    @model_validator(mode="after")
    def _tells_people_apart(self) -> Self:
        names = [person.name for person in self.people]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{twice[0]} stands twice")
        owners: dict[str, str] = {}
        for person in self.people:
            for key in person.keys:
                material = key.public.split()[1]  # a key is written in one way only (``_ssh_key``)
                if owners.setdefault(material, person.name) != person.name:
                    raise ValueError(f"{owners[material]} and {person.name} have the same key: whose is it?")
        return self
