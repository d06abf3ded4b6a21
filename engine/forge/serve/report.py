"""What the agent says of itself, in one place: on stderr, in the status file, and to the publisher.

The state follows from a few facts, each set by whoever knows it; none of them is a state by itself. So a failing fetch while
the engine is being started again, or a refused release that is followed by a good one, needs no case of its own.
"""

import os
import socket
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from forge.contract.status import AgentState, AgentStatus
from forge.serve.engine import say
from forge.serve.gateway import utc_now
from forge.serve.release import ServableRelease
from forge.serve.status import write_status


@dataclass
class Reporter:
    """The facts, and the state that follows from them. The event loop's thread only."""

    release: ServableRelease
    status_file: Path
    host: str
    port: int
    publish: Callable[[AgentStatus], None] | None = None
    engine_fault: str | None = "vLLM is starting"
    """Why the engine answers nothing; None while it is healthy."""
    was_ready: bool = False
    restarts: int = 0
    """Of the engine that serves."""
    switching_to: ServableRelease | None = None
    switch_fault: str | None = None
    """Why the last switch was not made."""
    pointer_fault: str | None = None
    """Why the pointer cannot be read, or what it names was refused."""
    wanted: str | None = None
    retired: str | None = None
    withdrawn: str | None = None
    """Why what was served is served no more."""
    withdrawn_but_running: str | None = None
    """Why what is served will not be started again."""
    stopped: str | None = None
    _agent: str = field(default_factory=lambda: uuid.uuid4().hex)
    _said: tuple[object, ...] = ()
    _since: str = ""

    def __post_init__(self) -> None:
        self.wanted = self.wanted or self.release.release_digest

    @property
    def state(self) -> AgentState:
        """What follows from the facts."""
        if self.stopped is not None:
            return AgentState.STOPPED
        if self.retired is not None:
            return AgentState.RETIRED
        if self.withdrawn is not None:
            return AgentState.WITHDRAWN
        if self.engine_fault is not None:
            return AgentState.DEGRADED if self.was_ready else AgentState.STARTING
        if any(fault is not None for fault in (self.switch_fault, self.pointer_fault, self.withdrawn_but_running)):
            return AgentState.DEGRADED
        return AgentState.SWITCHING if self.switching_to is not None else AgentState.READY

    @property
    def reason(self) -> str | None:
        """Everything that is at fault, or under way."""
        return self._facts(lambda fault: fault)

    @property
    def public_reason(self) -> str | None:
        """The same without what engines wrote to their logs: those lines stay on this machine."""
        reason = self._facts(lambda fault: fault.partition("\n")[0])
        return None if reason is None else reason[:4000]

    def _facts(self, cut: Callable[[str], str]) -> str | None:
        if self.stopped is not None:
            return cut(self.stopped)
        under_way = f"release {self.switching_to.release_digest} is being started" if self.switching_to is not None else None
        is_over = self.retired is not None or self.withdrawn is not None
        engine_fault = None if is_over or self.engine_fault is None else cut(self.engine_fault)
        switch_fault = None if self.switch_fault is None else cut(self.switch_fault)
        withdrawn = self.withdrawn or self.withdrawn_but_running
        facts = (self.retired, withdrawn, engine_fault, under_way, switch_fault, self.pointer_fault)
        return "; ".join(fact for fact in facts if fact is not None) or None

    def introduce(self) -> None:
        """The first words."""
        release = self.release
        say(f"release {release.release_digest} of {release.environment}: Model/{release.model}, {release.trust}")
        say(f"gateway on http://{self.host}:{self.port}; vLLM is starting, until then it answers 503")
        self.changed()

    def changed(self) -> None:
        """Write down how things are, after a fact has changed; what is new is said on stderr as well."""
        release, state, reason = self.release, self.state, self.reason
        now = utc_now().isoformat(timespec="milliseconds")
        if state is AgentState.READY:
            self.was_ready = True
        key = (state, reason, release.release_digest)
        if key != self._said:
            if self._said:
                self._speak(state, reason)
            self._said, self._since = key, now
        fields = {
            "time": now,
            "environment": release.environment,
            "deployment": release.deployment,
            "model": release.model,
            "release_digest": release.release_digest,
            "weights_digest": release.weights_digest,
            "policy_digest": release.policy_digest,
            "trust": release.trust,
            "pid": os.getpid(),
            "host": self.host,
            "port": self.port,
            "engine_restarts": self.restarts,
            "reason": reason,
        }
        write_status(self.status_file, state, fields)
        if self.publish is not None:
            self.publish(self._status(state, now))

    def _speak(self, state: AgentState, reason: str | None) -> None:
        if state is AgentState.READY:
            release = self.release
            say(f"ready: Model/{release.model} under InferencePolicy/{release.policy_name}")
        elif state is AgentState.STOPPED:
            say(f"stopped: {reason}")
        elif state is AgentState.STARTING:
            say(str(reason))
        else:
            say(f"{state.value}: {reason}")

    def _status(self, state: AgentState, now: str) -> AgentStatus:
        release = self.release
        bound = self.retired is None and self.withdrawn is None
        return AgentStatus(
            environment=release.environment,
            deployment=release.deployment,
            model=release.model,
            release=release.release_digest if bound else None,
            weights=release.weights_digest if bound else None,
            policy=release.policy_digest if bound else None,
            wanted=self.wanted if self.retired is None else None,
            state=state,
            is_serving=bound and self.stopped is None and self.engine_fault is None,
            reason=self.public_reason,
            time=now,
            since=self._since,
            engine_restarts=self.restarts,
            agent=self._agent,
            host=socket.gethostname()[:255],
            beat=1,
        )
