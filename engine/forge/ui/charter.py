"""A supply chain for people: who may do what, by which keys, and what a release needs, before the root signs it.

Whoever keeps the root's key reads this and nothing else, so everything that the root would sign stands here: each key with its
fingerprint and its validity, and what differs from the supply chain that the root signed before. A line stands for itself, so
that the difference is one of lines.
"""

import base64
import hashlib
from collections.abc import Iterator
from difflib import SequenceMatcher

from forge.attest.authority import public_key
from forge.contract.charter import Charter
from forge.errors import printable
from forge.spec.supply_chain import Person, PersonKey, RoleKey


def to_text(charter: Charter, before: Charter | None = None) -> str:
    """Roles with their steps and keys, people with theirs, what a release needs; and what changed since ``before``."""
    lines = [
        f"Supply chain {charter.digest}, expires {charter.supply_chain.expires}",
        *_lines(charter),
        *_changes(charter, before),
    ]
    return "".join(f"{printable(line)}\n" for line in lines)


def _lines(charter: Charter) -> Iterator[str]:
    chain = charter.supply_chain
    for role, rules in chain.roles.items():
        steps = ", ".join(rules.steps) or "no step"
        if rules.threshold > 1:
            steps += f", each by {rules.threshold}"
        yield f"  {role:<14}{steps}{'' if rules.keys else '; keys: those of the development root'}"
        for key in rules.keys:
            yield f"  {role:<14}key {key.name}: {public_key(key.public).keyid}, {_validity(key)}{_holder(key)}"
    for person in charter.people.people:
        for own in person.keys:
            yield f"  {person.name:<14}{_fingerprint(own)}, {_validity(own)}; {_duties(charter, person)}"
    yield f"  approvers     {', '.join(chain.approvers) or 'nobody'}"
    for group in chain.separation_of_duties:
        yield f"  kept apart    {', '.join(group)}"
    approvals = ", ".join(f"{count} for {name}" for name, count in sorted(chain.release.approvals.items()) if count)
    whole = "; each of model, policy and engine settings" if chain.release.approvals_cover == "release" else ""
    dear = f" that may cost more than {chain.plans.above_cost:g}" if chain.plans.above_cost is not None else ""
    yield f"  approvals     {approvals or 'none for a release'}; {chain.plans.approvals or 'none'} for a plan{dear}{whole}"
    yield f"  evaluations   {', '.join(item.suite for item in chain.release.evaluations) or 'those of each deployment'}"
    yield f"  licences      {', '.join(chain.release.licenses) if chain.release.licenses is not None else 'any'}"
    yield f"  thresholds    {'stand before the evaluation runs' if chain.release.preregistered else 'may be set afterwards'}"
    yield f"  shapes        {', '.join(chain.shapes)}"
    yield f"  time stamps   {chain.timestamps}"
    yield f"  expires       {chain.expires}"


def _changes(charter: Charter, before: Charter | None) -> Iterator[str]:
    """The lines that went and those that came; a difference that no line shows is named all the same."""
    if before is None:
        yield "The root has signed no supply chain before this one."
        return
    if before.digest == charter.digest:
        yield f"It is the one that the root signed last: nothing changes ({before.digest})."
        return
    old, new = list(_lines(before)), list(_lines(charter))
    rows: list[str] = []
    for _, first, last, start, end in (
        step for step in SequenceMatcher(None, old, new, autojunk=False).get_opcodes() if step[0] != "equal"
    ):
        rows += [f"- {line.strip()}" for line in old[first:last]]
        rows += [f"+ {line.strip()}" for line in new[start:end]]
    yield f"What changes from the one that the root signed last ({before.digest}):"
    yield from rows or ["! something that is not shown here: compare the two commits' files in policies/"]


def _validity(key: RoleKey | PersonKey) -> str:
    ends = [f" until {key.valid_until}" if key.valid_until else "", f", REVOKED {key.revoked}" if key.revoked else ""]
    return f"valid from {key.valid_from}{''.join(ends)}"


def _holder(key: RoleKey) -> str:
    return f", held by {key.holder}" if key.holder is not None else ""


def _fingerprint(key: PersonKey) -> str:
    """As ``ssh-keygen -l`` prints it."""
    digest = hashlib.sha256(base64.b64decode(key.public.split()[1])).digest()
    return f"SHA256:{base64.b64encode(digest).decode().rstrip('=')}"


def _duties(charter: Charter, person: Person) -> str:
    chain = charter.supply_chain
    held: list[str] = [role for role, rules in chain.roles.items() if any(key.holder == person.name for key in rules.keys)]
    return ", ".join(["approver"] * (person.name in chain.approvers) + held) or "writes commits"
