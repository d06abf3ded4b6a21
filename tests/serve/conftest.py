"""A release to serve, and a gateway on a real socket before a small engine that says what a test tells it to say."""

import asyncio
import datetime
import http.client
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from forge.canonical import digest_of_bytes
from forge.contract.control_tokens import OWN
from forge.serve.agent import http_server, open_listener
from forge.serve.audit import AuditLog
from forge.serve.binding import bind
from forge.serve.gateway import Gateway
from forge.serve.release import ServableRelease
from forge.serve.upstream import EngineAddress, Upstream
from forge.spec.deployment import Engine
from forge.spec.inference_policy import InferencePolicySpec, Limits, Redaction, RoleSpec

ACCESS = """
@id("generate")
permit (principal, action in [Action::"chat", Action::"complete"], resource == Model::"tiny")
when { principal == Role::"reader" || principal == Role::"editor" };
@id("list") permit (principal, action == Action::"list-models", resource);
@id("auditors-do-not-generate")
forbid (principal == Role::"auditor", action in [Action::"chat", Action::"complete"], resource);
@id("editors-do-not-stream")
forbid (principal == Role::"editor", action, resource) when { context has stream && context.stream };
"""
KEYS = {
    "KEY_READER": "reader-key-0123456789",
    "KEY_EDITOR": "editor-key-0123456789",
    "KEY_AUDITOR": "auditor-key-0123456789",
    "KEY_STRANGER": "stranger-key-0123456789",
    "KEY_HURRIED": "hurried-key-0123456789",
}


@pytest.fixture(scope="session")
def api_keys() -> dict[str, str]:
    return KEYS


@pytest.fixture(scope="session")
def policy() -> InferencePolicySpec:
    def role(name: str, **limits: float) -> RoleSpec:
        return RoleSpec.model_validate(
            {
                "name": name,
                "keys": [f"env:KEY_{name.upper()}"],
                "limits": Limits.model_validate({"max_tokens": 32, "requests_per_minute": 100_000, **limits}),
            }
        )

    everything = ["structured_outputs", "response_format", "logit_bias", "top_k", "min_p", "n", "temperature", "stream"]
    return InferencePolicySpec(
        roles=[
            role("reader", max_temperature=1.5, max_prompt_characters=200, max_n=3).model_copy(
                update={"parameters": ["stream", "stream_options", "temperature", "top_p", "stop", "seed", "n"]}
            ),
            role("editor", max_temperature=0.5).model_copy(update={"parameters": everything}),
            role("auditor"),
            role("stranger"),
            role("hurried", requests_per_minute=2),
        ],
        access=ACCESS,
        redactions=[
            Redaction(
                name="email",
                pattern=r"[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9.-]{1,128}\.[A-Za-z]{2,24}",
                replacement="[email]",
            ),
            Redaction(name="ipv4", pattern=r"[0-9]{1,3}(\.[0-9]{1,3}){3}", replacement="[ip]"),
        ],
    )


@pytest.fixture(scope="session")
def release(policy: InferencePolicySpec) -> ServableRelease:
    return ServableRelease(
        environment="test",
        deployment="tiny",
        model="tiny",
        policy_name="rules",
        policy=policy,
        policy_digest=digest_of_bytes(b"policy"),
        weights_digest=digest_of_bytes(b"weights"),
        release_digest=digest_of_bytes(b"release"),
        model_path=Path("model"),
        control_tokens=OWN,
        engine=Engine(dtype="float32", max_model_len=256, max_num_seqs=4),
        trust="trust root: tests",
    )


DIE = object()
"""In a script: the engine breaks the connection."""
HANG = object()
"""In a script: the engine says nothing more until the gateway goes away."""


@dataclass(frozen=True)
class Halt:
    """In a script: the engine says that it has come so far, and goes on when it is told to."""

    arrived: threading.Event
    go_on: threading.Event


@dataclass
class Script:
    """What the engine answers next: a status, and pieces of a body."""

    pieces: list[Any]
    status: int = 200
    content_type: str = "application/json"


