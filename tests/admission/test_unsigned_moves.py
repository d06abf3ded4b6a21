"""A release that nobody signed is no release: it says neither which commits are old nor where the pointer was.

Attacker: writes the ledger's ref, and has the SSH key of an author who is an approver too; no role's key.
"""

import shutil
from pathlib import Path

import pytest
from tests.admission.test_attacks import bodies_of, rewrite
from tests.admission.test_supply_chain import change_policy, verdict_of
from tests.conftest import git, new_repository, run_forge, write_small
from tests.governed import Governed, commit_as, govern, make_governed
from tests.made import lay_made

from forge.contract.record import Record, Release


@pytest.fixture(scope="module")
def governed(tmp_path_factory: pytest.TempPathFactory) -> Governed:
    return make_governed(tmp_path_factory.mktemp("governed"))


@pytest.fixture(scope="module")
def waiting_once(tmp_path_factory: pytest.TempPathFactory, governed: Governed, applied: Path) -> Path:
    """Delegated; ana's change, and cleo's empty commit on top; built, and waiting for an approval. Ana gave hers."""
    folder = new_repository(tmp_path_factory.mktemp("waiting") / "repository")
    write_small(folder)
    lay_made(applied, folder)
    govern(folder, governed.supply_chain(), governed.people())
    commit_as(folder, governed, "cleo", "the small example, governed")
    run_forge(folder, governed.config, "keys", "delegate")
    change_policy(folder)
    commit_as(folder, governed, "ana", "shorter answers")
    commit_as(folder, governed, "cleo", "on top of it")
    run_forge(folder, governed.config, "apply", code=1)
    run_forge(folder, governed.config, "approve", "release/local", "--key", str(governed.ssh / "ana"))
    return folder


@pytest.fixture
def waiting(waiting_once: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "copy"
    shutil.copytree(waiting_once, folder, symlinks=True)
    return folder


def append_unsigned(folder: Path, commit: str) -> None:
    """Say that the environment serves a commit already."""
    gate = next(body for body in reversed(bodies_of(folder)) if isinstance(body, Record))
    digest = gate.products.get("verdict", gate.key)
    bogus = Release(
        environment="local",
        deployment="small-local",
        release=digest,
        key=digest,
        commit=commit,
        moved="2027-01-01T00:00:00.000+00:00",
    )
    rewrite(folder, [*bodies_of(folder), bogus])


def test_an_author_does_not_approve_what_is_said_to_be_released(waiting: Path, governed: Governed) -> None:
    assert "who wrote a change may not approve it" in run_forge(waiting, governed.config, "apply", code=1).stderr
    append_unsigned(waiting, git(waiting, "rev-parse", "HEAD~1"))
    assert "who wrote a change may not approve it" in run_forge(waiting, governed.config, "apply", code=1).stderr


def test_the_pointer_does_not_go_back_to_what_is_said_to_be_served(waiting: Path, governed: Governed) -> None:
    run_forge(waiting, governed.config, "approve", "release/local", "--key", str(governed.ssh / "ben"))
    run_forge(waiting, governed.config, "apply")
    before = git(waiting, "rev-parse", "HEAD")
    change_policy(waiting, "max_tokens: 16", "max_tokens: 8")
    commit_as(waiting, governed, "cleo", "even shorter answers")
    run_forge(waiting, governed.config, "apply")
    assert verdict_of(waiting, governed.config).holds
    append_unsigned(waiting, before)
    refused = run_forge(waiting, governed.config, "apply", "--ref", before, code=4).stderr
    assert "[order] release of local: it moves the pointer from commit" in refused
