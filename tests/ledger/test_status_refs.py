"""Where agents publish: one blob per environment, replaced by compare-and-swap, here or on a remote."""

import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import git

from forge.errors import LedgerError
from forge.ledger.hook import server_hook
from forge.ledger.ledger import Ledger
from forge.ledger.refs import LocalRefs
from forge.ledger.status import environments_with_status, publish, published, status_ref
from forge.repo.repository import Repository


def test_each_publication_replaces_the_one_before_and_says_which(ledger: Ledger) -> None:
    refs, repository = LocalRefs(ledger.repository), ledger.repository
    assert published(refs, repository, "prod") is None
    assert publish(refs, repository, "prod", b"one") is None
    first = published(refs, repository, "prod")
    assert first is not None
    assert publish(refs, repository, "prod", b"two") == first[0]
    assert publish(refs, repository, "staging", b"three") is None
    now = published(refs, repository, "prod")
    assert now is not None
    assert now[1] == b"two"
    assert environments_with_status(refs) == ("prod", "staging")


@pytest.mark.parametrize("name", ["", "../ledger", "a/b", "A", "-a", "a b", "a\n", "x" * 300])
def test_only_names_of_environments_have_a_ref(name: str) -> None:
    with pytest.raises(LedgerError, match="is no name of an environment"):
        status_ref(name)


def test_two_agents_at_once_both_get_their_turn(ledger: Ledger, folder: Path) -> None:
    faults: list[Exception] = []

    def agent(name: str) -> None:
        try:
            repository = Repository(folder)
            for number in range(10):
                publish(LocalRefs(repository), repository, "prod", f"{name} {number}".encode())
        except LedgerError as error:
            faults.append(error)

    threads = [threading.Thread(target=agent, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert faults == []
    found = published(LocalRefs(ledger.repository), ledger.repository, "prod")
    assert found is not None
    assert found[1] in (b"a 9", b"b 9")


def test_a_remote_that_is_away_is_a_ledger_error(clone: Callable[[str], Ledger], bare: Path) -> None:
    ledger = clone("a")
    publish(ledger.refs, ledger.repository, "prod", b"one")
    bare.rename(bare.with_name("gone"))
    with pytest.raises(LedgerError, match="remote 'origin'"):
        publish(ledger.refs, ledger.repository, "prod", b"two")


def test_the_servers_hook_takes_blobs_only(clone: Callable[[str], Ledger], bare: Path) -> None:
    hook = bare / "hooks" / "update"
    hook.write_text(server_hook())
    hook.chmod(0o755)
    ledger = clone("a")
    folder = ledger.repository.root
    publish(ledger.refs, ledger.repository, "prod", b"one")
    publish(ledger.refs, ledger.repository, "prod", b"two")
    tree = subprocess.run(["git", "mktree"], cwd=folder, input=b"", capture_output=True, check=True).stdout.decode().strip()
    commit = git(folder, "commit-tree", "-m", "no status", tree)
    done = subprocess.run(
        ["git", "push", "origin", f"{commit}:{status_ref('staging')}"], cwd=folder, capture_output=True, check=False, text=True
    )
    assert done.returncode != 0
    assert "it must point to a blob" in done.stderr
    assert git(bare, "for-each-ref", "--format=%(refname)", "refs/forge/status") == status_ref("prod")
