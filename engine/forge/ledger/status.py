"""Where the serving agents' statuses lie: one blob per environment under ``refs/forge/status/ENVIRONMENT``.

This room carries bytes and does not read them; who may have signed them is for ``forge.admission.status`` to judge. They are
no history: each replaces the one before, by compare-and-swap.
"""

import random
import re
import time

from forge.errors import LedgerError, RepoError
from forge.ledger.lock import fair_lock
from forge.ledger.refs import LocalRefs, Move, RefMovedError, Refs, write_blob
from forge.repo.repository import Repository

STATUS_REFS = "refs/forge/status/"
_TRIES = 5
_ENVIRONMENT = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


def status_ref(environment: str) -> str:
    """Where an environment's status lies; raises LedgerError for what is no name of an environment."""
    if _ENVIRONMENT.fullmatch(environment) is None:
        raise LedgerError(f"{environment!r} is no name of an environment")
    return STATUS_REFS + environment


def publish(refs: Refs, repository: Repository, environment: str, data: bytes) -> str | None:
    """Put a status in the place of the one that is there; returns the object that it replaced, None where there was none.

    Raises LedgerError when the refs cannot be moved; what is there then is as it was.
    """
    ref = status_ref(environment)
    name = write_blob(repository, data)
    for _ in range(_TRIES - 1):
        try:
            return _replace(refs, repository, ref, name)
        except RefMovedError:  # a remote's refs are known anew after this
            time.sleep(random.uniform(0, 0.2))  # noqa: S311 (jitter, not secrecy)
    return _replace(refs, repository, ref, name)


def published(refs: Refs, repository: Repository, environment: str) -> tuple[str, bytes] | None:
    """The object and the bytes that lie there, as last learnt; None where there is none, LedgerError for what is no blob."""
    ref = status_ref(environment)
    name = refs.target(ref)
    if name is None:
        return None
    try:
        found = repository.read_object(name)
    except RepoError as error:
        raise LedgerError(f"{ref}: {error}") from error
    if found is None or found.kind != "blob":
        raise LedgerError(f"{ref}: its object {name} is {'absent' if found is None else f'a {found.kind}, not a blob'}")
    return name, found.data


def _replace(refs: Refs, repository: Repository, ref: str, name: str) -> str | None:
    if isinstance(
        refs, LocalRefs
    ):  # two agents here take turns, and stale lock files are removed; a remote has locks of its own
        with fair_lock(repository.state_folder, "status"):
            return _move(refs, ref, name)
    return _move(refs, ref, name)


def _move(refs: Refs, ref: str, name: str) -> str | None:
    old = refs.target(ref)
    refs.move([Move(ref, old, name)])
    return old


def environments_with_status(refs: Refs) -> tuple[str, ...]:
    """The environments that have one, as last learnt, sorted."""
    return tuple(sorted(ref.removeprefix(STATUS_REFS) for ref in refs.below(STATUS_REFS)))
