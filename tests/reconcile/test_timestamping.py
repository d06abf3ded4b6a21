"""Asking a time-stamping authority on the loopback: its tokens are taken, and whatever else answers ends the command."""

import datetime
import shutil
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID
from tests.conftest import commit_all
from tests.reconcile.test_apply import snapshot_of, wait_for
from tests.reconcile.test_controller import watching
from tests.tsa import Authority, Fault, Server, dribble, make_authority, needs_openssl, send, serving

from forge.attest.timestamps import TimestampAuthority, pin_timestamp_authority, read_token, stamped_time
from forge.errors import TrustError, UsageError
from forge.reconcile.timestamping import token_over
from forge.spec.settings import read_settings

pytestmark = needs_openssl
SIGNATURE = b"\x02" * 64


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("tsa") / "acme")


@pytest.fixture(scope="module")
def pinned(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> TimestampAuthority:
    folder = tmp_path_factory.mktemp("config")
    return pin_timestamp_authority(folder, authority.pem.read_bytes(), [authority.fingerprint], replace=False)


@pytest.fixture
def server(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving(authority) as found:
        yield found


def asked(server: Server, pinned: TimestampAuthority, *, pauses: tuple[float, ...] = (), seconds: float = 5.0) -> bytes:
    return token_over(SIGNATURE, server.url, pinned, now, pauses, seconds)


def refused(server: Server, pinned: TimestampAuthority, fault: Fault, said: str, *, seconds: float = 5.0) -> None:
    server.fault = fault
    began = time.monotonic()
    with pytest.raises(TrustError, match=said):
        asked(server, pinned, seconds=seconds)
    assert time.monotonic() - began < seconds + 2


def test_the_authority_is_asked_with_a_nonce_and_its_token_is_about_the_signature(
    server: Server, pinned: TimestampAuthority
) -> None:
    token = asked(server, pinned)
    assert stamped_time(token, SIGNATURE, pinned)
    assert read_token(token).tst_info.nonce > 0
    assert asked(server, pinned) != token
    assert server.asked[0] != server.asked[1]


def test_a_server_that_is_down_for_a_moment_is_asked_again(server: Server, pinned: TimestampAuthority) -> None:
    def once(handler: BaseHTTPRequestHandler, query: bytes) -> None:
        server.fault = None
        send(handler, b"come again", 503)

    server.fault = once
    assert stamped_time(asked(server, pinned, pauses=(0.01,)), SIGNATURE, pinned)
    assert len(server.asked) == 2


def test_a_server_at_fault_is_refused_after_its_attempts(server: Server, pinned: TimestampAuthority) -> None:
    server.fault = lambda handler, _query: send(handler, b"sorry", 500)
    with pytest.raises(TrustError, match=r"cannot be reached \(3 attempts\): HTTP 500 .*Nothing is signed without it"):
        asked(server, pinned, pauses=(0.01, 0.01))
    assert len(server.asked) == 3


def test_nobody_listening_is_refused(authority: Authority, pinned: TimestampAuthority) -> None:
    with serving(authority) as gone:
        pass
    with pytest.raises(TrustError, match=r"cannot be reached \(1 attempts\): .*refused"):
        asked(gone, pinned)


def test_a_request_that_the_server_refuses_is_not_repeated(server: Server, pinned: TimestampAuthority) -> None:
    server.fault = lambda handler, _query: send(handler, b"", 403)
    with pytest.raises(TrustError, match="refuses the request: HTTP 403"):
        asked(server, pinned, pauses=(0.01,))
    assert len(server.asked) == 1


@pytest.mark.parametrize("target", ["file:///etc/passwd", "http://127.0.0.1:1/elsewhere"])
@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(server: Server, pinned: TimestampAuthority, target: str, status: int) -> None:
    refused(server, pinned, lambda handler, _query: send(handler, b"", status, Location=target), f"redirects to {target}")


def test_a_server_that_hangs_is_cut_off(server: Server, pinned: TimestampAuthority) -> None:
    refused(server, pinned, lambda _handler, _query: time.sleep(3), r"no answer within 0\.5 seconds", seconds=0.5)


def test_a_server_that_sends_a_byte_now_and_then_is_cut_off(server: Server, pinned: TimestampAuthority) -> None:
    refused(server, pinned, dribble, r"no answer within 0\.7 seconds", seconds=0.7)


def test_a_body_that_never_ends_is_cut_off(server: Server, pinned: TimestampAuthority) -> None:
    def slow(handler: BaseHTTPRequestHandler, _query: bytes) -> None:
        send(handler, b"", 200, **{"Content-Length": "1000"})
        for _ in range(40):
            handler.wfile.write(b"x")
            time.sleep(0.1)

    refused(server, pinned, slow, r"no answer within 0\.7 seconds", seconds=0.7)


def test_an_answer_that_is_cut_off_is_refused(server: Server, pinned: TimestampAuthority, authority: Authority) -> None:
    def short(handler: BaseHTTPRequestHandler, query: bytes) -> None:
        whole = authority.answer(query)
        send(handler, whole[:-40], 200, **{"Content-Length": str(len(whole))})

    refused(server, pinned, short, r"the answer was cut off after \d+ of \d+ bytes")
    refused(
        server, pinned, lambda handler, query: send(handler, authority.answer(query)[:-40]), "it is no whole time-stamp answer"
    )


@pytest.mark.parametrize("is_announced", [True, False])
def test_a_hundred_megabytes_are_not_read(server: Server, pinned: TimestampAuthority, is_announced: bool) -> None:
    sent = 0

    def flood(handler: BaseHTTPRequestHandler, _query: bytes) -> None:
        nonlocal sent
        handler.send_response(200)
        if is_announced:
            handler.send_header("Content-Length", str(100 << 20))
        handler.end_headers()
        for _ in range(100):
            handler.wfile.write(bytes(1 << 20))
            sent += 1

    refused(server, pinned, flood, "answer is larger than 65,536 bytes")
    assert sent < 50


def test_an_answer_to_another_request_is_refused(server: Server, pinned: TimestampAuthority, authority: Authority) -> None:
    kept = authority.answer(authority.query(SIGNATURE, nonce=True))
    refused(
        server, pinned, lambda handler, _query: send(handler, kept), "does not hold: the time stamp answers another request"
    )


def test_a_token_by_an_authority_that_is_not_pinned_is_refused(
    server: Server, pinned: TimestampAuthority, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = make_authority(tmp_path_factory.mktemp("other") / "acme")
    refused(server, pinned, lambda handler, query: send(handler, other.answer(query)), "is not signed by the pinned authority")


def test_a_server_over_tls_has_to_be_one_that_this_machine_trusts(
    authority: Authority, pinned: TimestampAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority.issue("server", usage=ExtendedKeyUsageOID.SERVER_AUTH)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving(authority, secured_by="server") as secured:
        with pytest.raises(TrustError, match=r"cannot be reached .*certificate verify failed"):
            asked(secured, pinned)
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.pem))
        assert stamped_time(asked(secured, pinned), SIGNATURE, pinned)


def test_a_web_page_is_refused(server: Server, pinned: TimestampAuthority) -> None:
    refused(server, pinned, lambda handler, _query: send(handler, b"<html>welcome"), "it is no whole time-stamp answer in DER")


def test_a_clock_that_is_wrong_is_told(server: Server, pinned: TimestampAuthority) -> None:
    def then() -> datetime.datetime:
        return now() + datetime.timedelta(hours=1)

    with pytest.raises(TrustError, match=r"this machine's clock is 3[56]\d\d seconds ahead of that"):
        token_over(SIGNATURE, server.url, pinned, then, ())


def test_only_addresses_that_are_spoken_to_are_taken_from_the_settings() -> None:
    good = read_settings(b'[timestamps]\nurl = "https://tsa.example.org/tsr"\n', "0.1.0")
    assert good.timestamps.url == "https://tsa.example.org/tsr"
    assert read_settings(b"", "0.1.0").timestamps.url is None
    for url in (
        "file:///etc/passwd",
        "ftp://tsa.example.org",
        "tsa.example.org",
        "https://me:secret@tsa.example.org",
        "https://a b",
    ):
        with pytest.raises(UsageError, match=r"forge\.toml:2: `timestamps\.url`"):
            read_settings(f'[timestamps]\nurl = "{url}"\n'.encode(), "0.1.0")


def test_no_thread_or_connection_is_left_behind(server: Server, pinned: TimestampAuthority) -> None:
    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    asked(server, pinned)
    before = open_files()
    server.fault = lambda handler, _query: send(handler, b"x", 500)
    for _ in range(20):
        with pytest.raises(TrustError):
            asked(server, pinned)
    assert open_files() <= before + 4


def test_a_controller_records_what_it_made_once_the_authority_is_back(
    server: Server, authority: Authority, copy_of_applied: Path, config_home: Path, tmp_path: Path
) -> None:
    """One process throughout: nobody else's death frees the step that could not be recorded."""
    folder, config = copy_of_applied, tmp_path / "config"
    shutil.copytree(config_home, config)
    pin_timestamp_authority(config, authority.pem.read_bytes(), [authority.fingerprint], replace=False)
    before = snapshot_of(folder).release("local")
    assert before is not None
    with (folder / "forge.toml").open("a") as settings:
        settings.write(f'[timestamps]\nurl = "{server.url}"\n')
    policy = folder / "policies" / "small.yaml"
    policy.write_text(policy.read_text().replace("max_tokens: 32", "max_tokens: 16"))
    commit_all(folder)

    def answer_once(handler: BaseHTTPRequestHandler, query: bytes) -> None:
        server.fault = lambda later, _query: send(later, b"", 403)
        send(handler, authority.answer(query))

    server.fault = answer_once
    with watching(folder, config) as log:
        wait_for(lambda: log.read_text().count("refuses the request: HTTP 403") > 1)
        assert snapshot_of(folder).release("local") == before
        server.fault = None
        wait_for(lambda: snapshot_of(folder).release("local") != before)
    after = snapshot_of(folder).release("local")
    assert after is not None
    assert {"timestamp-release", "timestamp-verification-summary"} <= after.attestations.keys()
    made = snapshot_of(folder).latest("release/small-local")
    assert made is not None
    assert made.attempt == 1
