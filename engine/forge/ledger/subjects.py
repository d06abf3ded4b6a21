"""What the ledger's notes come to for each resource: whether it is protected, retired, or called something else by now."""

from collections.abc import Iterable, Mapping

from forge.contract.record import Subject

Note = tuple[int, str, str, str | None, str]
"""Sequence number, kind, subject, environment and value, as the index keeps them."""


def subjects_of(recorded: Mapping[str, int], notes: Iterable[Note]) -> dict[str, Subject]:
    """Every resource by address.

    Args:
        recorded: resource -> the number of its newest record.
        notes: in the ledger's order.
    """
    newest = dict(recorded)
    known = set(newest)
    protected: dict[str, bool] = {}
    retired: dict[str, tuple[int, str]] = {}
    whole: set[str] = set()
    """Retired without naming an environment: what still points there is for another deployment to take over."""
    renamed: dict[str, tuple[int, str]] = {}
    serving: dict[str, str | None] = {}
    for sequence, kind, subject, environment, value in notes:
        if kind == "withdrawal":  # its subject may be no resource, and is not known by being withdrawn
            continue
        known.add(subject)
        if environment is not None:
            serving[environment] = subject if kind == "release" else None
        if kind == "retirement":
            retired[subject] = sequence, value
            (whole.discard if environment is not None else whole.add)(subject)
        else:  # a commit holds it: the note of its protection says so as a release does
            newest[subject] = max(newest.get(subject, 0), sequence)
        if kind == "protection":
            protected[subject] = value == "yes"
        if kind == "renaming":
            known.add(value)
            renamed[value] = sequence, subject
            protected[subject] = protected.pop(value, False) or protected.get(subject, False)
    gone = {address: commit for address, (sequence, commit) in retired.items() if sequence > newest.get(address, 0)}
    for address in {*serving.values()} - whole:  # one environment of a deployment may be retired while it serves another
        gone.pop(address or "", None)
    called = {address: name for address, (sequence, name) in renamed.items() if sequence > newest.get(address, 0)}
    return {name: Subject(name, protected.get(name, False), gone.get(name), called.get(name)) for name in sorted(known)}
