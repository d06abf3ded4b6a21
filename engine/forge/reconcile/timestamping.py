"""Ask a time-stamping authority (RFC 3161, over HTTP) for tokens over signatures, and believe none that a verifier would not.

Where forge.toml names an authority, nothing is signed without it: one that cannot be reached, refuses, or answers what the
pinned certificates do not bear out ends the command, and nothing is appended. A signature without its token is never kept.

The answer comes from the network: it is bounded in time (the whole exchange, not only each byte) and in size, redirects are
not followed, and no scheme but http and https is spoken. Plain http does: a token is signed, and about a nonce of this request.
"""

import datetime
import http.client
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from rfc3161_client import HashAlgorithm, TimestampRequestBuilder

from forge.attest.timestamps import (
    MOST_BYTES,
    PREFIX,
    TSA_FILE,
    TimestampAuthority,
    read_timestamp_authority,
    signature_in,
    stamped_time,
)
from forge.contract.charter import Charter
from forge.errors import TrustError, printable
from forge.reconcile.place import Place

ATTEMPT_SECONDS = 10.0
_PAUSES = (1.0, 3.0)
"""Seconds before another attempt; one more attempt than there are pauses."""
CLOCK_SECONDS = 300.0
"""How far this machine's clock may be from the authority's."""
_PROBE = b"forge: does this authority answer?"


class _UnreachableError(Exception):
    """An attempt that another one may make good."""


def stamped(sealed: Mapping[str, bytes], place: Place) -> dict[str, bytes]:
    """Attestations by name, with a token for each where forge.toml names an authority; raises TrustError where none is had."""
    if place.desired.settings.timestamps.url is None:
        return dict(sealed)
    return {**sealed, **tokens({name: signature_in(data) for name, data in sealed.items()}, place)}


def tokens(signatures: Mapping[str, bytes], place: Place) -> dict[str, bytes]:
    """``timestamp-NAME`` -> a token over the signature NAME; none where forge.toml names no authority. Raises TrustError."""
    url = place.desired.settings.timestamps.url
    if url is None:
        return {}
    authority = _pinned(url, place.config)
    return {f"{PREFIX}{name}": token_over(data, url, authority, place.now) for name, data in signatures.items()}


def check_authority(place: Place, charter: Charter | None) -> None:
    """Raise TrustError where signatures could not be stamped now, or would not count: said before the work, not after it."""
    url = place.desired.settings.timestamps.url
    if url is not None:
        token_over(_PROBE, url, _pinned(url, place.config), place.now)
    elif charter is not None and charter.supply_chain.timestamps == "required":
        raise TrustError(
            "the supply chain in force requires time stamps, and forge.toml names no authority: nothing that is signed now "
            'would count. Write, for instance:\n[timestamps]\nurl = "https://tsa.example.org"'
        )


def _pinned(url: str, config: Path) -> TimestampAuthority:
    """The authority that is pinned here; raises TrustError where none is."""
    authority = read_timestamp_authority(config)
    if authority is None:
        raise TrustError(
            f"forge.toml names the time-stamping authority {url}, but no certificate of one is pinned here "
            f"({config / TSA_FILE}): `forge keys pin-timestamps FILE --fingerprint sha256:..`"
        )
    return authority


def token_over(
    signature: bytes,
    url: str,
    authority: TimestampAuthority,
    now: Callable[[], datetime.datetime],
    pauses: tuple[float, ...] = _PAUSES,
    attempt_seconds: float = ATTEMPT_SECONDS,
) -> bytes:
    """The authority's answer with a token over a signature, verified; raises TrustError."""
    request = TimestampRequestBuilder().data(signature).hash_algorithm(HashAlgorithm.SHA256).build()
    answer = _asked(url, request.as_bytes(), pauses, attempt_seconds)
    try:
        moment = stamped_time(answer, signature, authority, nonce=request.nonce)
    except TrustError as error:
        raise TrustError(f"the time-stamping authority {url} gave a token that does not hold: {error}") from error
    apart = (datetime.datetime.fromisoformat(moment) - now()).total_seconds()
    if abs(apart) > CLOCK_SECONDS:
        word = "ahead of" if apart < 0 else "behind"
        raise TrustError(
            f"the time-stamping authority {url} says that it is {moment}; this machine's clock is {abs(apart):.0f} seconds "
            f"{word} that, and more than {CLOCK_SECONDS:.0f} is refused: set the clock"
        )
    return answer


