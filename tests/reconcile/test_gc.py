"""Deleting: only what nothing reaches, only after it was shown, and never what was just made."""

import os
import time
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from tests.admission.test_attacks import bodies_of, rewrite
from tests.conftest import MODEL, SETTINGS, commit_all, git, run_forge
from tests.reconcile.test_apply import snapshot_of

from forge.cli.main import app
from forge.contract.record import Release
from forge.store.store import Store

AT_ONCE = "[retention]\ndays = 0.0\nreleases = 1\ngrace_hours = 0.0\n"


def retrained(folder: Path, config_home: Path, settings: str = AT_ONCE) -> str:
    """Another model is released; returns the digest of the weights that were released before."""
    before = snapshot_of(folder).latest("train/small")
    assert before is not None
    (folder / "forge.toml").write_text(SETTINGS + settings)
    (folder / "models" / "model.yaml").write_text(MODEL.replace("seed: 5", "seed: 6"))
    commit_all(folder)
    run_forge(folder, config_home, "apply")
    return before.products["weights"]


def test_it_shows_first_deletes_when_told_and_leaves_a_chain_that_holds(copy_of_applied: Path, config_home: Path) -> None:
    replaced = retrained(copy_of_applied, config_home)
    store = Store(".forge/store", copy_of_applied)
    shown = run_forge(copy_of_applied, config_home, "gc")
    assert replaced in shown.stdout.splitlines()
    assert "nothing is deleted: say --yes" in shown.stderr
    assert store.has(replaced)
    done = run_forge(copy_of_applied, config_home, "gc", "--yes")
    assert done.stdout == shown.stdout
    assert not store.has(replaced)
    assert "7 in sync" in run_forge(copy_of_applied, config_home, "plan").stdout
    assert "the chain holds" in run_forge(copy_of_applied, config_home, "verify", "release/local").stdout
    assert run_forge(copy_of_applied, config_home, "gc").stdout == ""
    blobs = [path.name for path in (copy_of_applied / ".forge" / "store" / "blobs").rglob("*") if path.is_file()]
    named = {file.sha256 for digest in store.index() for file in store.manifest(digest).files}
    assert {f"sha256:{name}" for name in blobs} == named


def test_what_went_back_to_is_made_again_when_it_was_deleted(copy_of_applied: Path, config_home: Path) -> None:
    retrained(copy_of_applied, config_home)
    run_forge(copy_of_applied, config_home, "gc", "--yes")
    git(copy_of_applied, "revert", "--no-edit", "HEAD")
    plan = run_forge(copy_of_applied, config_home, "plan").stdout
    assert "artifact missing: weights" in plan


def test_every_release_is_kept_by_default_and_what_is_young_always(copy_of_applied: Path, config_home: Path) -> None:
    kept = retrained(copy_of_applied, config_home, "[retention]\ndays = 0.0\ngrace_hours = 0.0\n")
    assert kept not in run_forge(copy_of_applied, config_home, "gc").stdout
    (copy_of_applied / "forge.toml").write_text(SETTINGS + AT_ONCE.replace("grace_hours = 0.0", "grace_hours = 1.0"))
    commit_all(copy_of_applied)
    said = run_forge(copy_of_applied, config_home, "gc")
    assert said.stdout == ""
    assert "only because they are young" in said.stderr
    name = kept.removeprefix("sha256:")
    hours_ago = time.time() - 7200
    os.utime(copy_of_applied / ".forge" / "store" / "manifests" / name[:2] / f"{name}.json", (hours_ago, hours_ago))
    assert run_forge(copy_of_applied, config_home, "gc").stdout.split() == [kept]


def test_a_release_that_nobody_signed_pushes_none_out(copy_of_applied: Path, config_home: Path) -> None:
    """Whoever can write the ledger's ref appends moves; the two newest that count are kept all the same."""
    kept = retrained(copy_of_applied, config_home, AT_ONCE.replace("releases = 1", "releases = 2"))
    assert kept not in run_forge(copy_of_applied, config_home, "gc").stdout
    bodies = bodies_of(copy_of_applied)
    last = next(body for body in reversed(bodies) if isinstance(body, Release))
    bogus = last.model_copy(update={"moved": "2098-01-01T00:00:00.000+00:00", "attestations": {}})
    rewrite(copy_of_applied, [*bodies, bogus])
    assert kept not in run_forge(copy_of_applied, config_home, "gc").stdout


def test_a_damaged_artifact_is_found_by_a_scrub_and_made_again(copy_of_applied: Path, config_home: Path) -> None:
    record = snapshot_of(copy_of_applied).latest("tokenize/small")
    assert record is not None
    digest = record.products["tokens"]
    store = Store(".forge/store", copy_of_applied)
    file = max(store.manifest(digest).files, key=lambda file: file.size)
    name = file.sha256.removeprefix("sha256:")
    blob = copy_of_applied / ".forge" / "store" / "blobs" / name[:2] / name
    blob.chmod(0o644)
    data = blob.read_bytes()
    blob.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert "7 in sync" in run_forge(copy_of_applied, config_home, "plan").stdout  # nothing has looked at the bytes yet
    said = run_forge(copy_of_applied, config_home, "scrub", code=1)
    assert digest in said.stderr
    assert "artifact corrupt: tokens" in run_forge(copy_of_applied, config_home, "plan").stdout
    run_forge(copy_of_applied, config_home, "apply")
    assert store.damaged() == frozenset()
    assert "0 are damaged" in run_forge(copy_of_applied, config_home, "scrub").stdout


class Undated(LocalFileSystem):  # type: ignore[misc]  # fsspec has no types
    """A file system that does not tell when a file was written, as some object stores' do not."""

    protocol = "undated"

    def modified(self, path: str) -> object:
        raise NotImplementedError


@pytest.mark.parametrize("grace_hours", [24.0, 0.0])
def test_a_store_that_tells_no_times_keeps_all_says_why_and_what_to_do(
    copy_of_applied: Path,
    config_home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    grace_hours: float,
) -> None:
    fsspec.register_implementation("undated", Undated, clobber=True)
    root = copy_of_applied / ".forge" / "store"
    settings = f'[store]\nurl = "undated://{root}"\n[retention]\ndays = 0.0\nreleases = 1\ngrace_hours = {grace_hours}\n'
    (copy_of_applied / "forge.toml").write_text(SETTINGS + settings)
    commit_all(copy_of_applied)
    store = Store(f"undated://{root}", copy_of_applied)
    unreached = store.put_bytes({"a": b"nobody names this"}).digest
    blobs = set(root.glob("blobs/*/*"))
    monkeypatch.setenv("FORGE_CONFIG_HOME", str(config_home))
    with pytest.raises(SystemExit) as ended:
        app(["--repo", str(copy_of_applied), "gc", "--yes"])
    said = capsys.readouterr()
    assert ended.value.code == 0
    if grace_hours:
        assert said.out == ""
        assert f"1 artifacts more are reached by nothing and stay: the store undated://{root} does not tell when" in said.err
        assert "set that to 0 in forge.toml" in said.err
        assert store.has(unreached)
        assert set(root.glob("blobs/*/*")) == blobs
    else:
        assert said.out.split() == [unreached]
        assert "does not tell when" not in said.err
        assert not store.has(unreached)
        assert len(blobs - set(root.glob("blobs/*/*"))) == 1
