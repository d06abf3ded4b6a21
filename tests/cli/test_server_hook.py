"""`forge init --server-hook`: a bare repository that it was installed into keeps the ledger that was really made."""

import subprocess
from pathlib import Path

import pytest
from tests.conftest import git, run_forge

LEDGER = "refs/forge/ledger"


@pytest.fixture
def server(copy_of_applied: Path, config_home: Path, tmp_path: Path) -> Path:
    """A bare repository with the hook, to which the applied example has pushed the older half of its ledger."""
    bare = tmp_path / "server.git"
    git(tmp_path, "init", "--quiet", "--bare", str(bare))
    said = run_forge(copy_of_applied, config_home, "init", "--server-hook", str(bare)).stderr
    assert said == f"installed {bare}/hooks/update\n"
    git(copy_of_applied, "remote", "add", "server", str(bare))
    assert push(copy_of_applied, f"{LEDGER}~3:{LEDGER}") is None
    return bare


def push(folder: Path, *arguments: str) -> str | None:
    """What the server says where it refuses; None where it accepts."""
    done = subprocess.run(["git", "push", "server", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    return done.stderr if done.returncode else None


def on_top(folder: Path, *removed: str) -> str:
    """A commit on top of the ledger from which paths are gone."""
    rows = "".join(f"D {path}\n" for path in removed)
    stream = f"commit refs/heads/made\ncommitter A <a@b> 1 +0000\ndata 0\nfrom {LEDGER}^0\n{rows}\n"
    subprocess.run(["git", "fast-import", "--quiet", "--force"], cwd=folder, input=stream.encode(), check=True)
    return git(folder, "rev-parse", "refs/heads/made")


def test_what_forge_appended_passes(server: Path, copy_of_applied: Path) -> None:
    assert push(copy_of_applied, f"{LEDGER}:{LEDGER}") is None
    assert git(server, "rev-parse", LEDGER) == git(copy_of_applied, "rev-parse", LEDGER)


def test_a_forced_overwrite_is_refused_and_says_why(server: Path, copy_of_applied: Path) -> None:
    before = git(server, "rev-parse", LEDGER)
    for other in (f"{LEDGER}~4", "refs/heads/main"):
        said = push(copy_of_applied, "--force", f"{other}:{LEDGER}")
        assert f"forge: refused: {LEDGER}: the ledger only goes forward: " in (said or "accepted")
        assert f"does not descend from {before}" in (said or "")
    assert git(server, "rev-parse", LEDGER) == before


def test_a_deletion_is_refused_and_says_why(server: Path, copy_of_applied: Path) -> None:
    before = git(server, "rev-parse", LEDGER)
    plain = copy_of_applied / "plain"  # a clone brings no ledger, so mirroring it would delete that of the server
    git(copy_of_applied, "clone", "--quiet", "--no-local", ".", "plain")
    git(plain, "remote", "add", "server", str(server))
    for folder, arguments in (
        (copy_of_applied, [f":{LEDGER}"]),
        (copy_of_applied, ["--force", "--delete", LEDGER]),
        (plain, ["--mirror"]),
    ):
        said = push(folder, *arguments)
        assert f"forge: refused: {LEDGER}: the ledger is never deleted" in (said or "accepted"), arguments
    assert git(server, "rev-parse", LEDGER) == before


@pytest.mark.parametrize("removed", [("keys",), ("entries",), ("attestations",), ("entries", "keys", "steps", "attestations")])
def test_a_fast_forward_that_deletes_records_is_refused_and_says_which(
    server: Path, copy_of_applied: Path, removed: tuple[str, ...]
) -> None:
    before = git(server, "rev-parse", LEDGER)
    commit = on_top(copy_of_applied, *removed)
    assert git(copy_of_applied, "merge-base", before, commit) == before, "a fast-forward"
    said = push(copy_of_applied, f"{commit}:{LEDGER}")
    assert f"forge: refused: {LEDGER}: a commit removes or changes paths: D {min(removed)}/" in (said or "accepted")
    assert git(server, "rev-parse", LEDGER) == before


def test_it_is_installed_again_over_itself_and_never_over_another_hook_or_into_no_repository(
    server: Path, copy_of_applied: Path, config_home: Path, tmp_path: Path
) -> None:
    run_forge(copy_of_applied, config_home, "init", "--server-hook", str(server))
    hook = server / "hooks" / "update"
    assert hook.stat().st_mode & 0o111
    hook.write_text("#!/bin/sh\nexit 0\n")
    said = run_forge(copy_of_applied, config_home, "init", "--server-hook", str(server), code=4).stderr
    assert f"{hook}: another update hook is there" in said
    assert hook.read_text() == "#!/bin/sh\nexit 0\n"
    said = run_forge(copy_of_applied, config_home, "init", "--server-hook", str(tmp_path), code=4).stderr
    assert f"{tmp_path}: not a bare Git repository" in said
