"""The policy gateway: an ASGI application between callers and the engine.

Routes are a list: chat completions, completions, the list of models, and ``/healthz``, which says whether the engine is
ready and nothing else. Whatever is not on it does not exist, vLLM's own routes included.

A request passes, in this order: route (404, 405), key (401), rate (429), a well-formed body (400), the model's name (404),
access by Cedar (403), the role's limits (400), room in the audit log (503), engine (503). Every answer carries the
request's id, the release's and the policy's digests. Invariant: every request but a health check leaves one audit line,
and an answer that could not be accounted for does not end as a success.

``switch`` puts another release, or another policy, in force for the requests that arrive after it. A request that is under way
keeps what it began with (``forge.serve.binding``); how often a key may ask is counted on across a switch.
"""

import asyncio
import contextlib
import datetime
import json
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Message, Receive, Scope, Send

from forge.serve.answer import AnswerIdentity, StreamedAnswer, Usage, whole_answer
from forge.serve.audit import AuditError, AuditLog, AuditRecord
from forge.serve.binding import Binding
from forge.serve.keys import Key, find_key
from forge.serve.limits import RateLimiter, check_limits, max_tokens_of, temperature_of
from forge.serve.policy import Action, ContextValue
from forge.serve.redaction import Counts
from forge.serve.refusal import RefusalError, bad_request, engine_away
from forge.serve.request import MOST_BODY_BYTES, GenerationRequest, engine_body, parse_request
from forge.serve.upstream import Upstream

HEALTH_ROUTE = b"/healthz"
_ROUTES: dict[bytes, tuple[str, Action]] = {
    b"/v1/chat/completions": ("POST", Action.CHAT),
    b"/v1/completions": ("POST", Action.COMPLETE),
    b"/v1/models": ("GET", Action.LIST_MODELS),
}
_BODY_SECONDS = 30.0
"""Longest wait for the whole body of a request."""
_CLIENT_CLOSED = 499
"""Status in the audit log for a caller that went away (nginx's convention); nobody receives it."""
_JSON = ("content-type", "application/json")
_EVENTS = (("content-type", "text/event-stream; charset=utf-8"), ("cache-control", "no-cache"))


@dataclass
class _Exchange:
    """One request on its way through: what the audit line will say of it, filled in as it becomes known."""

    binding: Binding
    request_id: str
    arrived: datetime.datetime
    started: float
    route: str = "other"
    key: Key | None = None
    decision: str = "denied"
    policies: tuple[str, ...] = ()
    reason: str | None = None
    status: int = 500
    usage: Usage | None = None
    stream: bool = False
    redactions: Counts = field(default_factory=dict)
    is_begun: bool = False
    """The status line is sent: from here on an error is an event in the stream."""
    is_recorded: bool = False


