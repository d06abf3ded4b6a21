"""The refs of a Git remote, as runners on several machines share them: fetched into refs of their own, pushed atomically.

What the remote says lies under ``refs/forge/remotes/NAME/``, which a fetch may overwrite: it is a claim, not our state. The
ledger's own ref moves only after its rules have been checked. A push never forces the ledger; the other refs are replaced or
deleted only at the value that we expect (a lease per ref). After a push that failed, the remote is asked what it holds: an
acknowledgement that got lost is a success.
"""

import re
import time
import uuid
from collections.abc import Mapping, Sequence

from forge.errors import LedgerError, RepoError, printable
from forge.faults import reached
from forge.ledger.lock import fair_lock
from forge.ledger.refs import FSYNC, Move, RefMovedError, list_refs, lock_hint, write_blob
from forge.repo.repository import Repository

FETCH_SECONDS = 900.0
PUSH_SECONDS = 120.0
_OURS = "refs/forge/"
_SHARED = ("ledger*", "lease*", "status/*")
_PUSH = ("push", "--porcelain", "--atomic", "--no-verify", "--recurse-submodules=no")
_COLLISIONS = ("cannot lock ref", "failed to update ref", "failed to lock", "atomic transaction failed")
_QUIET_TRIES = 4
"""How often a push is tried again that failed although nothing moved: two pushes can collide in a server's locks."""


class UnreachableError(LedgerError):
    """The remote did not answer, or refused what was asked of it."""


