"""The serving agent: gateway, engines, watch and publisher, from the first port to the last process.

Invariant: what can be refused is refused before anything is started (release, keys, policy, address, audit log); and when
``serve`` or ``serve_environment`` returns or raises, nothing that it started is left.
"""

import asyncio
import contextlib
import ipaddress
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn

from forge.errors import LedgerError, RefusedError, ServeError
from forge.ledger.lock import fair_lock
from forge.serve.audit import AuditLog
from forge.serve.binding import Binding, bind
from forge.serve.engine import EngineSettings, say
from forge.serve.gateway import Gateway, new_request_id, utc_now
from forge.serve.publish import Publisher
from forge.serve.pull import check_weights
from forge.serve.release import ServableRelease
from forge.serve.report import Reporter
from forge.serve.service import Service, ServiceSettings, SwitchMode
from forge.serve.transparency import AuditLogPlace, logging_lines
from forge.serve.watch import Lookout, Notice, Source, Watch, first_look

_DRAIN_SECONDS = 5
"""Time for answers that are under way when the agent is told to stop."""


@dataclass(frozen=True)
class ServeSettings:
    """What is about this machine, not about the release."""

    audit_folder: Path
    status_file: Path
    log_folder: Path
    """For vLLM's output: ``engine.log``."""
    audit_log: AuditLogPlace | None = None
    """The transparency log of the audit log; None: there is none."""
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
    switch: SwitchMode = SwitchMode.SIDE_BY_SIDE
    drain_seconds: float = 300.0
    """Longest wait for requests that began with an engine which another one has followed."""
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    """Where ``env:NAME`` references are looked up; vLLM gets an allow-list of it."""
    python: str = sys.executable


def serve(release: ServableRelease, settings: ServeSettings) -> None:
    """Serve a release that somebody else has verified, and only that one, until SIGTERM or SIGINT; raises ServeError.

    Must be called in the main thread, because it takes those two signals.
    """
    _serve(bind(release, settings.environment), settings, None)


def serve_environment(source: Source, settings: ServeSettings) -> None:
    """Serve what an environment's pointer names, and follow it, until SIGTERM or SIGINT; raises ForgeError.

    What it names at the start has to hold, or nothing is started. After that nothing that goes wrong with a later release, the
    ledger or the remote ends the agent. Must be called in the main thread.
    """
    folder = source.weights
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(source):
        for left in folder.iterdir():
            shutil.rmtree(left, ignore_errors=True)
        serving: list[Service] = []
        lookout = Lookout(
            source,
            settings.environment,
            lambda: serving[0].running() if serving else None,
            served=lambda: serving[0].served() if serving else None,
        )
        binding = first_look(lookout, source, say)
        lookout.close()
        _serve(binding, settings, _Following(source, lookout, serving))


@contextlib.contextmanager
def _alone(source: Source) -> Iterator[None]:
    """One agent per environment and clone: two would remove each other's weights and overwrite each other's status."""
    folder = source.weights
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(fair_lock(folder.parent, folder.name, wait_seconds=0))
        except LedgerError as error:
            raise RefusedError(f"another `forge serve --env {source.environment}` is at work in this clone: {error}") from error
        yield


@dataclass(frozen=True)
class _Following:
    """What an agent that follows a pointer has beside one that does not."""

    source: Source
    lookout: Lookout
    serving: list[Service]
    """Filled in once there is a service: what the lookout asks."""


def _serve(binding: Binding, settings: ServeSettings, following: _Following | None) -> None:
    audit = AuditLog(settings.audit_folder, utc_now)
    audit.check()
    with (
        logging_lines(settings.audit_log, settings.audit_folder, say),
        open_listener(settings.host, settings.port, expose=settings.expose) as listener,
        contextlib.closing(audit),
    ):
        publisher = Publisher(following.source, say) if following is not None else None
        reporter = Reporter(
            binding.release,
            status_file=settings.status_file,
            host=settings.host,
            port=int(listener.getsockname()[1]),
            publish=publisher.offer if publisher is not None else None,
        )
        gateway = Gateway(binding, audit=audit, now=utc_now, monotonic=time.monotonic, new_id=new_request_id)
        reporter.introduce()
        if publisher is not None:
            publisher.start()
        try:
            asyncio.run(_run(gateway, reporter, settings, listener, following))
        except BaseException as error:
            reporter.stopped = f"{type(error).__name__}: {error}"
            raise
        else:
            reporter.stopped = "told to stop"
        finally:
            reporter.changed()
            if publisher is not None:
                publisher.close()


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


async def _run(
    gateway: Gateway, reporter: Reporter, settings: ServeSettings, listener: socket.socket, following: _Following | None
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    notices: asyncio.Queue[Notice] = asyncio.Queue()
    watch: Watch | None = None
    if following is not None:
        watch = Watch(following.lookout, following.source.poll_seconds, _poster(loop, notices))
    service = Service(gateway, reporter, _service_settings(settings, following), watch.look_again if watch else lambda: None)
    if following is not None:
        following.serving.append(service)
    server = http_server(gateway)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    stopping = asyncio.create_task(stop.wait())
    tasks = {serving, stopping}
    try:
        await service.begin(gateway.binding)
        tasks.add(asyncio.create_task(service.follow(notices)))
        if watch is not None:
            watch.start()
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        if watch is not None:
            watch.stop()
        server.should_exit = True
        await asyncio.gather(serving, return_exceptions=True)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await service.close()
    for task in done:
        task.result()


def _service_settings(settings: ServeSettings, following: _Following | None) -> ServiceSettings:
    engine = EngineSettings(
        python=settings.python,
        log_folder=settings.log_folder.resolve(),
        environment=settings.environment,
        check=check_weights,
        port=settings.engine_port,
        key=settings.engine_key,
        start_seconds=settings.engine_start_seconds,
    )
    weights = following.source.weights if following is not None else None
    return ServiceSettings(engine, mode=settings.switch, drain_seconds=settings.drain_seconds, weights=weights)


def _poster(loop: asyncio.AbstractEventLoop, notices: "asyncio.Queue[Notice]") -> Callable[[Notice], None]:
    """Hands a notice from the watch's thread to the event loop."""

    def post(notice: Notice) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the agent ends, and nobody acts on it
            loop.call_soon_threadsafe(notices.put_nowait, notice)

    return post


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
