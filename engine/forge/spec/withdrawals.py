"""Withdrawals: what may no longer be used or served, why, and what becomes of a service that rests on it.

A subject is named by what it is, never by where it lies: a digest (of an artifact's manifest, or of one file's bytes), a
signing key, or the address of a resource, which stands for everything that was ever made of it. A resource that has left the
commit can still be withdrawn, so an address is no reference: nothing has to be there.
"""

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, model_validator

from forge.spec.fields import Part
from forge.spec.meaning import GOVERN

ADDRESS_KINDS = ("DataRecipe", "EvalSuite", "Model")
"""Kinds that can be withdrawn by their address."""
MOST_REASON_CHARACTERS = 2000
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_KEY = re.compile(r"key:[0-9a-f]{64}")
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_EXPECTED = "expected sha256:DIGEST, key:KEYID, " + ", ".join(f"{kind}/NAME" for kind in ADDRESS_KINDS)


def subject_fault(subject: str) -> str | None:
    """Why a text is no subject that can be withdrawn; None where it is one."""
    if _DIGEST.fullmatch(subject) or _KEY.fullmatch(subject):
        return None
    kind, separator, name = subject.partition("/")
    if kind in ADDRESS_KINDS and _NAME.fullmatch(name):
        return None
    head = subject.partition(":")[0]
    if head in ("sha256", "key"):
        return f"{_EXPECTED}; a {'digest' if head == 'sha256' else 'key id'} is 64 lower-case hexadecimal digits"
    if separator and kind not in ADDRESS_KINDS:
        from forge.spec.load import did_you_mean

        return f"{_EXPECTED}; a {kind} cannot be withdrawn by its name{did_you_mean(kind, ADDRESS_KINDS)}"
    return _EXPECTED


def _subject(value: str) -> str:
    fault = subject_fault(value)
    if fault is not None:
        raise ValueError(fault)
    return value


def _reason(value: str) -> str:
    if not value.strip():
        raise ValueError("a withdrawal says why: whoever reads the refusal has nothing else")
    if len(value) > MOST_REASON_CHARACTERS:
        raise ValueError(f"longer than {MOST_REASON_CHARACTERS} characters: name the case, and keep it elsewhere")
    return value


class Withdrawn(Part):
    """One thing that is withdrawn."""

    subject: Annotated[str, AfterValidator(_subject), GOVERN]
    """``sha256:..`` (an artifact, or one file's bytes), ``key:KEYID``, or one of ADDRESS_KINDS and a name."""
    reason: Annotated[str, AfterValidator(_reason), GOVERN]
    """For people; callers of the gateway never see it."""
    serving: Annotated[Literal["stop", "refuse"], GOVERN] = "stop"
    """``stop``: an agent that serves what descends from it ends its engine and answers 503. ``refuse``: what runs goes on,
    and is not started again, by no agent and not after a crash."""


class WithdrawalsSpec(Part):
    """The body of Withdrawals. Removing an entry lifts the withdrawal, by an entry of the ledger that the releaser signs."""

    withdrawn: Annotated[list[Withdrawn], GOVERN]

    @model_validator(mode="after")
    def _names_each_subject_once(self) -> Self:
        subjects = [item.subject for item in self.withdrawn]
        twice = sorted({subject for subject in subjects if subjects.count(subject) > 1})
        if twice:
            raise ValueError(f"{twice[0]} is withdrawn twice: put its reasons into one entry")
        return self