class RemoteRefs:
    """The refs below ``refs/forge/`` of one remote."""

    def __init__(self, repository: Repository, name: str) -> None:
        self._repository = repository
        self.name = name

    @property
    def refspecs(self) -> list[str]:
        """What a fetch brings, and where to."""
        return [f"+{_OURS}{part}:{_OURS}remotes/{self.name}/{part}" for part in _SHARED]

    def refresh(self) -> None:
        """Fetch; raises LedgerError when the remote cannot be reached or read."""
        options = ["--quiet", "--prune", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance"]
        checks = ["-c", "fetch.fsckObjects=true", "-c", "http.lowSpeedLimit=1", "-c", "http.lowSpeedTime=60"]
        reached("remote.fetch.before")
        with fair_lock(self._repository.state_folder, f"fetch-{self.name}"):
            self._talk(
                [*FSYNC, *checks, "fetch", *options, "--no-recurse-submodules", "--refmap=", self.name, *self.refspecs],
                FETCH_SECONDS,
            )
        reached("remote.fetch.after")

    def fetch_branches(self) -> None:
        """Bring the remote's branches to its tracking refs: a release is checked against the commits that it names.

        Raises LedgerError when the remote cannot be reached. No branch of this clone moves.
        """
        options = ["--quiet", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance", "--no-recurse-submodules"]
        branches = f"+refs/heads/*:refs/remotes/{self.name}/*"
        checks = ["-c", "http.lowSpeedLimit=1", "-c", "http.lowSpeedTime=60"]
        with fair_lock(self._repository.state_folder, f"fetch-{self.name}"):
            self._talk([*FSYNC, *checks, "fetch", *options, "--refmap=", self.name, branches], FETCH_SECONDS)

    def target(self, ref: str) -> str | None:
        """The object that a ref pointed to at the last fetch."""
        return self._repository.ref_target(self._tracking(ref))

    def below(self, prefix: str) -> Mapping[str, str]:
        """All refs below a prefix, as of the last fetch."""
        tracking = self._tracking("")
        found = list_refs(self._repository, self._tracking(prefix))
        return {_OURS + ref.removeprefix(tracking): name for ref, name in found.items()}

    def move(self, moves: Sequence[Move]) -> None:
        """One atomic push. A move to a commit is a plain push, which only goes forward; raises RefMovedError."""
        specs, leases = [], []
        for move in moves:
            specs.append(f"{move.new or ''}:{move.ref}")
            if not is_ledger(move.ref):
                leases.append(f"--force-with-lease={move.ref}:{move.old or ''}")
        for attempt in range(1, _QUIET_TRIES + 1):
            reached("remote.push.before")
            try:
                self._talk([*_PUSH, *leases, self.name, *specs], PUSH_SECONDS)
            except LedgerError as error:
                self.refresh()
                found = {move.ref: self.target(move.ref) for move in moves}
                if all(found[move.ref] == move.new for move in moves):  # it went through, only the answer was lost
                    return
                for move in moves:
                    if found[move.ref] != move.old:
                        raise RefMovedError(f"{move.ref} of remote {self.name!r} is now {found[move.ref]}") from error
                if attempt == _QUIET_TRIES or not _may_pass(str(error)):
                    raise
                time.sleep(0.05 * attempt)
            else:
                reached("remote.push.after")
                return

    def removal(self, ref: str) -> str:
        """The command that removes a ref there."""
        return f"git push {self.name} :{ref}"

    def connect(self) -> None:
        """Have ``git fetch`` bring our refs as well, and try an atomic push; raises LedgerError where that is impossible."""
        config = f"remote.{self.name}.fetch"
        with fair_lock(self._repository.state_folder, f"fetch-{self.name}"):
            if self._repository.program(["config", "--get", f"remote.{self.name}.url"]).returncode:
                raise LedgerError(
                    f"this repository has no remote {self.name!r} ([ledger] remote in forge.toml): "
                    f"add it with `git remote add {self.name} URL`"
                )
            present = self._repository.program(["config", "--get-all", config]).stdout.decode().split()
            reached("remote.configure.before")
            for refspec in self.refspecs:
                if refspec not in present:
                    done = self._repository.program(["config", "--add", config, refspec])
                    if done.returncode:
                        reason = done.stderr.decode(errors="replace").strip()
                        raise LedgerError(f"cannot add {refspec} to {config}: {reason}{lock_hint(reason)}")
            reached("remote.configure.after")
        self._probe()

    def _probe(self) -> None:
        name = write_blob(self._repository, b"An atomic push was tried here; this ref can be removed.\n")
        refs = [f"{_OURS}probe/{uuid.uuid4().hex}" for _ in range(2)]
        try:
            self._talk([*_PUSH, self.name, *[f"{name}:{ref}" for ref in refs]], PUSH_SECONDS)
        except LedgerError as error:
            if "does not support --atomic" in str(error):
                raise LedgerError(
                    f"remote {self.name!r} does not support atomic pushes, without which two runners could both win: use a "
                    "server that does (a bare repository behind git 2.4 or newer; receive.advertiseAtomic must not be false)"
                ) from error
            raise LedgerError(f"remote {self.name!r} does not accept refs below {_OURS}: {error}") from error
        self._talk([*_PUSH, self.name, *[f":{ref}" for ref in refs]], PUSH_SECONDS)

    def _tracking(self, ref: str) -> str:
        return f"{_OURS}remotes/{self.name}/{ref.removeprefix(_OURS)}"

    def _talk(self, arguments: Sequence[str], timeout_seconds: float) -> None:
        verb = "fetch" if "fetch" in arguments else "push"
        try:
            done = self._repository.program(arguments, timeout_seconds=timeout_seconds)
            reason = "" if done.returncode == 0 else _words(done.stderr + b"\n" + done.stdout)
        except RepoError as error:
            done, reason = None, str(error)
        if done is None or done.returncode:
            raise UnreachableError(
                f"remote {self.name!r}: git {verb} failed: {reason}{lock_hint(reason)}. "
                f"See whether `git ls-remote {self.name}` works, then try again; nothing is lost here"
            )


def is_ledger(ref: str) -> bool:
    """Whether a ref is a ledger's, which is never forced."""
    return ref.startswith(_OURS + "ledger")


def _may_pass(reason: str) -> bool:
    return any(words in reason for words in _COLLISIONS)


def _words(said: bytes) -> str:
    """What git said on one line, without the credentials of a URL."""
    lines = [line.strip() for line in said.decode(errors="replace").splitlines()]
    text = " / ".join(line for line in lines if line and line != "Done" and not line.startswith("hint:"))
    return printable(re.sub(r"([a-z][a-z0-9+.-]*://)[^/@\s']*@", r"\1***@", text, flags=re.IGNORECASE))[:2000]
