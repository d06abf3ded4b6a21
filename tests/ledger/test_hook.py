"""The server's update hook, in a real bare repository against real pushes."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import git
from tests.ledger.conftest import REF, make_record

from forge.ledger.hook import server_hook
from forge.ledger.lease import TOKEN_REF
from forge.ledger.leases import Leases
from forge.ledger.ledger import Draft, Ledger

Clone = Callable[[str], Ledger]
KEY = make_record("a").key


@pytest.fixture
def guarded(bare: Path) -> Path:
    hook = bare / "hooks" / "update"
    hook.write_text(server_hook())
    hook.chmod(0o755)
    return bare


def refused(ledger: Ledger, *arguments: str) -> str:
    """What the server says to a push; fails where it accepts it."""
    done = subprocess.run(
        ["git", "push", "origin", *arguments], cwd=ledger.repository.root, capture_output=True, text=True, check=False
    )
    assert done.returncode, "accepted"
    return done.stderr


def on_top(ledger: Ledger, *rows: str) -> str:
    """A commit on top of the ledger, under a branch."""
    stream = f"commit refs/heads/new\ncommitter A <a@b> 1 +0000\ndata 0\nfrom {REF}^0\n" + "\n".join([*rows, "", ""])
    subprocess.run(["git", "fast-import", "--quiet", "--force"], cwd=ledger.repository.root, input=stream.encode(), check=True)
    return git(ledger.repository.root, "rev-parse", "refs/heads/new")


def blob(ledger: Ledger, text: bytes) -> str:
    done = subprocess.run(
        ["git", "hash-object", "-w", "--stdin"], cwd=ledger.repository.root, input=text, capture_output=True, check=True
    )
    return done.stdout.decode().strip()


def test_the_hook_is_plain_sh(tmp_path: Path) -> None:
    path = tmp_path / "update"
    path.write_text(server_hook())
    subprocess.run(["sh", "-n", str(path)], check=True)


def test_everything_that_forge_does_passes(guarded: Path, clone: Clone) -> None:
    a, b = clone("a"), clone("b")
    a.connect()
    a.append([Draft(make_record("a")), Draft(make_record("b"))])
    leases, others = Leases(a), Leases(b)
    lease = leases.beat(leases.take(make_record("c").key, "tokenize/c", "c" * 40, {"token": '"token":9}'}))
    other = others.take(make_record("d").key, "tokenize/d", "c" * 40)
    taken = others.take_over(lease)
    assert lease.token < other.token < taken.token
    b.append([Draft(make_record("c"))], ended=[taken])
    others.end(other)
    others.take(make_record("d").key, "tokenize/d", "c" * 40)
    assert b.fetch().head[0] == 3


def test_deleting_or_rewriting_the_ledger_is_refused(guarded: Path, clone: Clone) -> None:
    ledger = clone("a")
    ledger.append([Draft(make_record("a"))])
    older = ledger.snapshot().commit
    ledger.append([Draft(make_record("b"))])
    head = ledger.snapshot().commit
    assert "the ledger is never deleted" in refused(ledger, f":{REF}")
    assert "only goes forward" in refused(ledger, "--force", f"{older}:{REF}")
    assert "nothing may lie below" in refused(ledger, f"{older}:{REF}/x")
    assert "must point to a commit" in refused(ledger, f"{blob(ledger, b'x')}:{REF}-other")
    assert git(guarded, "rev-parse", REF) == head


@pytest.mark.parametrize("rows", [("deleteall",), ("D keys",), ("M 100644 inline entries/000/000/001.json", "data 1", "x")])
def test_a_commit_that_removes_or_changes_a_path_is_refused_even_between_others(
    guarded: Path, clone: Clone, rows: tuple[str, ...]
) -> None:
    ledger = clone("a")
    ledger.append([Draft(make_record("a"))])
    head = ledger.snapshot().commit
    assert "removes or changes paths" in refused(ledger, f"{on_top(ledger, *rows)}:{REF}")
    first = git(ledger.repository.root, "rev-parse", "refs/heads/new")
    tree = git(ledger.repository.root, "rev-parse", f"{head}^{{tree}}")
    undone = git(ledger.repository.root, "commit-tree", tree, "-p", first, "-m", "as if nothing had been")
    assert "removes or changes paths" in refused(ledger, f"{undone}:{REF}")
    assert git(guarded, "rev-parse", REF) == head


def test_a_merge_is_refused(guarded: Path, clone: Clone) -> None:
    ledger = clone("a")
    ledger.append([Draft(make_record("a"))])
    head = ledger.snapshot().commit or ""
    side = on_top(ledger, "M 100644 inline note", "data 1", "x")
    merge = git(ledger.repository.root, "commit-tree", f"{side}^{{tree}}", "-p", head, "-p", side, "-m", "merge")
    assert "no merges" in refused(ledger, f"{merge}:{REF}")


def test_a_token_that_is_lowered_is_refused(guarded: Path, clone: Clone) -> None:
    ledger = clone("a")
    leases = Leases(ledger)
    first = leases.take(KEY, "tokenize/a", "c" * 40)
    leases.end(first)
    second = leases.take(KEY, "tokenize/a", "c" * 40)
    assert second.token == first.token + 1
    stale = blob(ledger, first.to_bytes())
    assert "token 1 is stale" in refused(ledger, "--force", f"{stale}:{first.ref}")
    forged = blob(ledger, first.model_copy(update={"handle": {"a": '"token":99}'}}).to_bytes())
    assert "token 1 is stale" in refused(ledger, "--force", f"{forged}:{first.ref}")
    leases.end(second)
    assert "token 1 is stale" in refused(ledger, f"{stale}:{first.ref}")  # an ended lease does not come back
    for text in (b'{"draw":"x","schema_version":1,"token":1}', b'{"draw":"x","schema_version":1,"token":2}'):
        assert "the counter only grows" in refused(ledger, "--force", f"{blob(ledger, text)}:{TOKEN_REF}")
    assert "never deleted" in refused(ledger, f":{TOKEN_REF}")
    assert "holds no token" in refused(ledger, "--force", f"{blob(ledger, b'nonsense')}:{TOKEN_REF}")
    assert git(guarded, "cat-file", "blob", TOKEN_REF).endswith('"token":2}')


def test_other_refs_are_no_concern_of_the_hook(guarded: Path, clone: Clone) -> None:
    ledger = clone("a")
    ledger.append([Draft(make_record("a"))])
    git(ledger.repository.root, "push", "origin", f"{ledger.snapshot().commit}:refs/heads/main")
    git(ledger.repository.root, "push", "origin", ":refs/heads/main")
