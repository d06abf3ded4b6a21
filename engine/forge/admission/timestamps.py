"""The time stamps of a chain, as a rule over collected evidence. Pure.

Besides what ``stamps`` asks of each: the key that signed was valid at the time that the authority states. The ledger's order
says how early a signature can have been made, its time stamp says that it was there by then; a key has to be valid at both,
so whoever took a key cannot use it after it was revoked, whatever their entry claims.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from forge.admission.evidence import Evidence
from forge.admission.history import History
from forge.admission.stamps import moment_of
from forge.admission.verdict import Check, Finding, Rule
from forge.attest.authority import Authority
from forge.attest.envelope import unseal
from forge.attest.timestamps import PREFIX, signature_in
from forge.attest.weights import verify_weights
from forge.contract.kinds import StepKind
from forge.contract.record import Record, Release, Retirement, Withdrawal
from forge.errors import TrustError

_CHAIN = "chain-"
_WEIGHTS = "weights-signature"
Body = Record | Release | Retirement | Withdrawal


@dataclass(frozen=True)
class _Stamped:
    """A time stamp that holds."""

    moment: str


def judge_timestamps(bodies: Sequence[Body], evidence: Evidence, history: History) -> list[Finding | Check]:
    """The time stamps of all that some bodies are signed with; nothing where there are none and none are asked for."""
    found = [item for body in bodies for item in _judge_body(body, evidence, history)]
    findings = [item for item in found if isinstance(item, Finding)]
    moments = sorted(item.moment for item in found if isinstance(item, _Stamped))
    if findings or not moments:
        return [*findings]
    pinned = history.timestamps.describe() if history.timestamps is not None else "nobody"
    return [
        Check(Rule.TIMESTAMP, f"{len(moments)} signatures were there by {moments[-1]}, the first by {moments[0]}: {pinned}")
    ]


def unjudged(bodies: Sequence[Body], history: History) -> int:
    """How many time stamps there are that nobody was pinned to judge."""
    if history.timestamps is not None:
        return 0
    return sum(1 for body in bodies for name in body.attestations if name.startswith(PREFIX))


def _judge_body(body: Body, evidence: Evidence, history: History) -> Iterator[Finding | _Stamped]:
    sequence = evidence.sequence(body)
    about = _about(body)
    for name in sorted(body.attestations):
        place = f"{about} {name}"
        if name.startswith(PREFIX):
            if name.removeprefix(PREFIX) not in body.attestations:
                yield Finding(Rule.TIMESTAMP, place, "it is the time stamp of nothing: there is no attestation of that name")
            continue
        sealed = evidence.attestations.get(body.attestations[name])
        if sealed is None:  # a finding of its own
            continue
        try:
            moment = moment_of(name, body.attestations, sealed, signature_in, evidence.attestations, history, sequence)
        except TrustError as error:
            yield Finding(Rule.TIMESTAMP, place, str(error))
            continue
        if moment is None:
            continue
        try:
            _must_count(body, name, sealed, moment, evidence, history.authority(sequence))
        except TrustError as error:
            message = (
                f"by its time stamp it was signed {moment}, and then it does not count: {str(error).removeprefix(f'{place}: ')}"
            )
            yield Finding(Rule.TIMESTAMP, place, message)
        else:
            yield _Stamped(moment)


def _must_count(body: Body, name: str, sealed: bytes, moment: str, evidence: Evidence, authority: Authority) -> None:
    """Raise TrustError unless the signature is of a key that was valid at a moment."""
    if name == _WEIGHTS and isinstance(body, Record):
        manifest = evidence.manifests.get(body.products.get("weights", ""))
        if manifest is not None:  # else its bytes are a finding, or nobody asked for them
            verify_weights(manifest, sealed, authority.weights_keys(moment))
        return
    unseal(sealed, authority.signers(authority.role_of(_step(body, name)), moment), f"{_about(body)} {name}")


def _step(body: Body, name: str) -> StepKind:
    """The step whose role signs an attestation."""
    if isinstance(body, Record):
        return body.step
    if name.startswith(_CHAIN) and name.removeprefix(_CHAIN) in set(StepKind):
        return StepKind(name.removeprefix(_CHAIN))
    return StepKind.RELEASE


def _about(body: Body) -> str:
    match body:
        case Record():
            return body.step_id
        case Withdrawal():
            return f"withdrawal of {body.subject}"
        case Release() | Retirement():
            return f"{body.kind} of {body.environment}"