class Gateway:
    """The ASGI application; what it enforces is its binding."""

    def __init__(
        self,
        binding: Binding,
        *,
        audit: AuditLog,
        now: Callable[[], datetime.datetime],
        monotonic: Callable[[], float],
        new_id: Callable[[], str],
    ) -> None:
        self._binding = binding
        self._under_way: Counter[Upstream] = Counter()
        self._audit = audit
        self._now = now
        self._monotonic = monotonic
        self._new_id = new_id
        self._limiter = RateLimiter(monotonic)
        self._created = int(now().timestamp())

    @property
    def binding(self) -> Binding:
        """What a request that arrives now would meet."""
        return self._binding

    def switch(self, binding: Binding) -> None:
        """Put another binding in force for the requests that arrive from now on."""
        self._binding = binding

    def under_way(self, upstream: Upstream) -> int:
        """Requests that have not ended and may still ask this engine."""
        return self._under_way[upstream]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI 3)."""
        if scope["type"] != "http":
            raise RuntimeError(f"the gateway speaks HTTP only, not {scope['type']!r}")
        path: bytes = scope.get("raw_path") or scope["path"].encode()
        binding = self._binding
        exchange = _Exchange(binding, self._new_id(), self._now(), self._monotonic())
        if path == HEALTH_ROUTE and scope["method"] == "GET":
            is_ready = binding.retired is None and binding.upstream.is_ready()
            await self._send_json(exchange, send, 200 if is_ready else 503, {"ready": is_ready})
            return
        self._under_way[binding.upstream] += 1
        try:
            await self._exchange(exchange, scope, receive, send, path)
        finally:
            self._under_way[binding.upstream] -= 1
            if not self._under_way[binding.upstream]:
                del self._under_way[binding.upstream]

    async def _exchange(self, exchange: _Exchange, scope: Scope, receive: Receive, send: Send, path: bytes) -> None:
        body: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        work = asyncio.create_task(self._carry_out(exchange, scope, path, body, send))
        caller = asyncio.create_task(_listen(receive, body))
        try:
            await asyncio.wait({work, caller}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                exchange.reason, exchange.status = "client_closed", _CLIENT_CLOSED
        except asyncio.CancelledError:
            exchange.reason, exchange.status = "gateway_stopped", 503
            raise
        finally:
            work.cancel()
            caller.cancel()
            await asyncio.gather(work, caller, return_exceptions=True)
            if not exchange.is_recorded:
                with contextlib.suppress(RefusalError):  # nobody is left to be told; _record has said it on stderr
                    self._record(exchange)

    async def _carry_out(self, exchange: _Exchange, scope: Scope, path: bytes, body: asyncio.Future[bytes], send: Send) -> None:
        try:
            action = self._admit(exchange, scope, path)
            if action is Action.LIST_MODELS:
                self._decide(exchange, action, exchange.binding.release.model, {})
                await self._finish_json(exchange, send, self._models(exchange.binding.release.model))
                return
            request = await self._read(exchange, scope, body, action)
            if request.stream:
                await self._stream(exchange, request, path, send)
            else:
                await self._whole(exchange, request, path, send)
        except RefusalError as refusal:
            await self._refuse(exchange, send, refusal)
        except Exception:  # noqa: BLE001 (the process boundary: a fault of ours is an answer too, without its details)
            traceback.print_exc()
            await self._refuse(exchange, send, RefusalError(500, "the gateway failed", code="internal_error"))

    def _admit(self, exchange: _Exchange, scope: Scope, path: bytes) -> Action:
        """Find the route, the key and a free place in the key's rate."""
        route = _ROUTES.get(path)
        if route is None:
            raise RefusalError(404, "there is no such route", code="unknown_route")
        exchange.route = path.decode()
        method, action = route
        if scope["method"] != method:
            raise RefusalError(405, f"this route takes {method} only", code="method_not_allowed", headers=(("allow", method),))
        exchange.key = find_key(exchange.binding.keys, _bearer(scope))
        if exchange.key is None:
            challenge = (("www-authenticate", "Bearer"),)
            raise RefusalError(
                401, "no valid API key: send Authorization: Bearer KEY", code="invalid_api_key", headers=challenge
            )
        self._limiter.take(exchange.key)
        exchange.binding.check_open()
        return action

    async def _read(self, exchange: _Exchange, scope: Scope, body: asyncio.Future[bytes], action: Action) -> GenerationRequest:
        """Read the request and hold it against name, policy and limits."""
        if any(name == b"content-encoding" for name, _ in scope["headers"]):
            raise bad_request("a compressed body is not supported", code="invalid_json")
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                content = await body
        except TimeoutError as error:
            raise RefusalError(408, "the body did not arrive in time", code="request_timeout") from error
        request = parse_request(content, action)
        exchange.stream = request.stream
        if request.model != exchange.binding.release.model:
            raise RefusalError(404, "there is no such model: see /v1/models", code="model_not_found", param="model")
        role = _key_of(exchange).role
        context: dict[str, ContextValue] = {
            "stream": request.stream,
            "max_tokens": max_tokens_of(request, role),
            "parameters": sorted(request.named),
        }
        self._decide(exchange, action, request.model, context)
        try:
            check_limits(request, role)
        except RefusalError:
            exchange.decision = "denied"
            raise
        try:
            self._audit.check()
        except AuditError as error:
            raise _unaccountable(error) from error
        return request

    def _decide(self, exchange: _Exchange, action: Action, model: str, context: dict[str, ContextValue]) -> None:
        role, access = _key_of(exchange).role.name, exchange.binding.access
        decision = access.decide(role, action, model, context)
        exchange.policies = decision.policies
        if not decision.allowed:
            for error in decision.errors:
                print(f"forge serve: InferencePolicy/{access.name}: denied: {error}", file=sys.stderr, flush=True)
            raise RefusalError(403, access.explain(decision, role, action), code="policy_denied")
        exchange.decision = "allowed"

    async def _whole(self, exchange: _Exchange, request: GenerationRequest, path: bytes, send: Send) -> None:
        binding, body = exchange.binding, self._engine_body(exchange, request)
        payload = await binding.upstream.whole(path.decode(), body, exchange.request_id)
        identity = self._identity(exchange, request)
        answer, exchange.usage, exchange.redactions = whole_answer(payload, identity, binding.redactions)
        await self._finish_json(exchange, send, answer)

    async def _stream(self, exchange: _Exchange, request: GenerationRequest, path: bytes, send: Send) -> None:
        binding = exchange.binding
        answer = StreamedAnswer(self._identity(exchange, request), binding.redactions)
        body = self._engine_body(exchange, request)
        try:
            async with binding.upstream.stream(path.decode(), body, exchange.request_id) as events:
                await self._begin(exchange, send, 200, _EVENTS)
                async for event in events:
                    lines = b"".join(_event(chunk) for chunk in answer.feed(event))
                    if lines:
                        await _send_body(send, lines, more=True)
            exchange.usage = answer.end()
        finally:
            exchange.redactions = answer.counts
        exchange.status = 200
        self._record(exchange)
        last = _event(answer.usage_chunk(exchange.usage)) if request.include_usage else b""
        await _send_body(send, last + b"data: [DONE]\n\n", more=False)

    async def _refuse(self, exchange: _Exchange, send: Send, refusal: RefusalError) -> None:
        """Tell the caller: by the status, or, where that is sent already, by an event that ends the stream."""
        if not exchange.is_recorded:
            exchange.status, exchange.reason = refusal.status, refusal.code
            try:
                self._record(exchange)
            except RefusalError as unaccountable:
                refusal = unaccountable
        if exchange.is_begun:
            await _send_body(send, _event(refusal.body()), more=False)
        else:
            await self._send_json(exchange, send, refusal.status, refusal.body(), refusal.headers)

    async def _finish_json(self, exchange: _Exchange, send: Send, body: dict[str, Any]) -> None:
        exchange.status = 200
        self._record(exchange)
        await self._send_json(exchange, send, 200, body)

    def _record(self, exchange: _Exchange) -> None:
        """Write the audit line; raises RefusalError (503) if it cannot be written."""
        release, usage = exchange.binding.release, exchange.usage
        exchange.is_recorded = True
        record = AuditRecord(
            time=exchange.arrived.isoformat(timespec="milliseconds"),
            request_id=exchange.request_id,
            role=exchange.key.role.name if exchange.key else None,
            key_id=exchange.key.id if exchange.key else None,
            route=exchange.route,
            model=release.model,
            weights_digest=release.weights_digest,
            policy_digest=release.policy_digest,
            release_digest=release.release_digest,
            decision=exchange.decision,
            policies=exchange.policies,
            reason=exchange.reason,
            status=exchange.status,
            prompt_tokens=usage.prompt_tokens if usage else None,
            completion_tokens=usage.completion_tokens if usage else None,
            stream=exchange.stream,
            duration_seconds=round(self._monotonic() - exchange.started, 6),
            redactions=exchange.redactions,
        )
        try:
            self._audit.write(record)
        except AuditError as error:
            raise _unaccountable(error) from error

    def _engine_body(self, exchange: _Exchange, request: GenerationRequest) -> bytes:
        if not exchange.binding.upstream.is_ready():
            raise engine_away()
        role = _key_of(exchange).role
        return engine_body(
            request,
            max_tokens=max_tokens_of(request, role),
            temperature=temperature_of(request, role),
            control_tokens=exchange.binding.release.control_tokens,
        )

    def _identity(self, exchange: _Exchange, request: GenerationRequest) -> AnswerIdentity:
        prefix = "chatcmpl" if request.action is Action.CHAT else "cmpl"
        created = int(exchange.arrived.timestamp())
        return AnswerIdentity(f"{prefix}-{exchange.request_id}", created, request.model, request.action, request.n)

    def _models(self, name: str) -> dict[str, Any]:
        model = {"id": name, "object": "model", "created": self._created, "owned_by": "forge"}
        return {"object": "list", "data": [model]}

    async def _send_json(
        self, exchange: _Exchange, send: Send, status: int, body: dict[str, Any], headers: Sequence[tuple[str, str]] = ()
    ) -> None:
        content = json.dumps(body, ensure_ascii=False).encode()
        await self._begin(exchange, send, status, (_JSON, ("content-length", str(len(content))), *headers))
        await _send_body(send, content, more=False)

    async def _begin(self, exchange: _Exchange, send: Send, status: int, headers: Sequence[tuple[str, str]]) -> None:
        every = (
            *headers,
            ("x-request-id", exchange.request_id),
            ("x-forge-release", exchange.binding.release.release_digest),
            ("x-forge-policy", exchange.binding.release.policy_digest),
        )
        encoded = [(name.encode(), value.encode()) for name, value in every]
        await send({"type": "http.response.start", "status": status, "headers": encoded})
        exchange.is_begun = True


