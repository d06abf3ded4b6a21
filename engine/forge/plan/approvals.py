"""Approvals as a plan counts them: values that somebody has verified already."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

_OTHER = "it is not about this policy and these engine settings"


@dataclass(frozen=True)
class Given:
    """An approval in the ledger."""

    subject: str
    """``plan`` or ``release/ENVIRONMENT``."""
    digest: str
    """Of the plan, or of the weights."""
    verdict: str | None
    person: str
    entry: str
    """Digest of the ledger's entry."""
    refusal: str | None = None
    """Why it does not count; None where it does."""
    release: str | None = None
    """Key of the release step, where the approval says it."""


@dataclass(frozen=True)
class Tally:
    """How many approvals there are, and how many there should be."""

    needed: int
    counted: tuple[Given, ...]
    """One for each person."""
    refused: tuple[Given, ...]

    @property
    def suffices(self) -> bool:
        """Whether there are as many as needed."""
        return len(self.counted) >= self.needed

    def __str__(self) -> str:
        names = ", ".join(given.person for given in self.counted)
        text = f"needs {self.needed}, has {len(self.counted)}{f' ({names})' if names else ''}"
        return "; ".join([text, *(f"{given.person}'s does not count: {given.refusal}" for given in self.refused)])


def tally(
    given: Iterable[Given], subject: str, digest: str, verdict: str | None, needed: int, release: str | None = None
) -> Tally:
    """Count the people who approved exactly this; ``release``: the release step's key, where that has to be approved too."""
    about = [item for item in given if (item.subject, item.digest, item.verdict) == (subject, digest, verdict)]
    if release is not None:
        about = [item if item.release == release else replace(item, refusal=item.refusal or _OTHER) for item in about]
    counted = {item.person: item for item in about if item.refusal is None}
    refused = {item.person: item for item in about if item.person not in counted}
    return Tally(needed, tuple(counted[name] for name in sorted(counted)), tuple(refused[name] for name in sorted(refused)))
