"""Logs to test with: a folder, a key, what was signed last, and a writer that is opened anew for each append."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from forge.tlog.checkpoint import Checkpoint
from forge.tlog.log import View, open_writer, read_log
from forge.tlog.note import VerifierKey, verifier_key
from forge.tlog.seals import Seals

ORIGIN = "example.org/forge/ledger"


@dataclass(frozen=True)
class Log:
    """One log of a test."""

    folder: Path
    seals: Seals
    private: Ed25519PrivateKey

    @property
    def key(self) -> VerifierKey:
        return verifier_key(ORIGIN, self.private)

    def append(self, *entries: bytes) -> Checkpoint:
        with open_writer(self.folder, ORIGIN, self.private, self.seals, wait_seconds=0) as writer:
            return writer.append(entries)

    def grow(self, size: int) -> Checkpoint:
        """Append numbered entries up to a size, in one append."""
        have = self.view().size if (self.folder / "checkpoint").exists() else 0
        return self.append(*(entry(number) for number in range(have, size)))

    def view(self) -> View:
        return read_log(self.folder, self.key)

    def files(self) -> dict[str, bytes]:
        """What others can fetch."""
        found = (path for path in self.folder.rglob("*") if path.is_file() and not path.name.startswith("."))
        return {path.relative_to(self.folder).as_posix(): path.read_bytes() for path in found}


def entry(number: int) -> bytes:
    return b'{"number":%d}' % number


def private_key(number: int) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(number.to_bytes(32, "big"))


@pytest.fixture
def make_log(tmp_path: Path) -> Callable[..., Log]:
    """``make_log("a")``: a log of that name; the same key unless another number is given."""
    return lambda name="log", key=1: Log(tmp_path / name, Seals(tmp_path / f"{name}-seals.json"), private_key(key))


@pytest.fixture
def log(make_log: Callable[..., Log]) -> Log:
    return make_log()


@pytest.fixture
def without_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits for the disk: what survives a power cut is not this test's question."""
    monkeypatch.setattr("os.fsync", lambda _descriptor: None)


def put(path: Path, lines: Iterable[bytes]) -> None:
    """Append lines as the gateway's audit log does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(b"".join(line + b"\n" for line in lines))
