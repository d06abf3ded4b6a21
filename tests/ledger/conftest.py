"""Ledgers to test with: one repository, or clones that share a bare remote."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import commit_all, git, new_repository

from forge.canonical import digest_of_bytes
from forge.contract.kinds import StepKind
from forge.contract.record import Record, Release, Spent
from forge.ledger.ledger import Ledger
from forge.repo.repository import Repository

REF = "refs/forge/ledger"


def make_record(name: str, product: str = "p", supersedes: str | None = None, **changes: object) -> Record:
    fields = {
        "key": digest_of_bytes(name.encode()),
        "step": StepKind.TOKENIZE,
        "step_version": 1,
        "step_id": f"tokenize/{name}",
        "subject": f"Tokenizer/{name}",
        "parameters": {},
        "inputs": {},
        "products": {"tokens": digest_of_bytes(product.encode())},
        "commit": "c" * 40,
        "attempt": 1,
        "started": "2026-01-01T00:00:00.000+00:00",
        "finished": "2026-01-01T00:00:01.000+00:00",
        "environment": {},
        "actual": Spent(seconds=1),
        "attestations": {},
        "supersedes": supersedes,
    }
    return Record.model_validate(fields | changes)


def make_release(environment: str, product: str, moved: int = 1) -> Release:
    return Release(
        environment=environment,
        deployment=f"docs-{environment}",
        release=digest_of_bytes(product.encode()),
        key=digest_of_bytes(b"release " + product.encode()),
        commit="d" * 40,
        moved=f"2026-01-01T00:00:{moved:02d}.000+00:00",
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = new_repository(tmp_path / "repository")
    commit_all(folder)
    return folder


@pytest.fixture
def ledger(folder: Path) -> Ledger:
    return Ledger(Repository(folder), REF)


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A bare repository to share."""
    path = tmp_path / "shared.git"
    git(tmp_path, "init", "--quiet", "--bare", str(path))
    return path


@pytest.fixture
def clone(tmp_path: Path, bare: Path) -> Callable[[str], Ledger]:
    """Make a clone of the shared repository: ``clone("a")``; its ledger is the remote's."""

    def make(name: str) -> Ledger:
        folder = new_repository(tmp_path / name)
        git(folder, "remote", "add", "origin", str(bare))
        return Ledger(Repository(folder), REF, "origin")

    return make
