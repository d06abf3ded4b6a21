"""What environments served before, each move judged by the moves before it.

Whoever can write the ledger's ref can append a release that nobody signed, and whoever has the releaser's key one that was
refused. Neither may make the next one good, however often it is repeated:

1. A release that nobody signed is no release.
2. Where a pointer stood is what the newest release says that went forward itself: under a supply chain, to a commit that
   descends from the one before. A move backwards is passed over, so the same move again is held against what it left.
3. What was approved before ends at the newest of these that had its approvals: enough of them count by rule 3 itself, and
   they were given for this very commit, or the commit asks for what they are about (``holds``). Without them a release says
   nothing about whose changes are old.

A release that only went forward still says where the pointer stood: a commit on top of it mends that.
"""

from collections.abc import Callable, Iterable, Sequence

from forge.admission.approvals import Authors, authors_of, judge_approvals, separates_authors
from forge.admission.duties import parts_taken
from forge.admission.history import History
from forge.admission.signed import Read
from forge.contract.record import Approval, Record, Release
from forge.errors import LedgerError, TrustError
from forge.ledger.entry import Entry
from forge.plan.approvals import tally
from forge.repo.repository import Repository


class Moves:
    """The releases of a ledger, by environment; what was judged is kept.

    Args:
        repository: where the commits are.
        entries: the ledger's, in its order; releases and approvals are taken from them.
        read: an attestation by its digest.
        history: who was trusted when.
        record: the record of a step key.
        behind: the entries of the records that made what a record was made of, and of their reproductions.
        holds: whether a release's commit asks for what it releases, by records that hold, under plans that were approved
            where that was asked.

    The last two are left out where a move is looked at before it is made: it is verified then.
    """

    def __init__(
        self,
        repository: Repository,
        entries: Iterable[Entry],
        read: Read,
        history: History,
        record: Callable[[str], Record | None],
        behind: Callable[[Record], Sequence[Entry]] = lambda _: (),
        holds: Callable[[Entry], bool] = lambda _: True,
    ) -> None:
        self._repository, self._read, self._history = repository, read, history
        self._record, self._behind, self._holds = record, behind, holds
        self._releases: dict[str, list[Entry]] = {}
        self._approvals: dict[str, Entry] = {}
        for entry in entries:
            if isinstance(entry.body, Release):
                self._releases.setdefault(entry.body.environment, []).append(entry)
            elif isinstance(entry.body, Approval):
                self._approvals[str(entry.digest)] = entry
        self._went_forward: dict[str, list[tuple[Entry, Release]]] = {}
        self._judged: dict[int, bool] = {}
        self._line: _Line | None = None

    def served(self, environment: str, sequence: int) -> Release | None:
        """Where an environment's pointer stood before a place of the ledger."""
        found = [release for entry, release in self._forward(environment) if entry.sequence < sequence]
        return found[-1] if found else None

    def approved(self, environment: str, sequence: int) -> Release | None:
        """The newest release of an environment before a place of the ledger that had the approvals it needed."""
        found = None
        for entry, release in self._forward(environment):  # in order: each is judged by those before it
            if entry.sequence < sequence and self._is_approved(entry, release):
                found = release
        return found

    def approved_commits(self, sequence: int) -> list[str]:
        """The commits of what each environment had approved before a place of the ledger."""
        found = (self.approved(environment, sequence) for environment in self._releases)
        return sorted({release.commit for release in found if release is not None})

    def authors(self, release: Release, sequence: int) -> Authors | None:
        """Who wrote what a release brings; None where authors and approvers are not kept apart.

        The change reaches from the environment's last approved release to the commit, whoever delegated in between.
        Raises TrustError where the history cannot be read.
        """
        authority = self._history.authority(sequence)
        if not separates_authors(authority):
            return None
        before = self.approved(release.environment, sequence)
        since = self._history.authors_since()
        return authors_of(self._repository, release.commit, [before.commit] if before else [], authority, since)

    def parts(self, release: Release, sequence: int) -> dict[str, str]:
        """By person: what they signed of the release as a role that is kept from approving."""
        record = self._record(release.key)
        return parts_taken(self._behind(record), self._read, self._history, sequence) if record is not None else {}

    def _forward(self, environment: str) -> list[tuple[Entry, Release]]:
        if environment not in self._went_forward:
            kept: list[tuple[Entry, Release]] = []
            for entry in self._releases.get(environment, ()):
                body = entry.body
                if not isinstance(body, Release) or not self._history.is_signed(entry, self._read):
                    continue
                is_ordered = kept and self._history.authority(entry.sequence).charter is not None
                if not is_ordered or self._descends(kept[-1][1].commit, body.commit):
                    kept.append((entry, body))
            self._went_forward[environment] = kept
        return self._went_forward[environment]

    def _descends(self, older: str, newer: str) -> bool:
        if self._line is None:
            commits = {
                entry.body.commit for rows in self._releases.values() for entry in rows if isinstance(entry.body, Release)
            }
            self._line = _Line(self._repository, sorted(commits))
        return self._line.descends(older, newer)

    def _is_approved(self, entry: Entry, release: Release) -> bool:
        if entry.sequence not in self._judged:
            self._judged[entry.sequence] = self._judge(entry, release)
        return self._judged[entry.sequence]

    def _judge(self, entry: Entry, release: Release) -> bool:
        charter = self._history.authority(entry.sequence).charter
        needed = charter.supply_chain.release.approvals.get(release.environment, 0) if charter is not None else 0
        if charter is None or (not needed and not charter.supply_chain.plans.approvals):
            return True
        record = self._record(release.key)
        if record is None:
            return False
        named = [self._approvals[digest] for digest in release.approvals if digest in self._approvals]
        authors = self.authors(release, entry.sequence) if needed else None
        parts = parts_taken(self._behind(record), self._read, self._history, entry.sequence)
        given = judge_approvals(named, self._attestations(named), self._history, entry.sequence, authors, parts)
        subject = f"release/{release.environment}"
        asked = release.key if charter.supply_chain.release.approvals_cover == "release" else None
        found = tally(given, subject, record.inputs.get("weights", ""), record.inputs.get("verdict"), needed, asked)
        if not found.suffices:
            return False
        commits = {str(each.digest): each.body.commit for each in named if isinstance(each.body, Approval)}
        exact = [item for item in found.counted if commits[item.entry] == release.commit]
        return bool(needed and len(exact) >= needed) or self._holds(entry)

    def _attestations(self, entries: Sequence[Entry]) -> dict[str, bytes]:
        found = {}
        for entry in entries:
            for digest in entry.body.attestations.values() if isinstance(entry.body, Approval) else ():
                try:
                    found[digest] = self._read(digest)
                except LedgerError:
                    continue  # judged as unsigned
        return found