def _asked(url: str, body: bytes, pauses: tuple[float, ...], attempt_seconds: float) -> bytes:
    """The answer's bytes; tried again where the network, or the server for the moment, was at fault."""
    for pause in pauses:
        try:
            return _exchange(url, body, attempt_seconds)
        except _UnreachableError:
            time.sleep(pause)
    try:
        return _exchange(url, body, attempt_seconds)
    except _UnreachableError as error:
        raise TrustError(
            f"the time-stamping authority {url} cannot be reached ({len(pauses) + 1} attempts): {error}. Nothing is signed "
            "without it: try again later, or take `[timestamps]` out of forge.toml in a commit"
        ) from error


def _exchange(url: str, body: bytes, seconds: float) -> bytes:
    """One request, within so many seconds all in all."""
    until = time.monotonic() + seconds
    held: list[http.client.HTTPConnection] = []
    opener = urllib.request.OpenerDirector()
    for handler in (urllib.request.ProxyHandler(), _Connections(held), urllib.request.HTTPErrorProcessor(), _Refusals()):
        opener.add_handler(handler)
    headers = {"Content-Type": "application/timestamp-query", "Accept": "application/timestamp-reply"}
    request = urllib.request.Request(url, body, headers, method="POST")  # noqa: S310 (forge.toml takes http and https only)
    watch = threading.Timer(seconds, _cut, (held,))
    watch.daemon = True
    watch.start()
    try:
        with opener.open(request, timeout=seconds) as answer:
            return _read(answer, until)
    except TimeoutError as error:
        raise _UnreachableError(f"no answer within {seconds:g} seconds") from error
    except (OSError, http.client.HTTPException) as error:  # a URLError is an OSError
        if time.monotonic() >= until:
            raise _UnreachableError(f"no answer within {seconds:g} seconds") from error
        reason = getattr(error, "reason", error)
        raise _UnreachableError(printable(str(reason)) or type(error).__name__) from error
    finally:
        watch.cancel()


def _read(answer: Any, until: float) -> bytes:
    """The body, refused as soon as it is larger than any token; raises TrustError and _UnreachableError."""
    data = bytearray()
    while len(data) <= MOST_BYTES:
        if time.monotonic() >= until:
            raise TimeoutError
        piece = answer.read1(MOST_BYTES + 1 - len(data))
        if not piece:
            stated = answer.headers.get("Content-Length", "")
            if stated.isdecimal() and len(data) != int(stated):
                raise _UnreachableError(f"the answer was cut off after {len(data)} of {stated} bytes")
            return bytes(data)
        data += piece
    raise TrustError(
        f"the time-stamping authority's answer is larger than {MOST_BYTES:,} bytes, which no token is: {answer.url}"
    )


def _cut(held: list[http.client.HTTPConnection]) -> None:
    """End what still hangs: a server that sends a byte now and then is never too late for any one of them."""
    for connection in held:
        if connection.sock is not None:
            try:
                connection.sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # it has ended by itself


class _Connections(urllib.request.HTTPSHandler, urllib.request.HTTPHandler):
    """http and https, each connection noted so that it can be cut."""

    def __init__(self, held: list[http.client.HTTPConnection]) -> None:
        super().__init__()
        self._held = held

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        """Called by the opener."""
        return self.do_open(self._plain, req)

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        """Called by the opener."""
        return self.do_open(self._secure, req)

    def _plain(self, host: str, /, **options: Any) -> http.client.HTTPConnection:
        self._held.append(http.client.HTTPConnection(host, **options))
        return self._held[-1]

    def _secure(self, host: str, /, **options: Any) -> http.client.HTTPConnection:
        self._held.append(http.client.HTTPSConnection(host, context=ssl.create_default_context(), **options))
        return self._held[-1]


class _Refusals(urllib.request.BaseHandler):
    """Every answer but 200: one that says to come again may be asked again; a redirect is none of them."""

    def http_error_default(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: http.client.HTTPMessage
    ) -> None:
        """Called by the opener for every status that is no success."""
        fp.close()
        said = f"HTTP {code} {printable(msg)}".rstrip()
        if code >= 500 or code in {408, 429}:
            raise _UnreachableError(said)
        if 300 <= code < 400:
            target = printable(str(headers.get("Location", "nowhere")))[:200]
            raise TrustError(
                f"the time-stamping authority {req.full_url} redirects to {target} ({said}), and redirects are not followed: "
                "name the address that answers in forge.toml"
            )
        raise TrustError(f"the time-stamping authority {req.full_url} refuses the request: {said}")
