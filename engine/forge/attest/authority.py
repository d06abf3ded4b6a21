"""Who may sign as which role at a moment: the pinned root, and the charter that the root signed. Pure values.

A key counts when the charter in force at that point of the ledger lists it for the role, the moment lies within its validity,
and no later charter says that it was revoked by then. Without a charter, or for a role to which the charter gives no key, the
root's own key for the role counts; only a development root has such keys, so another root without a charter trusts nobody.
"""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from securesystemslib.signer import SSlibKey

from forge.attest.trust import PublicKey, TrustRoot
from forge.contract.charter import Charter
from forge.contract.kinds import STEPS, Role, StepKind
from forge.errors import TrustError
from forge.spec.supply_chain import Person, PersonKey, RoleKey, functionary_of


@dataclass(frozen=True)
class Signer:
    """A key that may be meant by a signature, and why it does not count where it does not."""

    key: PublicKey
    name: str
    refusal: str | None = None


@dataclass(frozen=True)
class Signers:
    """Whose signature is asked for."""

    role: str
    known: tuple[Signer, ...]

    def count(self, keyid: str) -> bool:
        """Whether what the key signs would count."""
        return any(signer.key.keyid == keyid and signer.refusal is None for signer in self.known)


@dataclass(frozen=True)
class Authority:
    """The root, the charter in force at some point of the ledger, and the newest one, which may have revoked keys since."""

    root: TrustRoot
    charter: Charter | None = None
    newest: Charter | None = None

    def signers(self, role: Role, moment: str) -> Signers:
        """The keys of a role at a moment (RFC 3339, with its offset)."""
        if role is not Role.ROOT and self._keys(role):
            known = tuple(self._signer(item, role, moment) for item in self._keys(role))
        elif role is Role.ROOT or self.charter is None or self.root.development:
            known = tuple(Signer(key, f"{role.value} {key.keyid[:12]}") for key in self.root.roles.get(role, ()))
        else:
            known = ()
        return Signers(role.value, known)

    def role_of(self, step: StepKind) -> Role:
        """Who answers for a step."""
        if self.charter is None:
            return STEPS[step].role
        return role_of(self.charter, step)

    def weights_keys(self, moment: str) -> tuple[str, ...]:
        """PEM of the P-256 keys that may sign weights at a moment."""
        if self.charter is None or not self._weights:
            return self.root.weights if self.charter is None or self.root.development else ()
        found = [item for item in self._weights if self._signer(item, Role.TRAINER, moment).refusal is None]
        return tuple(item.public for item in found)

    def threshold(self, step: StepKind) -> int:
        """How many functionaries have to have carried out a step that a release rests on."""
        if self.charter is None:
            return 1
        rules = self.charter.supply_chain.roles.get(self.role_of(step).value)  # type: ignore[call-overload]
        return rules.threshold if rules is not None else 1

    def functionaries(self, role: Role) -> Mapping[str, str]:
        """Key id -> who the key stands for where a threshold is counted; a key that is left out does not count."""
        if not self._keys(role):
            keys = self.root.roles.get(role, ()) if self.charter is None or self.root.development else ()
            return {key.keyid: key.keyid for key in keys}
        found = {public_key(item.public).keyid: functionary_of(role.value, item) for item in self._keys(role)}
        return {keyid: who for keyid, who in found.items() if who is not None}

    def holders(self, role: Role) -> Mapping[str, str]:
        """Key id -> the person whose key it is, for the keys of a role that are people's."""
        return {public_key(item.public).keyid: item.holder for item in self._keys(role) if item.holder is not None}

    def person_of(self, ssh_key: str, moment: str | None) -> str | None:
        """Whose SSH key (``TYPE BASE64``) this is; at no moment in particular only revocation takes it away."""
        for person in self.charter.people.people if self.charter is not None else ():
            for key in person.keys:
                if key.public.split()[:2] == ssh_key.split()[:2] and not self._is_lapsed(person, key, moment):
                    return person.name
        return None

    @cached_property
    def _weights(self) -> tuple[RoleKey, ...]:
        keys = self._keys(Role.TRAINER)
        return tuple(item for item in keys if isinstance(load_pem_public_key(item.public.encode()), ec.EllipticCurvePublicKey))

    def _keys(self, role: Role) -> tuple[RoleKey, ...]:
        rules = self.charter.supply_chain.roles.get(role.value) if self.charter is not None else None  # type: ignore[call-overload]
        return tuple(rules.keys) if rules is not None else ()

    def _signer(self, item: RoleKey, role: Role, moment: str) -> Signer:
        later = self.newest.supply_chain.roles.get(role.value) if self.newest is not None else None  # type: ignore[call-overload]
        own = public_key(item.public)  # by its id: the same key may be written with other line breaks
        same = [key for key in (later.keys if later else ()) if public_key(key.public).keyid == own.keyid]
        revoked = [item.revoked, *(key.revoked for key in same)]
        return Signer(own, f"{role.value} {item.name}", _refusal(item, revoked, moment))

    def _is_lapsed(self, person: Person, key: PersonKey, moment: str | None) -> bool:
        people = self.newest.people.people if self.newest is not None else ()
        listed = [each for other in people if other.name == person.name for each in other.keys]
        later = [each.revoked for each in listed if each.public.split()[:2] == key.public.split()[:2]]  # not its comment
        if moment is None:
            return key.revoked is not None or any(later)
        return _refusal(key, [key.revoked, *later], moment) is not None


def role_of(charter: Charter, step: StepKind) -> Role:
    """The role that a charter gives a step to; one that gives ``sweep`` to none gives it to whoever trains."""
    for role, rules in charter.supply_chain.roles.items():
        if step.value in rules.steps:
            return Role(role)
    if step is StepKind.SWEEP:
        return role_of(charter, StepKind.TRAIN)
    raise TrustError(f"the supply chain gives the step {step.value} to nobody")


@lru_cache(maxsize=1024)
def public_key(pem: str) -> PublicKey:
    """A PEM key as securesystemslib names it; the same key has the same id everywhere."""
    key = SSlibKey.from_crypto(load_pem_public_key(pem.encode()))
    return PublicKey(keyid=key.keyid, keytype=key.keytype, scheme=key.scheme, public=key.keyval["public"])


def is_before(one: str, other: str) -> bool:
    """Whether a moment comes before another."""
    return _instant(one) < _instant(other)


def _refusal(item: RoleKey | PersonKey, revoked: list[str | None], moment: str) -> str | None:
    now = _instant(moment)
    ends = [("was revoked", text) for text in revoked if text is not None]
    if item.valid_until is not None:
        ends.append(("expired", item.valid_until))
    if now < _instant(item.valid_from):
        return f"is valid only from {item.valid_from}, and this was signed {moment}"
    for word, text in ends:
        if now >= _instant(text):
            return f"{word} at {text}, and this was signed {moment} or later"
    return None


def _instant(text: str) -> datetime.datetime:
    try:
        found = datetime.datetime.fromisoformat(text)
    except ValueError as error:  # whoever can write the ledger can write this: no signature was looked at yet
        raise TrustError(f"{text[:80]!r} is no time as RFC 3339 writes one") from error
    if found.tzinfo is None:
        raise TrustError(f"{text!r} is a time without its offset from UTC")
    return found
