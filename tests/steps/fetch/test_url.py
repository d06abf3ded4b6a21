"""Files behind URLs: the pinned bytes or nothing, and no secret in what is said about it."""

import gzip
import hashlib
import http.server
import importlib.util
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import fsspec
import pytest

from forge.contract.messages import FailureCause
from forge.errors import StepError
from forge.spec.remote import RemoteFile
from forge.steps.fetch import url as fetching
from forge.steps.fetch.address import forget_credentials, without_addresses
from forge.steps.fetch.downloads import Downloads
from forge.steps.fetch.url import fetch_file
from forge.steps.process import _cause_of

DATA = b'{"id": "a", "text": "words"}\n' * 100
NOTHING = Downloads(None)


class _Host(http.server.BaseHTTPRequestHandler):
    """Some bytes, and some ways in which a host misbehaves."""

    asked: list[str] = []

    def do_GET(self) -> None:
        self.asked.append(f"{self.path} {self.headers.get('Accept-Encoding')}")
        match self.path:
            case "/data.jsonl":
                self._answer(DATA)
            case "/private.jsonl" if self.headers.get("Authorization", "").startswith("Basic "):
                self._answer(DATA)
            case "/endless.jsonl":
                self.send_response(200)
                self.end_headers()
                try:
                    while True:
                        self.wfile.write(b"x" * 65536)
                except (BrokenPipeError, ConnectionResetError):
                    pass
            case "/folded.jsonl":
                self._answer(gzip.compress(DATA), {"Content-Encoding": "gzip"})
            case "/short.jsonl":
                self._answer(DATA[:50], {"Content-Length": str(len(DATA))})
            case "/moved.jsonl":
                self.send_response(302)
                self.send_header("Location", "/gone.jsonl?X-Amz-Signature=verysecret&token=hidden")
                self.end_headers()
            case _:
                self.send_error(403, "no verysecret for you")

    def _answer(self, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(200)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_args: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def host() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Host)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def file(url: str, data: bytes = DATA, **more: object) -> RemoteFile:
    return RemoteFile.model_validate({"url": url, "sha256": hashlib.sha256(data).hexdigest(), **more})


def fetch(source: RemoteFile, target: Path, downloads: Downloads = NOTHING) -> int:
    return fetch_file(source, target, "sources[0].files[0]", downloads, lambda size: None)


def test_the_pinned_bytes_arrive_whole(host: str, tmp_path: Path) -> None:
    assert fetch(file(f"{host}/data.jsonl"), tmp_path / "f") == len(DATA)
    assert (tmp_path / "f").read_bytes() == DATA
    assert "/data.jsonl identity" in _Host.asked


def test_other_bytes_are_refused_and_both_digests_named(host: str, tmp_path: Path) -> None:
    other, found = hashlib.sha256(b"other").hexdigest(), hashlib.sha256(DATA).hexdigest()
    with pytest.raises(StepError, match=f"expected sha256 {other}, found {found}"):
        fetch(file(f"{host}/data.jsonl", b"other"), tmp_path / "f", Downloads(tmp_path / "kept"))
    assert not (tmp_path / "f").exists()
    assert not (tmp_path / "kept").exists()


def test_a_file_that_does_not_end_is_cut_off(host: str, tmp_path: Path) -> None:
    with pytest.raises(StepError, match="more than 1,000,000 bytes: raise its `max_bytes`"):
        fetch(file(f"{host}/endless.jsonl", max_bytes=1_000_000), tmp_path / "f")


def test_an_answer_that_is_cut_or_folded_is_no_success(host: str, tmp_path: Path) -> None:
    with pytest.raises(StepError, match=r"cannot be read|expected sha256"):
        fetch(file(f"{host}/short.jsonl"), tmp_path / "f")
    with pytest.raises(StepError, match="expected sha256"):
        fetch(file(f"{host}/folded.jsonl"), tmp_path / "f")


def test_a_refusal_is_told_without_what_a_redirect_carried(host: str, tmp_path: Path) -> None:
    with pytest.raises(StepError, match=r"HTTP status 403.*apply again") as caught:
        fetch(file(f"{host}/moved.jsonl"), tmp_path / "f")
    assert "secret" not in str(caught.value)
    assert "hidden" not in str(caught.value)


def test_a_password_comes_from_the_file_that_netrc_names(host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StepError, match="HTTP status 403"):
        fetch(file(f"{host}/private.jsonl"), tmp_path / "f")
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password hunter2\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert fetch(file(f"{host}/private.jsonl"), tmp_path / "f") == len(DATA)


def test_a_host_that_is_not_there_is_one_message_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(StepError, match=r"sources\[0\].files\[0\] .*cannot be read: .*then apply again"):
        fetch(file("http://127.0.0.1:1/data.jsonl"), tmp_path / "f")


