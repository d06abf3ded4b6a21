"""A time-stamping authority on the loopback: `openssl ts -reply` behind a tiny HTTP server, with certificates of its own.

``faults`` make it misbehave; ``token`` makes tokens that a server would refuse to make, such as one with another time.
"""

import contextlib
import datetime
import ipaddress
import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from forge.attest.timestamps import fingerprint

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl program")
DAY = datetime.timedelta(days=1)

_CONFIGURATION = """
[tsa]
serial = {folder}/serial
default_policy = 1.2.3.4.1
digests = sha256, sha384, sha512
accuracy = secs:1
ess_cert_id_chain = no
ess_cert_id_alg = sha256
signer_digest = sha256
"""


@dataclass
class Authority:
    """Certificates and keys of an authority: a self-signed root, and a signer of that root's."""

    folder: Path

    @property
    def pem(self) -> Path:
        """What a verifier pins."""
        return self.folder / "root.pem"

    @property
    def fingerprint(self) -> str:
        """Of what a verifier pins."""
        return fingerprint(x509.load_pem_x509_certificate(self.pem.read_bytes()))

    def issue(
        self,
        name: str,
        issuer: str = "root",
        usage: x509.ObjectIdentifier | None = ExtendedKeyUsageOID.TIME_STAMPING,
        critical: bool = True,
        begins: datetime.timedelta = -2 * DAY,
        ends: datetime.timedelta = 3650 * DAY,
        is_authority: bool = False,
    ) -> None:
        """Write ``NAME.pem`` and ``NAME.key``; ``begins`` and ``ends`` count from now."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{self.folder.name} {name}")])
        by_itself = name == issuer
        issuing = key if by_itself else self._key(issuer)
        issued_by = subject if by_itself else self._certificate(issuer).subject
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issued_by)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + begins)
            .not_valid_after(now + ends)
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuing.public_key()), critical=False)
        )
        if usage == ExtendedKeyUsageOID.SERVER_AUTH:
            here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
            builder = builder.add_extension(here, critical=False)
        if usage is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=critical)
        certificate = builder.sign(issuing, hashes.SHA256())
        (self.folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        (self.folder / f"{name}.key").write_bytes(key.private_bytes(*form))

    def answer(self, query: bytes, signer: str = "signer") -> bytes:
        """What openssl answers to a request."""
        folder = Path(subprocess.check_output(["mktemp", "-d", "-p", self.folder], text=True).strip())
        (folder / "serial").write_text("01")
        (folder / "tsa.cnf").write_text(_CONFIGURATION.format(folder=folder))
        (folder / "query").write_bytes(query)
        command = ["openssl", "ts", "-reply", "-config", folder / "tsa.cnf", "-section", "tsa", "-queryfile", folder / "query"]
        command += [
            "-signer",
            self.folder / f"{signer}.pem",
            "-inkey",
            self.folder / f"{signer}.key",
            "-out",
            folder / "answer",
        ]
        subprocess.run(command, check=True, capture_output=True)
        return (folder / "answer").read_bytes()

    def query(self, data: bytes, *, nonce: bool = False, certificate: bool = True) -> bytes:
        """A request for a token over some bytes."""
        (self.folder / "data").write_bytes(data)
        command = ["openssl", "ts", "-query", "-data", self.folder / "data", "-sha256"]
        command += [*([] if nonce else ["-no_nonce"]), *(["-cert"] if certificate else []), "-out", self.folder / "query"]
        subprocess.run(command, check=True, capture_output=True)
        return (self.folder / "query").read_bytes()

    def token(self, data: bytes, signer: str = "signer", at: datetime.datetime | None = None, of: str = "signer") -> bytes:
        """An answer with a token over some bytes, by any key and for any time: what openssl's own server refuses to make."""
        honest = self.answer(self.query(data), of)
        (self.folder / "honest").write_bytes(honest)
        command = ["openssl", "ts", "-reply", "-in", self.folder / "honest", "-token_out", "-out", self.folder / "token"]
        subprocess.run(command, check=True, capture_output=True)
        command = ["openssl", "cms", "-verify", "-inform", "DER", "-in", self.folder / "token", "-noverify", "-binary"]
        subprocess.run([*command, "-out", self.folder / "info"], check=True, capture_output=True)
        info = (self.folder / "info").read_bytes()
        if at is not None:
            place = info.index(b"\x18\x0f") + 2  # the first GeneralizedTime of fifteen characters: genTime
            info = info[:place] + at.astimezone(datetime.UTC).strftime("%Y%m%d%H%M%SZ").encode() + info[place + 15 :]
            (self.folder / "info").write_bytes(info)
        command = [
            "openssl",
            "cms",
            "-sign",
            "-binary",
            "-nodetach",
            "-cades",
            "-outform",
            "DER",
            "-md",
            "sha256",
            "-nosmimecap",
        ]
        command += ["-econtent_type", "1.2.840.113549.1.9.16.1.4", "-in", self.folder / "info", "-out", self.folder / "signed"]
        command += ["-signer", self.folder / f"{signer}.pem", "-inkey", self.folder / f"{signer}.key"]
        subprocess.run(command, check=True, capture_output=True)
        return _sequence(b"\x30\x03\x02\x01\x00" + (self.folder / "signed").read_bytes())

    def _key(self, name: str) -> ec.EllipticCurvePrivateKey:
        key = serialization.load_pem_private_key((self.folder / f"{name}.key").read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return key

    def _certificate(self, name: str) -> x509.Certificate:
        return x509.load_pem_x509_certificate((self.folder / f"{name}.pem").read_bytes())


def _sequence(content: bytes) -> bytes:
    size = len(content)
    return b"\x30\x82" + size.to_bytes(2, "big") + content


def make_authority(folder: Path) -> Authority:
    """A root that is self-signed, and a signer for time stamps."""
    folder.mkdir(parents=True)
    authority = Authority(folder)
    authority.issue("root", "root", usage=None, begins=-9000 * DAY, is_authority=True)
    authority.issue("signer")
    return authority


Fault = Callable[[BaseHTTPRequestHandler, bytes], None]


@dataclass
class Server:
    """An authority that answers."""

    url: str
    authority: Authority
    fault: Fault | None = None
    """Answers instead of the authority."""
    asked: list[bytes] = field(default_factory=list)


@contextlib.contextmanager
def serving(authority: Authority, secured_by: str | None = None) -> Iterator[Server]:
    """An authority on a free port of the loopback; over TLS where a certificate of its folder is named."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            query = self.rfile.read(int(self.headers["Content-Length"]))
            server.asked.append(query)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                if server.fault is not None:
                    server.fault(self, query)
                else:
                    send(self, authority.answer(query))

        def log_message(self, *arguments: object) -> None:
            """Nothing: a test's output is its own."""

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listener.daemon_threads = True
    if secured_by is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(authority.folder / f"{secured_by}.pem", authority.folder / f"{secured_by}.key")
        listener.socket = context.wrap_socket(listener.socket, server_side=True)
    scheme = "https" if secured_by is not None else "http"
    server = Server(f"{scheme}://127.0.0.1:{listener.server_port}/tsa", authority)
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        listener.shutdown()
        listener.server_close()


def send(handler: BaseHTTPRequestHandler, data: bytes, status: int = 200, **headers: str) -> None:
    """A whole answer."""
    handler.send_response(status)
    for name, value in {"Content-Type": "application/timestamp-reply", "Content-Length": str(len(data)), **headers}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(data)


def dribble(handler: BaseHTTPRequestHandler, _query: bytes) -> None:
    """A byte now and then, in the middle of the headers, for ever."""
    handler.wfile.write(b"HTTP/1.0 200 OK\r\nX: ")
    for _ in range(300):
        handler.wfile.write(b"x")
        time.sleep(0.1)
