"""A recipe with sources from outside: planned without them, applied with them, and named in what is signed."""

import base64
import hashlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import commit_all, git
from tests.steps.conftest import request_of
from tests.steps.fetch.repository import repository as other_repository

from forge.executors.local import _environment

RECIPE = """\
apiVersion: forge/v1
kind: DataRecipe
metadata: {{name: small, owners: [tests]}}
spec:
  sources:
    - {{path: corpus/*.jsonl.gz, license: GPL-2.0-or-later, origin: part of the example's corpus}}
    - git: {{url: {origin}, commit: {commit}, include: ["**/*.py"]}}
      license: MIT
      origin: the other repository
    - files: [{{url: "file://{rows}", sha256: {sha256}, format: jsonl}}]
      license: MIT
      origin: elsewhere
  split: {{validation_fraction: 0.1, seed: 3}}
"""
TARGET = ("--target", "DataRecipe/small")
ROWS = b'{"id": "far", "text": "What lies far away."}\n'
Forge = Callable[..., Any]


@pytest.fixture
def fetching(repository: Path, tmp_path: Path) -> tuple[Path, str]:
    """The small example with three kinds of source, and the commit of the other repository."""
    sha = other_repository(tmp_path / "origin", {f"m{number}.py": f"x = {number}\n".encode() for number in range(5)})
    (tmp_path / "rows").write_bytes(ROWS)
    write(repository, tmp_path / "origin", sha, tmp_path / "rows")
    return repository, sha


def write(folder: Path, origin: Path, sha: str, rows: Path) -> None:
    text = RECIPE.format(origin=origin, commit=sha, rows=rows, sha256=hashlib.sha256(ROWS).hexdigest())
    (folder / "models" / "data.yaml").write_text(text)
    commit_all(folder, "sources from outside")


def provenance(folder: Path) -> list[dict[str, Any]]:
    """What the newest signed statement of the curation depended on."""
    for line in git(folder, "cat-file", "--batch-all-objects", "--batch-check").splitlines():
        name, kind, _ = line.split()
        command = ["git", "-C", str(folder), "cat-file", kind, name]
        data = subprocess.run(command, check=True, capture_output=True).stdout if kind == "blob" else b""
        if data.startswith(b"{") and b'"payloadType"' in data:
            payload = json.loads(base64.b64decode(json.loads(data)["payload"]))
            if payload.get("predicateType", "").startswith("https://slsa.dev/provenance"):
                found: list[dict[str, Any]] = payload["predicate"]["buildDefinition"]["resolvedDependencies"]
                return found
    raise AssertionError("nothing was signed")


def test_a_missing_remote_stops_the_step_and_not_the_plan(fetching: tuple[Path, str], tmp_path: Path, forge: Forge) -> None:
    folder, _ = fetching
    (tmp_path / "origin").rename(tmp_path / "away")
    forge(folder, "validate")
    assert "curate/small" in forge(folder, "plan", *TARGET).stdout
    failed = forge(folder, "apply", "--yes", *TARGET, code=1)
    assert "sources[1]" in failed.stdout + failed.stderr
    assert "apply again" in failed.stdout + failed.stderr
    (tmp_path / "away").rename(tmp_path / "origin")
    forge(folder, "apply", "--yes", *TARGET)


def test_what_was_fetched_is_signed_with_its_digests_and_verifies(
    fetching: tuple[Path, str], tmp_path: Path, forge: Forge
) -> None:
    folder, sha = fetching
    forge(folder, "apply", "--yes", *TARGET)
    named = {item["name"]: item for item in provenance(folder)}
    assert named["source-1"] == {
        "name": "source-1",
        "uri": f"git+file://{tmp_path}/origin",
        "digest": {"gitCommit": sha},
    }
    assert named["source-2/0"] == {
        "name": "source-2/0",
        "uri": f"file://{tmp_path}/rows",
        "digest": {"sha256": hashlib.sha256(ROWS).hexdigest()},
    }
    status = json.loads(forge(folder, "plan", "--format", "json", *TARGET).stdout)
    (action,) = [item for item in status["actions"] if item["id"] == "curate/small"]
    digest = action["products"]["documents"]
    assert "holds" in forge(folder, "verify", digest).stdout
    for data in (b"x = 3\n", ROWS):  # a file of the other repository, and one behind a URL
        told = forge(folder, "impact", f"sha256:{hashlib.sha256(data).hexdigest()}").stdout
        assert "curate/small" in told
    kept = {path.name for path in (folder / ".forge" / "downloads").iterdir()}
    assert kept == {f"git-{sha}.pack", f"sha256-{hashlib.sha256(ROWS).hexdigest()}"}
    # another address: nothing to do, and what was signed at the old one still holds
    (tmp_path / "origin").rename(tmp_path / "moved")
    write(folder, tmp_path / "moved", sha, tmp_path / "rows")
    assert forge(folder, "plan", "--exit-code", *TARGET).returncode == 0
    assert "holds" in forge(folder, "verify", digest).stdout


def test_only_a_step_that_fetches_gets_credentials_and_no_step_gets_an_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "NETRC", "https_proxy", "SSH_AUTH_SOCK", "FORGE_CONFIG_HOME", "GIT_SSH_COMMAND"):
        monkeypatch.setenv(name, "x")
    plain = request_of(tmp_path, "curate", {}, {})
    fetching = plain.model_copy(update={"downloads": str(tmp_path)})
    added = set(_environment(fetching, tmp_path)) - set(_environment(plain, tmp_path))
    assert added >= {"AWS_SECRET_ACCESS_KEY", "NETRC", "https_proxy"}
    assert not added & {"SSH_AUTH_SOCK", "FORGE_CONFIG_HOME", "GIT_SSH_COMMAND"}
