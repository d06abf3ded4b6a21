"""Which entries lift a withdrawal, or soften one, without right, by the commits that they stand at.

1. A lift ends every withdrawal since the last lift that held, and its commit descends from the commit of each: one that never
   knew of a withdrawal ends none, whatever was withdrawn again in between. Where there is none to end, it may stand: by it
   the releaser replaces what somebody else wrote there.
2. Its commit no longer withdraws the subject.
3. Where the supply chain keeps authors and approvers apart, People lists who signed each commit that the lift brings: those
   since the withdrawals and the delegation in force. Somebody answers for what is served again, as for what is released.
4. A withdrawal that stops a service is softened (what runs goes on) by a commit that descends from it and says so; rule 3
   likewise. An older commit that never knew it cannot.

Only signed entries are looked at. Whether any other withdrawal's own commit asks for it is not: what stops a service stops it.
"""

from collections.abc import Callable, Iterable, Sequence

from forge.admission.approvals import authors_of, separates_authors
from forge.admission.history import History
from forge.contract.record import Withdrawal
from forge.errors import ForgeError, RepoError, TrustError
from forge.ledger.entry import Entry
from forge.plan.action import Withdraw
from forge.repo.desired import read_desired
from forge.repo.repository import Repository
from forge.repo.tree import CommitTree


def unfounded(
    repository: Repository, entries: Iterable[Entry], is_signed: Callable[[Entry], bool], history: History
) -> dict[int, str]:
    """By number of an entry that lifts or softens a withdrawal: why its commit does not say so.

    Args:
        repository: where the commits are.
        entries: the ledger's, in order; those that are no withdrawals are passed over.
        is_signed: whether the releaser signed one.
        history: who was trusted when.
    """
    standing: dict[str, list[Withdrawal]] = {}
    ended: dict[str, list[Withdrawal]] = {}
    found: dict[int, str] = {}
    for entry in entries:
        body = entry.body
        if not isinstance(body, Withdrawal) or not is_signed(entry):
            continue
        stands = standing.setdefault(body.subject, [])
        if body.lifted:
            over = stands or ended.get(body.subject, [])
            fault = _not_lifted(repository, body, over)
        else:
            over = [each for each in stands if each.serving == "stop"] if body.serving == "refuse" else []
            fault = _not_softened(repository, body, over) if over else None
        fault = fault or (_nobodys(repository, entry.sequence, body, over, history) if over else None)
        if fault is not None:
            found[entry.sequence] = fault
        elif body.lifted:
            ended[body.subject] = over
            standing.pop(body.subject)
        else:
            stands.append(body)
    return found


def _not_lifted(repository: Repository, lift: Withdrawal, ends: Sequence[Withdrawal]) -> str | None:
    asked = _asked(repository, lift, ends)
    if asked is None:
        return None
    return asked if isinstance(asked, str) else f"commit {lift.commit} still withdraws it"


def _not_softened(repository: Repository, body: Withdrawal, over: Sequence[Withdrawal]) -> str | None:
    asked = _asked(repository, body, over)
    if isinstance(asked, str):
        return asked
    if asked is None or asked.serving != body.serving:
        return f"commit {body.commit} does not say `serving: {body.serving}` of it, and an earlier one says `stop`"
    return None


def _asked(repository: Repository, body: Withdrawal, before: Sequence[Withdrawal]) -> Withdraw | str | None:
    """What an entry's commit withdraws of its subject; or why it has no say about the withdrawals before it."""
    for each in before:
        if not repository.is_ancestor(each.commit, body.commit):
            made = f"commit {each.commit}, which made the withdrawal: it never knew of it"
            return f"commit {body.commit} does not descend from {made}"
    try:
        desired = read_desired(CommitTree(repository, repository.resolve_commit(body.commit)))
    except ForgeError as error:
        return f"commit {body.commit} cannot be read again: {error}"
    return next((item for item in desired.withdrawn if item.subject == body.subject), None)


def _nobodys(
    repository: Repository, sequence: int, lift: Withdrawal, ends: Sequence[Withdrawal], history: History
) -> str | None:
    """Why nobody answers for a lift or a softening, where somebody has to."""
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
