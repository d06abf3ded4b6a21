"""Watching an environment's pointer: see that it moved, verify what it names now, and tell the agent.

Invariant: what reaches the agent holds, down to the bytes of its weights, and its policy is ready to be enforced; nothing that
is running was touched until then. Whatever goes wrong here is told as a fault and tried again, and ends nobody.

``Lookout`` looks once and is synchronous; ``Watch`` looks again and again in a thread of its own, because verification hashes
weights and a fetch may wait for a network, while the gateway's event loop must not.
"""

import shutil
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from forge.admission.verdict import WithdrawnSubject
from forge.admission.verify import RetiredError, withdrawn_from
from forge.attest.timestamps import read_timestamp_authority
from forge.attest.trust import TrustRoot, read_trust_root
from forge.canonical import digest_of_json
from forge.contract.record import Release
from forge.errors import ForgeError, LedgerError, RefusedError
from forge.ledger.entry import DELEGATIONS
from forge.ledger.ledger import Ledger, Snapshot
from forge.ledger.remote import UnreachableError
from forge.repo.repository import Repository
from forge.serve.binding import Binding, bind
from forge.serve.pull import admit, lay_out
from forge.serve.release import ServableRelease
from forge.store.store import Store

LONGEST_DELAY_SECONDS = 300.0


@dataclass(frozen=True)
class Source:
    """Where the agent learns what it has to serve."""

    repository: Path
    environment: str
    ledger_ref: str
    ledger_remote: str | None
    """Asked at every look; None: the ledger of this clone is the ledger."""
    store_url: str
    config: Path
    """The folder of the trust root, and of the agent's key."""
    weights: Path
    """A folder of the agent's own, where weights are laid out."""
    poll_seconds: float = 10.0


@dataclass(frozen=True)
class Moved:
    """The pointer names another release now; it holds, its weights are laid out and its policy is bound, to no engine yet."""

    binding: Binding


@dataclass(frozen=True)
class Retired:
    """The environment is retired."""

    reason: str


@dataclass(frozen=True)
class Withdrawn:
    """What is withdrawn of a release that is served; without subjects, that is over."""

    release: str
    subjects: tuple[WithdrawnSubject, ...]

    @property
    def stops(self) -> bool:
        """Whether it may not even run on."""
        return any(subject.serving == "stop" for subject in self.subjects)

    @property
    def reason(self) -> str:
        """For whoever runs the agent, and for its signed status."""
        return f"release {self.release} is withdrawn: {'; '.join(map(str, self.subjects))}"

    @property
    def entries(self) -> str:
        """For callers: the ledger's entries, without what they say."""
        numbers = sorted({subject.entry for subject in self.subjects})
        return f"{'entries' if len(numbers) > 1 else 'entry'} {', '.join(map(str, numbers))}"


@dataclass(frozen=True)
class Fault:
    """The pointer cannot be read, or what it names was refused; None: that is over."""

    reason: str | None
    wanted: str | None = None
    """The release that was refused, where it is known."""


Notice = Moved | Retired | Withdrawn | Fault


@dataclass(frozen=True)
class _Mark:
    """What a look found, as far as it decides what to serve: equal marks need no second verification."""

    move: Release | None
    root: str
    withdrawals: str | None
    """Digest of the newest entry about each subject, those that lift among them: who signed which, admission tells."""


