"""Which approvals count: signed by an approver's own key, valid then, and by nobody whose other duty excludes it.

Authors are who signed the commits between the environment's last approved release and what is to be released (all that lead
to it, where there was none), so that nobody can approve their own change by having somebody else commit on top of it. That the
root signs a supply chain in between says nothing about a change. Commits that led to the first supply chain which keeps authors
and approvers apart need not be signed, for nobody asked for it then; who signed one of them is an author as ever.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

from forge.admission.duties import groups_of, kept_from_approving
from forge.admission.history import History
from forge.admission.stamps import moment_of
from forge.attest.approval import approved_by, unpack
from forge.attest.authority import Authority
from forge.attest.ssh import commit_signer
from forge.contract.kinds import Role
from forge.contract.record import Approval
from forge.errors import RepoError, TrustError
from forge.ledger.entry import Entry
from forge.plan.approvals import Given
from forge.repo.repository import Repository

_MOST_COMMITS = 10_000


@dataclass(frozen=True)
class Authors:
    """Who signed some commits."""

    people: frozenset[str]
    unknown: tuple[str, ...]
    """Commits that nobody whom People lists has signed."""
    commits: tuple[str, ...] = ()
    """All that were judged, by name."""


def authors_of(
    repository: Repository, commit: str, before: Sequence[str], authority: Authority, since: str | None = None
) -> Authors:
    """Who signed the commits that lead to ``commit`` and to none of ``before``, the commit itself always among them.

    Of those that lead to ``since`` the unsigned are left out. Raises TrustError where the history cannot be read.
    """
    people: set[str] = set()
    unknown = []
    names = commits_between(repository, commit, before)
    for name in names:
        person = author_of(repository, name, authority)
        if person is None:
            unknown.append(name)
        else:
            people.add(person)
    if unknown and since is not None:
        excused = {*commits_between(repository, since, before)} - {commit}
        names = [name for name in names if name not in unknown or name not in excused]
        unknown = [name for name in unknown if name not in excused]
    return Authors(frozenset(people), tuple(unknown), tuple(names))


def commits_between(repository: Repository, commit: str, before: Sequence[str]) -> list[str]:
    """The commits that lead to ``commit`` and to none of ``before``, the commit itself always among them, by name.

    Raises TrustError where the history cannot be read, or is not the one that the commits' own bytes tell.
    """
    arguments = [
        "-c",
        "core.commitGraph=false",
        "rev-list",
        f"--max-count={_MOST_COMMITS + 1}",
        commit,
        *(f"^{each}" for each in before),
    ]
    done = repository.program(arguments)
    if done.returncode:
        raise TrustError(f"the commits up to {commit} cannot be listed: {done.stderr.decode(errors='replace').strip()}")
    names = {*done.stdout.decode().split(), commit}
    if len(names) > _MOST_COMMITS:
        raise TrustError(f"more than {_MOST_COMMITS:,} commits lead to {commit} since the last release: release more often")
    _check_complete(repository, names, before)
    return sorted(names)


def _check_complete(repository: Repository, names: Set[str], before: Sequence[str]) -> None:
    """Every parent of a listed commit is listed too, or an ancestor of what was before.

    Git lists commits without hashing them, and stops where ``.git/shallow`` says: whoever writes the repository's files could
    hide a commit, and with it its author. Here each commit is read by its id, and re-hashed.
    """
    open_ends = {parent: name for name in sorted(names) for parent in _parents(repository, name) if parent not in names}
    pending, seen = deque(before), set(before)
    while open_ends and pending and len(seen) <= _MOST_COMMITS:
        name = pending.popleft()
        open_ends.pop(name, None)
        following = [parent for parent in _parents(repository, name) if parent not in seen] if open_ends else ()
        seen.update(following)
        pending.extend(following)
    for parent, name in open_ends.items():
        raise TrustError(
            f"commit {parent[:12]}, a parent of {name[:12]}, is neither among the commits that are judged nor part of what was "
            "released before: the history here is cut off or was altered (`git fsck`, `git fetch --unshallow`)"
        )


def _parents(repository: Repository, name: str) -> list[str]:
    try:
        found = repository.read_object(name)
    except RepoError as error:
        raise TrustError(f"commit {name} cannot be read: {error}") from error
    if found is None:
        raise TrustError(f"commit {name} is not here: the history is cut off (`git fetch --unshallow`)")
    head = found.data.partition(b"\n\n")[0]
    return [line[len(b"parent ") :].decode("ascii", "replace") for line in head.split(b"\n") if line.startswith(b"parent ")]


def judge_approvals(
    approvals: Iterable[Entry],
    attestations: Mapping[str, bytes],
    history: History,
    sequence: int,
    authors: Authors | None,
    parts: Mapping[str, str] | None = None,
) -> list[Given]:
    """Every approval with the reason why it does not count, if there is one, as things stand at a place of the ledger.

    Args:
        approvals: the ledger's entries of approvals.
        attestations: by digest; an absent one is a reason.
        history: who was trusted when.
        sequence: the place of what is approved; only approvals before it are looked at.
        authors: who wrote it; None where authors and approvers are not kept apart.
        parts: by person, what they signed of it as a role that is kept from approving (``duties.parts_taken``).
    """
    authority = history.authority(sequence)
    return [
        _judge(entry, entry.body, attestations, history, authority, authors, parts or {})
        for entry in approvals
        if isinstance(entry.body, Approval) and entry.sequence < sequence
    ]


def separates_authors(authority: Authority) -> bool:
    """Whether an author may not approve."""
    return any({"author", "approver"} <= set(group) for group in groups_of(authority))


def _judge(
    entry: Entry,
    body: Approval,
    attestations: Mapping[str, bytes],
    history: History,
    authority: Authority,
    authors: Authors | None,
    parts: Mapping[str, str],
) -> Given:
    refusal = _refusal(entry, body, attestations, history, authority)
    if refusal is None and authors is not None:
        if authors.unknown:
            refusal = f"commit {authors.unknown[0][:12]} is signed by nobody that People lists, so its author is unknown"
        elif body.person in authors.people:
            refusal = "who wrote a change may not approve it"
    if refusal is None:
        apart = kept_from_approving(authority)
        held = [role.value for role in Role if role.value in apart and body.person in authority.holders(role).values()]
        if held:
            refusal = f"who holds a key of the {held[0]} may not approve"
        elif body.person in parts:
            refusal = f"who signed {parts[body.person]} may not approve what came of it"
    return Given(body.subject, body.digest, body.verdict, body.person, entry.digest, refusal, body.release)


def _refusal(
    entry: Entry, body: Approval, attestations: Mapping[str, bytes], history: History, authority: Authority
) -> str | None:
    data = attestations.get(body.attestations.get("approval", ""))
    if data is None:
        return "it is not signed"
    try:
        key = approved_by(body, data)
    except TrustError as error:
        return str(error)
    person = authority.person_of(key, history.moment(entry.sequence, body.given))
    if person is None:
        return "the key that signed it is not one that People lists as valid at that time"
    if person != body.person:
        return f"it was signed by {person}"
    charter = authority.charter
    if charter is None or person not in charter.supply_chain.approvers:
        return "the supply chain does not list them as an approver"
    return _fault_of_stamp(entry, body, key, attestations, history)


def _fault_of_stamp(entry: Entry, body: Approval, key: str, attestations: Mapping[str, bytes], history: History) -> str | None:
    sealed = attestations[body.attestations["approval"]]
    try:
        moment = moment_of("approval", body.attestations, sealed, _signature, attestations, history, entry.sequence)
    except TrustError as error:
        return f"its time stamp: {error}"
    if moment is not None and history.authority(entry.sequence).person_of(key, moment) != body.person:
        return f"by its time stamp it was signed {moment}, when People did not list its key as valid"
    return None


def _signature(sealed: bytes) -> bytes:
    return unpack(sealed)[1].encode()


def author_of(repository: Repository, name: str, authority: Authority) -> str | None:
    """Whom People lists for the key that signed a commit; None where it is signed by nobody whom they list."""
    try:
        found = repository.read_object(name)
    except RepoError as error:
        raise TrustError(f"commit {name} cannot be read: {error}") from error
    key = commit_signer(found.data) if found is not None else None
    return authority.person_of(key, None) if key is not None else None