@dataclass
class FakeEngine:
    """A real HTTP server that answers every route by the script, and keeps what it was asked."""

    script: Script = field(default_factory=lambda: Script([b"{}"]))
    requests: list[tuple[str, dict[str, str], dict[str, Any]]] = field(default_factory=list)
    abandoned: threading.Event = field(default_factory=threading.Event)
    is_away: bool = False
    address: EngineAddress | None = None

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.path, dict(request.headers), await request.json()))
        script = self.script
        response = web.StreamResponse(status=script.status, headers={"content-type": script.content_type})
        response.enable_chunked_encoding()
        try:
            for index, piece in enumerate(script.pieces):
                if index == 0 and piece is not DIE and piece is not HANG:
                    await response.prepare(request)
                if piece is DIE:
                    assert request.transport is not None
                    request.transport.abort()
                elif piece is HANG:
                    await asyncio.sleep(60)
                elif isinstance(piece, Halt):
                    piece.arrived.set()
                    await asyncio.to_thread(piece.go_on.wait, 10)
                else:
                    await response.write(piece)
                    await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.abandoned.set()
            raise
        return response

    def says(self, *texts: str, finish: str = "stop", chat: bool = True) -> None:
        """A whole answer with one choice per text."""
        choices = [
            {
                "index": index,
                **({"message": {"role": "assistant", "content": text}} if chat else {"text": text}),
                "finish_reason": finish,
            }
            for index, text in enumerate(texts)
        ]
        usage = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
        self.script = Script([json.dumps({"id": "x", "choices": choices, "usage": usage}).encode()])

    def streams(self, *pieces: Any, chat: bool = True, finish: str | None = "stop", done: bool = True) -> None:
        """A stream of one choice: text as chunks of it, the rest as it is."""
        lines = [event(piece, chat=chat) if isinstance(piece, str) else piece for piece in pieces]
        if finish:
            lines.append(event("", chat=chat, finish=finish))
        if done:
            usage = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
            lines += [b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\n", b"data: [DONE]\n\n"]
        self.script = Script(lines, content_type="text/event-stream; charset=utf-8")


def event(text: str, *, chat: bool = True, finish: str | None = None, index: int = 0) -> bytes:
    """One event as vLLM writes it."""
    content = {"delta": {"content": text}} if chat else {"text": text}
    return b"data: " + json.dumps({"choices": [{"index": index, **content, "finish_reason": finish}]}).encode() + b"\n\n"


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        error = self.json["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return str(error["code"])

    @property
    def events(self) -> list[str]:
        *events, rest = self.body.decode().split("\n\n")
        assert rest == ""
        return [item.removeprefix("data: ") for item in events]

    @property
    def chunks(self) -> list[dict[str, Any]]:
        return [json.loads(item) for item in self.events if item != "[DONE]"]

    def text(self, index: int = 0) -> str:
        choices = [choice for chunk in self.chunks for choice in chunk.get("choices", []) if choice["index"] == index]
        return "".join(choice["delta"].get("content", "") if "delta" in choice else choice["text"] for choice in choices)


CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}]}


class Rig:
    """The gateway and the engine behind it, and a client."""

    def __init__(self, port: int, engine: FakeEngine, audit_folder: Path, clock: list[float], gateway: Gateway) -> None:
        self.gateway = gateway
        self.port = port
        self.engine = engine
        self.audit_folder = audit_folder
        self.clock = clock
        """Monotonic seconds of the gateway, in a list of one."""

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)

    def send(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        role: str | None = "reader",
        headers: tuple[tuple[str, str], ...] = (),
    ) -> Reply:
        connection = self.connect()
        connection.putrequest(method, path)
        if role is not None:
            connection.putheader("Authorization", f"Bearer {KEYS[f'KEY_{role.upper()}']}")
        for name, value in headers:
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        response = connection.getresponse()
        reply = Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        connection.close()
        return reply

    def chat(self, role: str | None = "reader", **fields: Any) -> Reply:
        return self.send("POST", "/v1/chat/completions", json.dumps({**CHAT, **fields}).encode(), role)

    def complete(self, role: str | None = "reader", **fields: Any) -> Reply:
        return self.send("POST", "/v1/completions", json.dumps({"model": "tiny", "prompt": "a", **fields}).encode(), role)

    def audit(self, reply: Reply) -> dict[str, Any]:
        (line,) = [line for line in self.audit_lines() if line["request_id"] == reply.headers["x-request-id"]]
        return line

    def audit_lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for f in sorted(self.audit_folder.iterdir()) for line in f.read_text().splitlines()]

    def eventually(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 5
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.fixture(scope="module")
def _rig(release: ServableRelease, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    engine, clock, ids = FakeEngine(), [0.0], itertools.count()
    audit_folder = tmp_path_factory.mktemp("audit")
    ready, stop = threading.Event(), threading.Event()
    found: list[int] = []
    gateways: list[Gateway] = []

    async def run() -> None:
        application = web.Application(client_max_size=2**24)
        application.router.add_route("*", "/{path:.*}", engine.handle)
        runner = web.AppRunner(application, handler_cancellation=True, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        engine.address = EngineAddress(f"http://127.0.0.1:{runner.addresses[0][1]}", "engine-secret")
        upstream = Upstream(lambda: None if engine.is_away else engine.address, silence_seconds=1.0)
        gateway = Gateway(
            bind(release, KEYS, upstream),
            audit=AuditLog(audit_folder, lambda: datetime.datetime(2030, 1, 2, tzinfo=datetime.UTC)),
            now=lambda: datetime.datetime(2030, 1, 2, tzinfo=datetime.UTC),
            monotonic=lambda: clock[0],
            new_id=lambda: f"id{next(ids)}",
        )
        gateways.append(gateway)
        server = http_server(gateway)
        listener = open_listener("127.0.0.1", 0, expose=False)
        found.append(listener.getsockname()[1])
        async with upstream:
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            ready.set()
            while not stop.is_set():
                await asyncio.sleep(0.02)
            server.should_exit = True
            await serving
        await runner.cleanup()

    thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
    thread.start()
    assert ready.wait(20)
    yield Rig(found[0], engine, audit_folder, clock, gateways[0])
    stop.set()
    thread.join(20)


@pytest.fixture
def rig(_rig: Rig) -> Rig:
    """The gateway, with an engine that is there and says "Hi"."""
    _rig.engine.is_away = False
    _rig.engine.requests.clear()
    _rig.engine.abandoned.clear()
    _rig.engine.says("Hi")
    return _rig


@pytest.fixture
def halt() -> Halt:
    return Halt(threading.Event(), threading.Event())


@pytest.fixture
def die() -> object:
    return DIE


@pytest.fixture
def hang() -> object:
    return HANG


@pytest.fixture
def engine_event() -> Callable[..., bytes]:
    return event