def signed_releases(entries: Sequence[Entry], read: Read, history: History) -> tuple[Release, ...]:
    """The releases among some entries that their releaser signed, in their order."""
    return tuple(e.body for e in entries if isinstance(e.body, Release) and history.is_signed(e, read))


class _Line:
    """Which of some commits descend from which, asked of Git once; False where either is absent."""

    def __init__(self, repository: Repository, commits: Sequence[str]) -> None:
        # A commit-graph is a cache on the disk that Git believes: it must not decide what is history.
        arguments = ["-c", "core.commitGraph=false", "rev-list", "--topo-order", "--parents", "--ignore-missing", "--stdin"]
        done = repository.program(arguments, stdin="".join(f"{name}\n" for name in commits).encode())
        if done.returncode:
            raise TrustError(f"the released commits cannot be listed: {done.stderr.decode(errors='replace').strip()}")
        self._parents: dict[str, list[str]] = {}
        for row in done.stdout.decode().splitlines():
            name, *parents = row.split()
            self._parents[name] = parents
        self._places = {name: number for number, name in enumerate(self._parents)}
        """Children stand before their parents."""

    def descends(self, older: str, newer: str) -> bool:
        last = self._places.get(older)
        pending, seen = [newer], {newer}
        while pending and last is not None:
            name = pending.pop()
            if name == older:
                return newer in self._places
            for parent in self._parents.get(name, ()):
                if parent not in seen and self._places.get(parent, last + 1) <= last:
                    seen.add(parent)
                    pending.append(parent)
        return False
