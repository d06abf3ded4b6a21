"""Publishing: said anew in time, once about a fault, and never in the way of serving."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import agent_signers, commit_all, git, new_repository

from forge.admission.status import read_status
from forge.canonical import digest_of_bytes
from forge.contract.status import AgentState, AgentStatus
from forge.ledger.ledger import Ledger
from forge.ledger.refs import LocalRefs
from forge.ledger.status import publish
from forge.repo.repository import Repository
from forge.serve.publish import Publisher
from forge.serve.watch import Source

REF = "refs/forge/ledger"
STATUS = AgentStatus(
    environment="prod", deployment="docs", model="docs", release=digest_of_bytes(b"r"), weights=digest_of_bytes(b"w"),
    policy=digest_of_bytes(b"p"), wanted=digest_of_bytes(b"r"), state=AgentState.READY, is_serving=True, time="then",
    since="then", engine_restarts=0, agent="a" * 32, host="rack-1", beat=1,
)  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = new_repository(tmp_path / "repository")
    commit_all(folder)
    return folder


def source_of(folder: Path, config: Path, remote: str | None = None) -> Source:
    return Source(folder, "prod", REF, remote, ".forge/store", config, folder / "weights")


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def beat_of(folder: Path, config: Path, remote: str | None = None) -> int:
    with Repository(folder) as repository:
        refs = Ledger(repository, REF, remote).refs
        refs.refresh()
        status = read_status(refs, repository, "prod", agent_signers(config)).status
        return status.beat if status is not None else 0


def test_a_status_that_does_not_change_is_said_again_in_time(folder: Path, config_home: Path) -> None:
    said: list[str] = []
    publisher = Publisher(source_of(folder, config_home), said.append, beat_seconds=0.1)
    publisher.start()
    publisher.offer(STATUS)
    eventually(lambda: beat_of(folder, config_home) >= 3)
    last = STATUS.model_copy(update={"state": AgentState.STOPPED})
    publisher.offer(last)
    publisher.close()
    with Repository(folder) as repository:
        status = read_status(LocalRefs(repository), repository, "prod", agent_signers(config_home)).status
    assert status is not None
    assert (status.state, status.time > "2026") == (AgentState.STOPPED, True)
    assert said == []


def test_a_remote_that_is_away_is_said_once_and_so_is_its_return(folder: Path, config_home: Path, tmp_path: Path) -> None:
    bare = tmp_path / "shared.git"
    git(folder, "remote", "add", "origin", str(bare))
    said: list[str] = []
    publisher = Publisher(source_of(folder, config_home, "origin"), said.append, beat_seconds=0.1)
    publisher.start()
    publisher.offer(STATUS)
    eventually(lambda: said != [])
    time.sleep(0.5)
    assert len(said) == len(set(said)), "said more than once"
    assert "remote 'origin'" in said[0]
    made = tmp_path / "made.git"
    git(tmp_path, "init", "--quiet", "--bare", str(made))
    made.rename(bare)  # whole at once: half a repository is another fault, which is said as well
    eventually(lambda: said[-1] == "the agent's status is published again")
    publisher.close()
    assert len(said) == len(set(said)), "said more than once"
    assert beat_of(folder, config_home, "origin") > 0


def test_another_publisher_for_the_environment_is_noticed_once(folder: Path, config_home: Path) -> None:
    said: list[str] = []
    publisher = Publisher(source_of(folder, config_home), said.append, beat_seconds=0.1)
    publisher.start()
    publisher.offer(STATUS)
    eventually(lambda: beat_of(folder, config_home) >= 1)
    with Repository(folder) as repository:
        publish(LocalRefs(repository), repository, "prod", b"somebody else's")
    eventually(lambda: said != [])
    publisher.close()
    assert "somebody else publishes the status of 'prod'" in said[0]
    assert len(said) == 1
