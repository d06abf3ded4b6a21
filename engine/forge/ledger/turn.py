"""Whose turn it is to append to a shared ledger, once somebody has lost the race too often.

Compare-and-swap alone lets a slow writer lose for ever against fast ones. So a writer that has lost a few times says so in a
ref of its own, and whoever sees that holds back until it is gone; it ends in the very push that appends. It is advice, not a
lock: nothing is decided by it, and one whose holder died is passed over after a while, by the observer's own clock.
"""

import random
import time
import uuid
from contextlib import suppress

from forge.errors import LedgerError
from forge.ledger.refs import Move, RefMovedError, write_blob
from forge.ledger.remote import RemoteRefs
from forge.repo.repository import Repository

TURN_REF = "refs/forge/lease-turn"
LOST_OFTEN = 4
PATIENCE_SECONDS = 20.0


class Turn:
    """One append's place among the writers of a remote."""

    def __init__(self, repository: Repository, remote: RemoteRefs) -> None:
        self._repository = repository
        self._remote = remote
        self._mine: str | None = None

    def wait(self, attempts: int) -> None:
        """Hold back while it is another's turn, and ask for the turn after too many attempts. Needs fetched refs."""
        seen, since = None, time.monotonic()
        while (holder := self._remote.target(TURN_REF)) is not None and holder != self._mine:
            if holder != seen:
                seen, since = holder, time.monotonic()
            elif time.monotonic() - since > PATIENCE_SECONDS:
                with suppress(RefMovedError):
                    self._remote.move([Move(TURN_REF, holder, None)])
                break
            time.sleep(random.uniform(0.05, 0.2))  # noqa: S311 (jitter, not secrecy)
            self._remote.refresh()
        if holder != self._mine:
            self._mine = None
        if self._mine is None and attempts > LOST_OFTEN:
            mine = write_blob(self._repository, f"{uuid.uuid4().hex}\n".encode())
            with suppress(RefMovedError):
                self._remote.move([Move(TURN_REF, None, mine)])
                self._mine = mine

    def end(self) -> list[Move]:
        """What a push has to do to end the turn, if it is ours."""
        return [Move(TURN_REF, self._mine, None)] if self._mine else []

    def give_up(self) -> None:
        """End the turn without a push of anything else; where that fails, the others' patience ends it."""
        with suppress(LedgerError):
            if self._mine:
                self._remote.move(self.end())
        self._mine = None
