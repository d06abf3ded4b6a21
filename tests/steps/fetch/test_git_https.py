"""Git over https, from a host of our own: its certificate, a password from a file, and redirects."""

import base64
import datetime
import http.server
import ipaddress
import os
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tests.steps.fetch.repository import repository

from forge.errors import StepError
from forge.spec.remote import GitFiles
from forge.steps.fetch.downloads import Downloads
from forge.steps.fetch.git import GitFile, fetch_commit

PASSWORD = "hunter2"


def certificate(folder: Path) -> Path:
    """A certificate for 127.0.0.1, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "loopback")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + datetime.timedelta(1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "host.pem"
    secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM) + secret)
    return path


class _Host(http.server.BaseHTTPRequestHandler):
    """``git http-backend`` behind a password; /moved leads to it."""

    root = ""

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers["Content-Length"])))

    def _answer(self, body: bytes) -> None:
        path, _, query = self.path.partition("?")
        if path.startswith("/moved"):
            self.send_response(302)
            self.send_header("Location", f"/origin{self.path.removeprefix('/moved')}&token={PASSWORD}")
            self.end_headers()
            return
        if self.headers.get("Authorization") != "Basic " + base64.b64encode(f"me:{PASSWORD}".encode()).decode():
            self.send_response(401)
            self.send_header("WWW-Authenticate", "Basic")
            self.end_headers()
            return
        environment = {
            "PATH": os.environ["PATH"], "GIT_PROJECT_ROOT": self.root, "GIT_HTTP_EXPORT_ALL": "1", "PATH_INFO": path,
            "QUERY_STRING": query, "REQUEST_METHOD": self.command, "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)), "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
        }  # fmt: skip
        done = subprocess.run(["git", "http-backend"], input=body, env=environment, capture_output=True, check=True)
        head, _, data = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        self.send_response(int(headers.pop("Status", "200").split()[0]))
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_args: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path, str]]:
    """Address, certificate and the commit that it holds."""
    folder = tmp_path_factory.mktemp("host")
    sha = repository(folder / "origin", {"a.py": b"a = 1\n"})
    pem = certificate(folder)
    _Host.root = str(folder)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Host)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"https://127.0.0.1:{server.server_port}", pem, sha
    server.shutdown()
    thread.join()
    server.server_close()


def fetch(tmp_path: Path, url: str, sha: str) -> list[GitFile]:
    (tmp_path / "files").mkdir()
    source = GitFiles.model_validate({"url": url, "commit": sha, "include": ["**/*.py"]})
    return fetch_commit(source, tmp_path / "files", tmp_path / "work", "sources[0]", Downloads(None), lambda size: None)


@pytest.fixture
def trusted(host: tuple[str, Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host's certificate and the password for it, where a step looks for them."""
    (tmp_path / "credentials").write_text(f"{host[0].replace('//', f'//me:{PASSWORD}@')}\n")
    monkeypatch.setenv("SSL_CERT_FILE", str(host[1]))
    monkeypatch.setenv("FORGE_GIT_CREDENTIALS", str(tmp_path / "credentials"))
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("trusted")
def test_a_commit_comes_over_https_with_a_password_from_a_file(host: tuple[str, Path, str], tmp_path: Path) -> None:
    assert [file.path for file in fetch(tmp_path, f"{host[0]}/origin/.git", host[2])] == ["a.py"]


@pytest.mark.usefixtures("trusted")
def test_a_redirect_is_refused_and_what_it_carried_is_not_told(host: tuple[str, Path, str], tmp_path: Path) -> None:
    with pytest.raises(StepError, match="cannot be fetched") as caught:
        fetch(tmp_path, f"{host[0]}/moved/.git", host[2])
    assert PASSWORD not in str(caught.value)


@pytest.mark.usefixtures("trusted")
def test_a_host_whose_certificate_nobody_vouches_for_is_refused(
    host: tuple[str, Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(StepError, match=r"cannot be fetched: .*certificate"):
        fetch(tmp_path, f"{host[0]}/origin/.git", host[2])


@pytest.mark.usefixtures("trusted")
def test_a_password_that_is_refused_is_neither_told_nor_erased(host: tuple[str, Path, str], tmp_path: Path) -> None:
    wrong = (tmp_path / "credentials").read_text().replace(PASSWORD, "verysecret")
    (tmp_path / "credentials").write_text(wrong)
    with pytest.raises(StepError, match="cannot be fetched") as caught:
        fetch(tmp_path, f"{host[0]}/origin/.git", host[2])
    assert "verysecret" not in str(caught.value)
    assert (tmp_path / "credentials").read_text() == wrong


@pytest.mark.usefixtures("trusted")
def test_without_the_password_nobody_is_asked_for_it(
    host: tuple[str, Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FORGE_GIT_CREDENTIALS")
    with pytest.raises(StepError, match="terminal prompts disabled"):
        fetch(tmp_path, f"{host[0]}/origin/.git", host[2])