class Lookout:
    """Looks at the pointer; one thread at a time."""

    def __init__(
        self,
        source: Source,
        environment: Mapping[str, str],
        running: Callable[[], ServableRelease | None],
        monotonic: Callable[[], float] = time.monotonic,
        served: Callable[[], ServableRelease | None] | None = None,
    ) -> None:
        self._source = source
        self._environment = environment
        self._running = running
        """The release whose weights an engine has, so that they are not laid out again for another policy."""
        self._served = served or running
        """The release that requests meet, while an engine answers them."""
        self._monotonic = monotonic
        self._handled: _Mark | None = None
        self._asked: tuple[str, _Mark] | None = None
        """The release that was held against the withdrawals last, and what the ledger said then."""
        self._told: tuple[WithdrawnSubject, ...] = ()
        """What was found."""
        self._unadopted: str | None = None
        """A head that this clone does not follow, for something in it is at fault, and by which what is served is withdrawn."""
        self._failed: tuple[_Mark, Exception, float, float] | None = None
        """What was refused, why, when to verify it again, and the delay after that."""
        self._open: tuple[Repository, Ledger] | None = None
        self.wanted: str | None = None
        """The release that the pointer named at the last look that could read it."""
        self.has_read = False
        """Whether the last look could read the pointer: what went wrong then is the release's fault, not the ledger's."""

    def look(self, *, offline: bool = False) -> Moved | Retired | Withdrawn | None:
        """What is new since the last look; ``offline`` asks this clone only. What is served comes before what it should be.

        Raises ForgeError when the pointer cannot be read or what it names is refused. A refused release is verified again
        after a while, for a store may be mended; until then each look raises the same error.
        """
        self.has_read = False
        root = read_trust_root(self._source.config)
        repository, ledger = self._connect()
        ledger.root = root.digest
        try:
            return self._look_at(repository, ledger, root, offline=offline)
        except LedgerError as error:
            if self.has_read or isinstance(error, UnreachableError):
                raise
            withdrawn = self._withdrawn_all_the_same(repository, ledger, root)
            if withdrawn is None:
                raise
            return withdrawn

    def _look_at(
        self, repository: Repository, ledger: Ledger, root: TrustRoot, *, offline: bool
    ) -> Moved | Retired | Withdrawn | None:
        snapshot = ledger.snapshot() if offline else ledger.fetch()
        if self._unadopted is not None and not repository.is_ancestor(self._unadopted, snapshot.commit or ""):
            raise LedgerError(
                f"the ledger is now {snapshot.commit}, which does not descend from {self._unadopted}, by which what is served "
                "is withdrawn. Find out who moved it; start the agent anew once that is settled"
            )
        self._unadopted = None
        delegation = snapshot.newest(DELEGATIONS)
        trust = f"{root.digest} {delegation.digest if delegation else None}"
        noted = {subject: body.model_dump(mode="json") for subject, body in snapshot.withdrawals().items()}
        mark = _Mark(snapshot.release(self._source.environment), trust, digest_of_json(noted) if noted else None)
        self.wanted = mark.move.release if mark.move else None
        withdrawn = self._withdrawn(repository, snapshot, root, mark)
        self.has_read = True
        if withdrawn is not None:
            self._handled = None  # it may be stopped: the same pointer is to be served anew once it may be
            return withdrawn
        if mark == self._handled:
            self._failed = None
            return None
        delay = self._source.poll_seconds
        if self._failed is not None and self._failed[0] == mark:
            _, error, again, delay = self._failed
            if self._monotonic() < again:
                raise error.with_traceback(None)
        try:
            if ledger.remote is not None and not offline:
                ledger.remote.fetch_branches()
            found = self._verify(repository, snapshot)
        except Exception as error:
            self._failed = mark, error, self._monotonic() + delay, min(2 * delay, LONGEST_DELAY_SECONDS)
            raise
        self._handled, self._failed = mark, None
        return found

    def forget(self) -> None:
        """Take what the pointer names for new at the next look: it is verified, laid out and told anew."""
        self._handled = self._failed = None

    def close(self) -> None:
        """End Git's helper processes; the next look opens the repository anew."""
        opened, self._open = self._open, None
        if opened is not None:
            opened[0].close()

    def _connect(self) -> tuple[Repository, Ledger]:
        if self._open is None:
            repository = Repository(self._source.repository)
            self._open = repository, Ledger(repository, self._source.ledger_ref, self._source.ledger_remote)
        return self._open

    def _withdrawn(self, repository: Repository, snapshot: Snapshot, root: TrustRoot, mark: _Mark) -> Withdrawn | None:
        """What is new about the release that is served now, whatever the pointer names and wherever the store is."""
        served = self._served()
        if served is None:
            self._asked, self._told = None, ()
            return None
        question = served.release_digest, mark
        if question == self._asked:
            return None
        if self._asked is not None and self._asked[0] != served.release_digest:
            self._told = ()
        timestamps = read_timestamp_authority(self._source.config)
        found = withdrawn_from(served.release_digest, repository, snapshot, root, timestamps) if mark.withdrawals else ()
        before, self._told, self._asked = self._told, found, question
        return None if found == before else Withdrawn(served.release_digest, found)

    def _withdrawn_all_the_same(self, repository: Repository, ledger: Ledger, root: TrustRoot) -> Withdrawn | None:
        """What is withdrawn by a ledger of which some entry cannot be read: whoever can write one may not keep a service up."""
        served, claimed = self._served(), ledger.claimed()
        if served is None or claimed is None:
            return None
        timestamps = read_timestamp_authority(self._source.config)
        found = withdrawn_from(served.release_digest, repository, claimed, root, timestamps)
        if not found:
            return None
        self._unadopted = claimed.commit
        if found == self._told:
            return None
        self._handled = self._asked = None
        self._told = found
        return Withdrawn(served.release_digest, found)

    def _verify(self, repository: Repository, snapshot: Snapshot) -> Moved | Retired:
        source = self._source
        store = Store(source.store_url, repository.home)
        root = read_trust_root(source.config)
        try:
            timestamps = read_timestamp_authority(source.config)
            release = admit(source.environment, repository, snapshot, store, root, source.weights, timestamps)
        except RetiredError as error:
            return Retired(str(error))
        running = self._running()
        if running is not None and release.needs_engine_like(running):
            return Moved(bind(replace(release, model_path=running.model_path), self._environment))
        folder = source.weights / f"{release.weights_digest[7:23]}-{uuid.uuid4().hex[:8]}"
        binding = bind(replace(release, model_path=folder), self._environment)
        try:
            lay_out(binding.release, store)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return Moved(binding)


