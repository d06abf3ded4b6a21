"""Whether an entry's body is signed, the moment that it claims included, by whoever may sign such an entry. Pure.

Less than what is asked of a body before anything rests on it: no artifact and no commit is read. What holds here was said by
somebody who is trusted with it, and not by whoever could write the ledger's ref.
"""

import json
from collections.abc import Callable

from forge.attest.approval import approved_by
from forge.attest.authority import Authority
from forge.attest.envelope import unseal
from forge.attest.reproduction import digest_of_reproduction
from forge.attest.statements import digest_of_record, release_statement, retirement_statement, withdrawal_statement
from forge.contract.kinds import StepKind
from forge.contract.record import Approval, Record, Release, Reproduction, Retirement, Withdrawal
from forge.errors import LedgerError, TrustError
from forge.ledger.entry import Body

Read = Callable[[str], bytes]
"""An attestation by its digest; raises LedgerError or KeyError where it is not there."""


def is_signed(body: Body, authority: Authority, moment: str, read: Read) -> bool:
    """Whether a body is signed by a key that counts at a moment.

    Args:
        body: of any kind that says when it was signed; of another kind nothing is.
        authority: who may sign at its place of the ledger.
        moment: when it was signed.
        read: where its attestations are.
    """
    try:
        return _is_signed(body, authority, moment, read)
    except (TrustError, LedgerError, LookupError, ValueError, TypeError, RecursionError):  # whatever somebody wrote there
        return False


def _is_signed(body: Body, authority: Authority, moment: str, read: Read) -> bool:
    if isinstance(body, Approval):
        return authority.person_of(approved_by(body, read(body.attestations["approval"])), moment) == body.person
    if not isinstance(body, Record | Reproduction | Release | Retirement | Withdrawal):
        return False
    step, name = (body.step, "link") if isinstance(body, Record | Reproduction) else (StepKind.RELEASE, body.kind)
    signers = authority.signers(authority.role_of(step), moment)
    return _says(body, unseal(read(body.attestations[name]), signers, name))


def _says(body: Record | Reproduction | Release | Retirement | Withdrawal, signed: bytes) -> bool:
    """Whether what was signed is about this very body; the moment that it claims is a part of it."""
    match body:
        case Record():
            return _named_in(signed, "record") == digest_of_record(body)
        case Reproduction():
            return _named_in(signed, "reproduction") == digest_of_reproduction(body)
        case Release():
            return signed == release_statement(body)
        case Retirement():
            return signed == retirement_statement(body)
        case Withdrawal():
            return signed == withdrawal_statement(body)


def _named_in(link: bytes, what: str) -> object:
    """The digest that a link gives of what the ledger keeps."""
    return json.loads(link)["byproducts"][what]
