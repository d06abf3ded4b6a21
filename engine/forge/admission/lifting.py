"""Which entries lift a withdrawal without right, by the commits that they stand at.

1. A lift ends every withdrawal since the last lift that held, and its commit descends from the commit of each: one that never
   knew of a withdrawal ends none, whatever was withdrawn again in between.
2. Its commit no longer withdraws the subject.
3. Where the supply chain keeps authors and approvers apart, People lists who signed each commit that the lift brings: those
   since the withdrawals and the delegation in force. Somebody answers for what is served again, as for what is released.

Only signed entries are looked at. Whether a withdrawal's own commit asks for it is not: what stops a service stops it.
"""

from collections.abc import Callable, Iterable, Sequence

from forge.admission.approvals import authors_of, separates_authors
from forge.admission.history import History
from forge.contract.record import Withdrawal
from forge.errors import ForgeError, RepoError, TrustError
from forge.ledger.entry import Entry
from forge.repo.desired import read_desired
from forge.repo.repository import Repository
from forge.repo.tree import CommitTree


def unfounded_lifts(
    repository: Repository, entries: Iterable[Entry], is_signed: Callable[[Entry], bool], history: History
) -> dict[int, str]:
    """By number of an entry that lifts a withdrawal: why its commit does not say so.

    Args:
        repository: where the commits are.
        entries: the ledger's, in order; those that are no withdrawals are passed over.
        is_signed: whether the releaser signed one.
        history: who was trusted when.
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
        fault = _fault(repository, body, ends) or _nobodys(repository, entry.sequence, body, ends, history)
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


def _nobodys(
    repository: Repository, sequence: int, lift: Withdrawal, ends: Sequence[Withdrawal], history: History
) -> str | None:
    """Why nobody answers for a lift, where somebody has to."""
    authority, delegation = history.authority(sequence), history.delegation(sequence)
    if not separates_authors(authority):
        return None
    before = sorted({*(each.commit for each in ends), *([delegation.commit] if delegation is not None else [])})
    try:
        unknown = authors_of(repository, lift.commit, before, authority).unknown
    except (RepoError, TrustError) as error:
        return f"who wrote commit {lift.commit} cannot be told: {error}"
    if not unknown:
        return None
    return (
        f"commit {lift.commit} brings commit {unknown[0][:12]}, which is signed by nobody that People lists, so its author is "
        "unknown, and the supply chain keeps authors and approvers apart: withdraw it in a signed commit, for another reason "
        "so that the ledger notes it, apply, and take it out in another; or a later supply chain, which the root signs, "
        "takes these commits in"
    )
