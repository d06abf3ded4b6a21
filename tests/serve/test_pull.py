"""The agent's first act: what does not hold is refused before any engine is started."""

from pathlib import Path

import pytest
from tests.conftest import commit_all, new_repository, run_forge, write_small

from forge.attest.keys import make_development_keys
from forge.attest.trust import read_trust_root
from forge.canonical import digest_of_bytes
from forge.errors import RefusedError, TrustError
from forge.ledger.ledger import Ledger
from forge.repo.repository import Repository
from forge.serve.pull import pull
from forge.serve.release import ServableRelease
from forge.store.store import Store


def pulled(folder: Path, config_home: Path, environment: str = "local") -> ServableRelease:
    with Repository(folder) as repository:
        snapshot = Ledger(repository, "refs/forge/ledger").snapshot()
        store = Store(".forge/store", folder)
        return pull(environment, repository, snapshot, store, read_trust_root(config_home), folder / ".forge" / "serve")


def test_a_release_that_holds_is_laid_out(copy_of_applied: Path, config_home: Path) -> None:
    release = pulled(copy_of_applied, config_home)
    assert (release.environment, release.deployment, release.model, release.policy_name) == (
        "local",
        "small-local",
        "small",
        "small",
    )
    assert (release.model_path / "model.safetensors").is_file()
    assert "DEVELOPMENT" in release.trust


def test_a_changed_byte_of_the_weights_is_refused(copy_of_applied: Path, config_home: Path) -> None:
    laid_out = pulled(copy_of_applied, config_home).model_path / "model.safetensors"
    name = digest_of_bytes(laid_out.read_bytes()).removeprefix("sha256:")
    blob = copy_of_applied / ".forge" / "store" / "blobs" / name[:2] / name
    blob.chmod(0o644)
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)
    with pytest.raises(
        TrustError, match=r"release/local may not serve(.|\n)*model\.safetensors should be sha256:(.|\n)*remedy \[bytes\]: "
    ):
        pulled(copy_of_applied, config_home)


def test_another_trust_root_is_refused(applied: Path, tmp_path: Path) -> None:
    make_development_keys(tmp_path / "other")
    with pytest.raises(TrustError, match="no valid signature of the role releaser"):
        pulled(applied, tmp_path / "other")


def test_an_environment_without_a_release_is_refused(tmp_path: Path, config_home: Path) -> None:
    folder = new_repository(tmp_path / "repository")
    write_small(folder)
    commit_all(folder)
    with pytest.raises(RefusedError, match="nothing is released to 'local'"):
        pulled(folder, config_home)


def test_the_command_starts_no_engine_without_its_keys(copy_of_applied: Path, config_home: Path) -> None:
    done = run_forge(copy_of_applied, config_home, "serve", "--env", "local", "--port", "0", code=1)
    assert "FORGE_TEST_KEY" in done.stderr
    assert "Traceback" not in done.stderr
