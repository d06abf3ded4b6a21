"""The serving agent: the gateway and the engine of one release, from the first port to the last process.

Invariant: what can be refused is refused before anything is started (keys, policy, address, audit log); and when
``serve`` returns or raises, nothing that it started is left.
"""

import asyncio
import contextlib
import ipaddress
import os
import signal
import socket
import sys
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn

from forge.errors import ServeError
from forge.serve.audit import AuditLog
from forge.serve.engine import EngineSettings, EngineSupervisor, say
from forge.serve.gateway import Gateway, new_request_id, utc_now
from forge.serve.keys import resolve_keys
from forge.serve.release import ServableRelease
from forge.serve.status import AgentState, write_status
from forge.serve.upstream import Upstream

_DRAIN_SECONDS = 5
"""Time for answers that are under way when the agent is told to stop."""


@dataclass(frozen=True)
class ServeSettings:
    """What is about this machine, not about the release."""

    audit_folder: Path
    status_file: Path
    log_folder: Path
    """For vLLM's output: ``engine.log``."""
    host: str = "127.0.0.1"
    port: int = 8080
    """0: a free one, named in the status file."""
    expose: bool = False
    """Whether the host may be other than loopback. The gateway speaks plain HTTP: put a TLS proxy before it."""
    engine_port: int | None = None
    """None: a free one."""
    engine_key: str | None = None
    """None: a random secret."""
    engine_start_seconds: float = 300.0
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    """Where ``env:NAME`` references are looked up; vLLM gets an allow-list of it."""
    python: str = sys.executable


def serve(release: ServableRelease, settings: ServeSettings) -> None:
    """Serve a release until SIGTERM or SIGINT, then stop everything that was started; raises ServeError.

    Must be called in the main thread, because it takes those two signals.
    """
    keys = resolve_keys(release.policy, settings.environment)
    audit = AuditLog(settings.audit_folder, utc_now)
    audit.check()
    with open_listener(settings.host, settings.port, expose=settings.expose) as listener, contextlib.closing(audit):
        reporter = _Reporter(release, settings, int(listener.getsockname()[1]))
        supervisor = EngineSupervisor(
            release,
            EngineSettings(
                python=settings.python,
                log_folder=settings.log_folder.resolve(),
                environment=settings.environment,
                port=settings.engine_port,
                key=settings.engine_key,
                start_seconds=settings.engine_start_seconds,
            ),
            reporter.engine_changed,
        )
        upstream = Upstream(supervisor.address)
        gateway = Gateway(
            release,
            keys=keys,
            upstream=upstream,
            audit=audit,
            now=utc_now,
            monotonic=time.monotonic,
            new_id=new_request_id,
        )
        reporter.starting()
        try:
            asyncio.run(_run(gateway, upstream, supervisor, listener))
        except BaseException as error:
            reporter.stopped(f"{type(error).__name__}: {error}")
            raise
        reporter.stopped("told to stop")


def http_server(gateway: Gateway) -> uvicorn.Server:
    """The HTTP server before the gateway; it is given its listening socket when it is run."""
    return _Server(
        uvicorn.Config(
            gateway,
            log_level="warning",
            access_log=False,
            server_header=False,
            lifespan="off",
            ws="none",
            proxy_headers=False,
            timeout_graceful_shutdown=_DRAIN_SECONDS,
        )
    )


class _Server(uvicorn.Server):
    """uvicorn, without its own handling of signals: the agent decides when to end, and in which order."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


class _Reporter:
    """Says on stderr and in the status file how the agent is."""

    def __init__(self, release: ServableRelease, settings: ServeSettings, port: int) -> None:
        self._release = release
        self._settings = settings
        self._port = port
        self._was_ready = False
        self._restarts = 0

    def starting(self) -> None:
        release = self._release
        say(f"release {release.release_digest} of {release.environment}: Model/{release.model}, {release.trust}")
        say(f"gateway on http://{self._settings.host}:{self._port}; vLLM is starting, until then it answers 503")
        self._write(AgentState.STARTING, "vLLM is starting")

    def engine_changed(self, reason: str | None, restarts: int) -> None:
        self._restarts = restarts
        if reason is None:
            self._was_ready = True
            say(f"ready: Model/{self._release.model} under InferencePolicy/{self._release.policy_name}")
            self._write(AgentState.READY, None)
        else:
            say(reason)
            state = AgentState.DEGRADED if self._was_ready else AgentState.STARTING
            self._write(state, reason)

    def stopped(self, reason: str) -> None:
        say(f"stopped: {reason}")
        self._write(AgentState.STOPPED, reason)

    def _write(self, state: AgentState, reason: str | None) -> None:
        release = self._release
        fields = {
            "time": utc_now().isoformat(timespec="milliseconds"),
            "environment": release.environment,
            "deployment": release.deployment,
            "model": release.model,
            "release_digest": release.release_digest,
            "weights_digest": release.weights_digest,
            "policy_digest": release.policy_digest,
            "trust": release.trust,
            "pid": os.getpid(),
            "host": self._settings.host,
            "port": self._port,
            "engine_restarts": self._restarts,
            "reason": reason,
        }
        write_status(self._settings.status_file, state, fields)


async def _run(gateway: Gateway, upstream: Upstream, supervisor: EngineSupervisor, listener: socket.socket) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = http_server(gateway)
    async with upstream:
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        engine = asyncio.create_task(supervisor.run())
        stopping = asyncio.create_task(stop.wait())
        try:
            done, _ = await asyncio.wait({serving, engine, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            server.should_exit = True
            await asyncio.gather(serving, return_exceptions=True)
            engine.cancel()
            stopping.cancel()
            await asyncio.gather(engine, stopping, return_exceptions=True)
    for task in done:
        task.result()


def open_listener(host: str, port: int, *, expose: bool) -> socket.socket:
    """Open the gateway's port, before anything is started; raises ServeError."""
    if not expose and not _is_loopback(host):
        raise ServeError(
            f"{host!r} is not a loopback address: the gateway speaks plain HTTP, so it listens on loopback unless told "
            "otherwise (expose)"
        )
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Connections inherit it. Without it the head of an answer waits 40 ms for the caller's acknowledgement.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        raise ServeError(f"the gateway cannot listen on {host} port {port}: {error.strerror}") from error
    listener.setblocking(False)
    return listener


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