class Watch:
    """The thread that looks; what it finds is posted. It never ends by itself, and never keeps the process alive."""

    def __init__(self, lookout: Lookout, poll_seconds: float, post: Callable[[Notice], None]) -> None:
        self._lookout = lookout
        self._poll_seconds = poll_seconds
        self._post = post
        self._wake = threading.Event()
        self._anew = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="forge-watch", daemon=True)

    def start(self) -> None:
        """Begin; the first look comes after one interval."""
        self._thread.start()

    def look_again(self) -> None:
        """Look now, and take what the pointer names for new."""
        self._anew.set()
        self._wake.set()

    def stop(self) -> None:
        """Post nothing any more; a look that is under way is not waited for."""
        self._stop.set()
        self._wake.set()

    def _run(self) -> None:
        told: str | None = None
        delay = self._poll_seconds
        while True:
            self._wake.wait(delay)
            self._wake.clear()
            if self._stop.is_set():
                self._lookout.close()
                return
            if self._anew.is_set():
                self._anew.clear()
                self._lookout.forget()
            notice: Notice | None
            try:
                notice, reason, delay = self._lookout.look(), None, self._poll_seconds
            except Exception as error:  # noqa: BLE001 (the thread's boundary: whatever it is, the agent goes on serving)
                reason = str(error)
                if not isinstance(error, ForgeError):
                    traceback.print_exception(error)
                    reason = f"{type(error).__name__}: {error}"
                notice = Fault(f"what should be served cannot be told: {reason}", None)
                if self._lookout.has_read:
                    notice, delay = Fault(f"the release was refused: {reason}", self._lookout.wanted), self._poll_seconds
                else:
                    delay = min(2 * delay, max(LONGEST_DELAY_SECONDS, self._poll_seconds))
                self._lookout.close()
            if self._stop.is_set():
                continue
            if reason is None and told is not None:
                self._post(Fault(None))
            if notice is not None and (reason is None or reason != told):
                self._post(notice)
            told = reason


def first_look(lookout: Lookout, source: Source, say: Callable[[str], None]) -> Binding:
    """What an agent that starts has to serve; raises ForgeError where that is nothing.

    When the remote cannot be asked, what this clone last saw of the ledger counts: an agent that is started while the Git host
    is away serves, and says that it could not ask.
    """
    try:
        found = lookout.look()
    except LedgerError as error:
        if source.ledger_remote is None or lookout.has_read:
            raise
        say(f"{error}. Serving by what this clone last saw of the ledger")
        found = lookout.look(offline=True)
    if isinstance(found, Moved):
        return found.binding
    raise RefusedError(found.reason if isinstance(found, Retired) else f"nothing is released to {source.environment!r}")
