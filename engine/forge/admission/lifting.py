"""Which entries lift a withdrawal without right, by the commits that they stand at.

1. A lift ends every withdrawal since the last lift that held, and its commit descends from the commit of each: one that never
   knew of a withdrawal ends none, whatever was withdrawn again in between.
2. Its commit no longer withdraws the subject.

Only signed entries are looked at. Whether a withdrawal's own commit asks for it is not: what stops a service stops it.
"""

from collections.abc import Callable, Iterable, Sequence

from forge.contract.record import Withdrawal
from forge.errors import ForgeError
from forge.ledger.entry import Entry
from forge.repo.desired import read_desired
from forge.repo.repository import Repository
from forge.repo.tree import CommitTree


def unfounded_lifts(repository: Repository, entries: Iterable[Entry], is_signed: Callable[[Entry], bool]) -> dict[int, str]:
    """By number of an entry that lifts a withdrawal: why its commit does not say so.

    Args:
        repository: where the commits are.
        entries: the ledger's, in order; those that are no withdrawals are passed over.
        is_signed: whether the releaser signed one.
    """
    standing: dict[str, list[Withdrawal]] = {}
    ended: dict[str, list[Withdrawal]] = {}
    unfounded: dict[int, str] = {}
    for entry in entries:
        body = entry.body
        if not isinstance(body, Withdrawal) or not is_signed(entry):
            continue
        if not body.lifted:
            standing.setdefault(body.subject, []).append(body)
            continue
        ends = standing.get(body.subject) or ended.get(body.subject, [])
        fault = _fault(repository, body, ends)
        if fault is not None:
            unfounded[entry.sequence] = fault
        else:
            ended[body.subject] = standing.pop(body.subject, ends)
    return unfounded


def _fault(repository: Repository, lift: Withdrawal, ends: Sequence[Withdrawal]) -> str | None:
    if not ends:
        return "it ends a withdrawal that was never made"
    for each in ends:
        if not repository.is_ancestor(each.commit, lift.commit):
            made = f"commit {each.commit}, which made the withdrawal: it never knew of it"
            return f"commit {lift.commit} does not descend from {made}"
    try:
        desired = read_desired(CommitTree(repository, repository.resolve_commit(lift.commit)))
    except ForgeError as error:
        return f"commit {lift.commit} cannot be read again: {error}"
    if any(item.subject == lift.subject for item in desired.withdrawn):
        return f"commit {lift.commit} still withdraws it"
    return None
