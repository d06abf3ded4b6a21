"""Pinning what is at an address: printed as a recipe takes it, and refused where a recipe would refuse it."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.steps.fetch.repository import git, repository

Forge = Callable[..., Any]


def test_a_file_is_pinned_by_its_bytes(tmp_path: Path, forge: Forge) -> None:
    (tmp_path / "rows.jsonl").write_bytes(b"{}\n")
    printed = forge(tmp_path, "data", "pin", f"file://{tmp_path}/rows.jsonl").stdout
    digest = hashlib.sha256(b"{}\n").hexdigest()
    assert printed == f'files:\n  - {{url: "file://{tmp_path}/rows.jsonl", sha256: "{digest}"}}\n'


def test_a_branch_and_an_annotated_tag_are_pinned_by_their_commit(tmp_path: Path, forge: Forge) -> None:
    sha = repository(tmp_path / "origin", {"a.py": b"1\n"})
    git(tmp_path / "origin", "tag", "-a", "v1", "-m", "one")
    git(tmp_path / "origin", "branch", "stable")
    for name in ("v1", "stable", "refs/heads/stable"):
        assert f'commit: "{sha}"' in forge(tmp_path, "data", "pin", str(tmp_path / "origin"), name).stdout
    git(tmp_path / "origin", "branch", "v1", "HEAD")
    git(tmp_path / "origin", "commit", "--quiet", "--allow-empty", "-m", "more")
    git(tmp_path / "origin", "tag", "-f", "stable")
    assert "write the whole name of one" in forge(tmp_path, "data", "pin", str(tmp_path / "origin"), "stable", code=1).stderr


def test_what_is_not_there_or_holds_a_secret_is_refused(tmp_path: Path, forge: Forge) -> None:
    assert "no such file" in forge(tmp_path, "data", "pin", f"file://{tmp_path}/none.txt", code=1).stderr
    refused = forge(tmp_path, "data", "pin", "https://me:hunter2@example.org/x.txt", code=2)
    assert "a name or a password in a URL" in refused.stderr
    assert "hunter2" not in refused.stderr + refused.stdout
    assert "is no name of a branch" in forge(tmp_path, "data", "pin", str(tmp_path), "--", "--upload-pack=x", code=1).stderr