def test_what_was_downloaded_is_not_asked_for_again_and_not_believed(host: str, tmp_path: Path) -> None:
    downloads = Downloads(tmp_path / "kept")
    fetch(file(f"{host}/data.jsonl"), tmp_path / "f", downloads)
    assert fetch(file("https://host.invalid/moved.jsonl"), tmp_path / "g", downloads) == len(DATA)
    (kept,) = (tmp_path / "kept").iterdir()
    kept.write_bytes(b"evil")
    fetch(file(f"{host}/data.jsonl"), tmp_path / "h", downloads)
    assert (tmp_path / "h").read_bytes() == DATA == kept.read_bytes()


def test_a_link_in_the_folder_of_downloads_is_not_followed(host: str, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    name = f"sha256-{hashlib.sha256(DATA).hexdigest()}"
    (tmp_path / "elsewhere").write_bytes(DATA)
    (tmp_path / "kept" / name).symlink_to(tmp_path / "elsewhere")
    fetch(file(f"{host}/data.jsonl"), tmp_path / "f", Downloads(tmp_path / "kept"))
    assert not (tmp_path / "kept" / name).is_symlink()


def test_a_host_that_sends_a_byte_a_minute_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter(range(0, 10**6, 60))
    monkeypatch.setattr(fetching.time, "monotonic", lambda: float(next(times)))
    slow = iter([b"x"] * 100)
    with pytest.raises(StepError, match=r"6 bytes in 360 seconds: the host is too slow"):
        fetching._copy(SimpleNamespace(read=lambda size: next(slow, b"")), tmp_path / "f", 100, "it", lambda size: None)


def test_a_folder_of_downloads_that_is_emptied_meanwhile_is_no_fault(
    host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    downloads = Downloads(tmp_path / "kept")
    monkeypatch.setattr(Downloads, "find", lambda self, name: tmp_path / "kept" / "gone")
    assert fetch(file(f"{host}/data.jsonl"), tmp_path / "f", downloads) == len(DATA)


def test_what_a_killed_step_left_half_written_is_swept(host: str, tmp_path: Path) -> None:
    for name, age in (("partial-old", 10**6), ("partial-new", 0)):
        path = tmp_path / "kept" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"half")
        os.utime(path, (path.stat().st_mtime - age,) * 2)
    fetch(file(f"{host}/data.jsonl"), tmp_path / "f", Downloads(tmp_path / "kept"))
    assert not (tmp_path / "kept" / "partial-old").exists()
    assert (tmp_path / "kept" / "partial-new").exists()


def test_other_backends_of_fsspec_are_read_too(tmp_path: Path) -> None:
    with fsspec.open("memory://bucket/data.jsonl", "wb") as written:
        written.write(DATA)
    (tmp_path / "data.jsonl").write_bytes(DATA)
    for url in ("memory://bucket/data.jsonl", f"file://{tmp_path}/data.jsonl"):
        assert fetch(file(url), tmp_path / "f") == len(DATA)


def test_a_backend_that_is_not_installed_is_named(tmp_path: Path) -> None:
    if importlib.util.find_spec("s3fs"):
        pytest.skip("s3fs is installed here")
    with pytest.raises(StepError, match=r"s3:// cannot be read with what is installed .*s3fs"):
        fetch(file("s3://bucket/data.jsonl"), tmp_path / "f")


@pytest.mark.parametrize("name", ["nothing.jsonl", "pipe.jsonl", "folder.jsonl"])
def test_a_local_file_that_is_none_is_refused(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(StepError, match="there is no such file"):
        fetch(file(f"file://{tmp_path}/{name}"), tmp_path / "f")


@pytest.mark.parametrize(
    "said",
    [
        "403, url='https://h/x?X-Amz-Signature=abc'",
        "fatal: Authentication failed for 'https://user:abc@h/'",
        "connect user:abc@host failed",
        "bad request ?token=abc&x=1",
    ],
)
def test_addresses_are_taken_out_of_what_others_say(said: str) -> None:
    assert "abc" not in without_addresses(said)
    assert without_addresses("a\x1b[31m\nb\x07") == "a?[31m b?"


@pytest.mark.usefixtures("own_environment")
def test_credentials_leave_the_environment_before_documents_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = (
        "AWS_SECRET_ACCESS_KEY",
        "AZURE_STORAGE_KEY",
        "GOOGLE_APPLICATION_CREDENTIALS",
        "https_proxy",
        "NETRC",
    )
    for name in secrets:
        monkeypatch.setenv(name, "x")
    forget_credentials()
    assert not set(secrets) & set(os.environ)
    assert "PATH" in os.environ


def test_a_disk_that_is_full_is_the_machines_fault(host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fetching, "_copy", full)
    with pytest.raises(StepError) as caught:
        fetch(file(f"{host}/data.jsonl"), tmp_path / "f")
    assert _cause_of(caught.value) is FailureCause.RESOURCE
