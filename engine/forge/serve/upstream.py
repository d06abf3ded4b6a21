"""The way to the engine: one HTTP client, and the events of a stream as whole payloads.

Invariant: nothing of the caller's connection goes along (no header, no path), and nothing that the engine says about a
request comes back: its status becomes one of our refusals.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import aiohttp

from forge.serve.refusal import RefusalError, bad_request, engine_away, engine_fault

ENGINE_SILENCE_SECONDS = 300.0
"""Longest wait for the next byte of an answer."""
_MOST_ANSWER_BYTES = 32 * 2**20
_MOST_EVENT_BYTES = 2**20
_KEEP_ALIVE_SECONDS = 2.0
"""Less than vLLM's 5: a connection that the engine is about to close is not used again."""
_DONE = b"[DONE]"


@dataclass(frozen=True)
class EngineAddress:
    """Where the engine listens, and its secret key."""

    url: str
    key: str


class Upstream:
    """The engine as the gateway sees it; use as an asynchronous context."""

    def __init__(self, locate: Callable[[], EngineAddress | None], silence_seconds: float = ENGINE_SILENCE_SECONDS) -> None:
        self._locate = locate
        """The engine's address while it is healthy, else None."""
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=silence_seconds)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_SECONDS)
        self._session = aiohttp.ClientSession(connector=connector, timeout=self._timeout, cookie_jar=aiohttp.DummyCookieJar())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    def is_ready(self) -> bool:
        """Whether the engine is healthy."""
        return self._locate() is not None

    async def whole(self, path: str, body: bytes, request_id: str) -> bytes:
        """Send a request and read its answer to the end; raises RefusalError."""
        async with self._post(path, body, request_id) as response:
            answer = bytearray()
            async for piece in response.content.iter_any():
                answer += piece
                if len(answer) > _MOST_ANSWER_BYTES:
                    raise engine_fault("it is too long")
            return bytes(answer)

    def stream(self, path: str, body: bytes, request_id: str) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Send a request and give its events, without the closing ``[DONE]``; a stream that lacks it is a fault (502)."""
        return self._stream(path, body, request_id)

    @asynccontextmanager
    async def _stream(self, path: str, body: bytes, request_id: str) -> AsyncIterator[AsyncIterator[bytes]]:
        async with self._post(path, body, request_id) as response:
            if response.content_type != "text/event-stream":
                raise engine_fault("it is not a stream of events")
            yield _events(response)

    @asynccontextmanager
    async def _post(self, path: str, body: bytes, request_id: str) -> AsyncIterator[aiohttp.ClientResponse]:
        address = self._locate()
        if address is None or self._session is None:
            raise engine_away()
        headers = {
            "authorization": f"Bearer {address.key}",
            "content-type": "application/json",
            "x-request-id": request_id,
        }
        begun = False
        try:
            async with self._session.post(address.url + path, data=body, headers=headers, allow_redirects=False) as response:
                begun = True
                if response.status != 200:
                    raise await _refusal_of(response)
                yield response
        except aiohttp.ConnectionTimeoutError as error:
            raise engine_away() from error
        except TimeoutError as error:
            raise RefusalError(504, "the engine did not answer in time", code="engine_timeout") from error
        except (aiohttp.ClientError, ConnectionError) as error:
            raise (engine_fault("it broke off") if begun else engine_away()) from error


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    pending = b""
    async for piece in response.content.iter_any():
        *lines, pending = (pending + piece).split(b"\n")
        if len(pending) > _MOST_EVENT_BYTES:
            raise engine_fault("an event is too long")
        for line in lines:
            name, _, payload = line.strip().partition(b":")
            if name != b"data":  # comments, and fields that vLLM does not send
                continue
            if payload.strip() == _DONE:
                return
            yield payload
    raise engine_fault("it broke off")


async def _refusal_of(response: aiohttp.ClientResponse) -> RefusalError:
    """What an error of the engine means for the caller. Its text is looked at, never passed on: it may echo the prompt."""
    if response.status in {400, 404, 413, 422}:
        explanation = await response.content.read(65_536)
        if b"context length" in explanation:
            return bad_request(
                "prompt and max_tokens together are longer than the model's context: send less, or ask for fewer tokens",
                code="context_length_exceeded",
            )
        return bad_request(
            "the engine refuses this request: a parameter has a value that it does not support", code="rejected_by_engine"
        )
    if response.status in {429, 503}:
        return engine_away()
    return engine_fault(f"it failed with status {response.status}")