async def _listen(receive: Receive, body: asyncio.Future[bytes]) -> None:
    """Read the body into its future, then wait; returns when the caller has gone away."""
    content = bytearray()
    while True:
        message: Message = await receive()
        if message["type"] == "http.disconnect":
            return
        if body.done():
            continue
        content += message.get("body", b"")
        if len(content) > MOST_BODY_BYTES:
            body.set_exception(bad_request(f"the body is over {MOST_BODY_BYTES} bytes", code="body_too_large"))
            body.exception()  # seen: a request that is refused before its body is read leaves it at that
        elif not message.get("more_body", False):
            body.set_result(bytes(content))


def _bearer(scope: Scope) -> str:
    """The key that the request presents; the empty text, which is no key, where there is not exactly one."""
    values = [value for name, value in scope["headers"] if name == b"authorization"]
    scheme, _, key = values[0].decode("latin-1").partition(" ") if len(values) == 1 else ("", "", "")
    return key.strip() if scheme.lower() == "bearer" else ""


def _key_of(exchange: _Exchange) -> Key:
    if exchange.key is None:
        raise RuntimeError("a request without a key got past admission")
    return exchange.key


def _unaccountable(error: AuditError) -> RefusalError:
    print(f"forge serve: {error}", file=sys.stderr, flush=True)
    return RefusalError(503, "the request cannot be accounted for: try again later", code="audit_unavailable", retry_after=30)


def _event(body: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(body, ensure_ascii=False).encode() + b"\n\n"


async def _send_body(send: Send, content: bytes, *, more: bool) -> None:
    await send({"type": "http.response.body", "body": content, "more_body": more})


def new_request_id() -> str:
    """An id that is unique and sorts by time: milliseconds since the epoch and randomness, in hexadecimal."""
    import secrets

    return f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"


def utc_now() -> datetime.datetime:
    """The wall clock."""
    return datetime.datetime.now(datetime.UTC)
