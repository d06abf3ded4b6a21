"""Publishing the agent's status: signed, under ``refs/forge/status/ENVIRONMENT``, when it changes and at least once a minute.

Invariant: serving never depends on it. A missing key, a remote that is away or a ref that is fought over is said once, tried
again, and said to be over; the status file on this machine is written either way. It runs in a thread of its own, for a push
may wait for a network.
"""

import threading
import traceback
from collections.abc import Callable

from forge.admission.history import current_authority
from forge.attest.authority import Authority
from forge.attest.envelope import seal
from forge.attest.keys import signer_for
from forge.attest.statements import STATUS_PAYLOAD_TYPE
from forge.attest.trust import TrustRoot, read_trust_root
from forge.contract.kinds import Role
from forge.contract.status import LONGEST_SILENCE_SECONDS, AgentStatus
from forge.errors import ForgeError, LedgerError, TrustError
from forge.ledger.ledger import Ledger
from forge.ledger.status import publish
from forge.repo.repository import Repository, object_id
from forge.serve.gateway import utc_now
from forge.serve.watch import Source

BEAT_SECONDS = 0.75 * LONGEST_SILENCE_SECONDS
FIRST_DELAY_SECONDS = 2.0
_CLOSE_SECONDS = 5.0
"""How long the last word, that the agent has stopped, may take."""


class Publisher:
    """Holds the newest status and sees that it is published."""

    def __init__(self, source: Source, say: Callable[[str], None], beat_seconds: float = BEAT_SECONDS) -> None:
        self._source = source
        self._say = say
        self._beat_seconds = beat_seconds
        self._guard = threading.Lock()
        self._newest: AgentStatus | None = None
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._beat = 0
        self._authority: Authority | None = None
        """Who may sign, as the ledger said last."""
        self._last: str | None = None
        """The object that we published last."""
        self._is_contested = False
        self._thread = threading.Thread(target=self._run, name="forge-status", daemon=True)

    def start(self) -> None:
        """Begin to publish what is offered."""
        self._thread.start()

    def offer(self, status: AgentStatus) -> None:
        """Take a status for the newest; returns at once."""
        with self._guard:
            self._newest = status
        self._wake.set()

    def close(self) -> None:
        """Publish what was offered last, if that goes quickly, and end."""
        self._closing.set()
        self._wake.set()
        self._thread.join(_CLOSE_SECONDS)

    def _run(self) -> None:
        fault: str | None = None
        delay = FIRST_DELAY_SECONDS
        pause = self._beat_seconds
        while True:
            self._wake.wait(pause)
            self._wake.clear()
            closing = self._closing.is_set()
            try:
                self._publish()
            except Exception as error:  # noqa: BLE001 (the thread's boundary: the agent goes on serving)
                if not isinstance(error, ForgeError):
                    traceback.print_exception(error)
                reason = str(error) or type(error).__name__
                if reason != fault:
                    self._say(f"the agent's status is not published: {reason}")
                    fault = reason
                pause = delay = min(2 * delay, self._beat_seconds)
            else:
                if fault is not None:
                    self._say("the agent's status is published again")
                fault, delay, pause = None, FIRST_DELAY_SECONDS, self._beat_seconds
            if closing:
                return

    def _publish(self) -> None:
        with self._guard:
            status = self._newest
        if status is None:
            return
        source = self._source
        signer = signer_for(Role.AGENT, source.config)
        root = read_trust_root(source.config)
        now = utc_now().isoformat(timespec="milliseconds")
        with Repository(source.repository) as repository:
            ledger = Ledger(repository, source.ledger_ref, source.ledger_remote)
            signers = self._authority_in(ledger, root).signers(Role.AGENT, now)
            if not signers.count(signer.public_key.keyid):
                raise TrustError(
                    f"the key of the role agent in {source.config} is not one that {root.describe()} lists, or its supply "
                    "chain: nobody would believe it. For development, `forge keys init` adds it; else have it listed"
                )
            self._beat += 1
            data = seal(status.model_copy(update={"time": now, "beat": self._beat}).to_bytes(), signer, STATUS_PAYLOAD_TYPE)
            replaced = publish(ledger.refs, repository, source.environment, data)
        self._notice_rival(replaced)
        self._last = object_id("blob", data)

    def _authority_in(self, ledger: Ledger, root: TrustRoot) -> Authority:
        """Who may sign, as the ledger says; as it said last, where it cannot be read, for that is what a status has to tell."""
        try:
            self._authority = current_authority(ledger.snapshot(), root)
        except (LedgerError, TrustError):
            return self._authority or Authority(root)
        return self._authority

    def _notice_rival(self, replaced: str | None) -> None:
        is_rival = self._last is not None and replaced is not None and replaced != self._last
        if is_rival and not self._is_contested:
            self._say(
                f"somebody else publishes the status of {self._source.environment!r} as well: an environment has one agent; "
                "whoever reads its status sees now one, now the other"
            )
        self._is_contested = is_rival
