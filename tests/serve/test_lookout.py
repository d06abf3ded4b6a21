"""What the agent's watch lets through: releases that hold, retirements that the releaser signed, and nothing else."""

import shutil
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from tests.admission.test_attacks import signed_move
from tests.conftest import DEPLOYMENT, SETTINGS, commit_all, git, run_forge

from forge.admission.verify import RetiredError, verify
from forge.attest.envelope import seal
from forge.attest.keys import make_development_keys, signer_for
from forge.attest.statements import retirement_statement
from forge.attest.trust import read_trust_root
from forge.canonical import digest_of_bytes
from forge.contract.kinds import Role
from forge.contract.record import Release, Retirement
from forge.errors import ForgeError, LedgerError, RefusedError, ServeError, TrustError
from forge.ledger.ledger import Draft, Ledger
from forge.repo.repository import Repository
from forge.serve.release import ServableRelease
from forge.serve.watch import Fault, Lookout, Moved, Notice, Retired, Source, Watch, first_look
from forge.store.store import Store

REF = "refs/forge/ledger"
KEYS = {"FORGE_TEST_KEY": "a-key-of-the-tests-0123"}
LATER = "2999-01-01T00:00:00.000+00:00"


class Seen:
    """A lookout over a folder, and what it found running."""

    def __init__(self, folder: Path, config: Path, remote: str | None = None, keys: dict[str, str] | None = None) -> None:
        self.clock = 0.0
        self.running: ServableRelease | None = None
        self.source = Source(folder, "local", REF, remote, ".forge/store", config, folder / ".forge" / "serve" / "w")
        self.lookout = Lookout(self.source, KEYS if keys is None else keys, lambda: self.running, lambda: self.clock)

    def moved(self) -> ServableRelease:
        found = self.lookout.look()
        assert isinstance(found, Moved)
        self.running = found.binding.release
        return self.running


@pytest.fixture
def seen(copy_of_applied: Path, config_home: Path) -> Seen:
    return Seen(copy_of_applied, config_home)


def edit(folder: Path, path: str, old: str, new: str) -> None:
    text = (folder / path).read_text()
    assert old in text
    (folder / path).write_text(text.replace(old, new))
    commit_all(folder)


def stricter(folder: Path, config: Path) -> None:
    edit(folder, "policies/small.yaml", "max_tokens: 32", "max_tokens: 16")
    run_forge(folder, config, "apply")


def append(folder: Path, body: Release | Retirement, *attestations: bytes) -> None:
    with Repository(folder) as repository:
        Ledger(repository, REF).append([Draft(body, attestations)])


def pointer(folder: Path, environment: str = "local") -> Release:
    with Repository(folder) as repository:
        release = Ledger(repository, REF).snapshot().release(environment)
    assert release is not None
    return release


def release_of(folder: Path, config: Path, **change: str) -> None:
    """A later move of the pointer, signed by the releaser's own key."""
    body = pointer(folder).model_copy(update={"moved": LATER, "attestations": {}, **change})
    body, sealed = signed_move(folder, config, body)
    append(folder, body, *sealed)


def retire(folder: Path, config: Path, role: Role | None = Role.RELEASER, moved: str = LATER) -> None:
    body = Retirement(
        subject="Deployment/small-local", environment="local", commit=git(folder, "rev-parse", "HEAD"), moved=moved
    )
    if role is None:
        append(folder, body)
        return
    sealed = seal(retirement_statement(body), signer_for(role, config))
    append(folder, body.model_copy(update={"attestations": {"retirement": str(digest_of_bytes(sealed))}}), sealed)


def test_a_release_is_laid_out_once_and_another_policy_keeps_the_weights(
    seen: Seen, copy_of_applied: Path, config_home: Path
) -> None:
    first = seen.moved()
    assert (first.model_path / "model.safetensors").is_file()
    assert seen.lookout.look() is None
    stricter(copy_of_applied, config_home)
    second = seen.moved()
    assert second.model_path == first.model_path
    assert second.policy_digest != first.policy_digest
    assert second.release_digest != first.release_digest
    assert [path.name for path in seen.source.weights.iterdir()] == [first.model_path.name]
    edit(copy_of_applied, "models/deployment.yaml", DEPLOYMENT, DEPLOYMENT + "  engine: {max_num_seqs: 4}\n")
    run_forge(copy_of_applied, config_home, "apply")
    third = seen.moved()
    assert third.weights_digest == first.weights_digest
    assert third.model_path != first.model_path
    assert first.model_path.exists()  # an engine may be running from it


def test_a_commit_that_removes_the_deployment_retires_the_environment(
    seen: Seen, copy_of_applied: Path, config_home: Path
) -> None:
    seen.moved()
    (copy_of_applied / "models" / "deployment.yaml").unlink()
    commit = commit_all(copy_of_applied)
    run_forge(copy_of_applied, config_home, "apply")
    found = seen.lookout.look()
    assert isinstance(found, Retired)
    assert f"commit {commit} retired Deployment/small-local" in found.reason
    assert seen.lookout.look() is None
    refused = run_forge(copy_of_applied, config_home, "verify", "release/local", code=4)
    assert f"commit {commit} retired Deployment/small-local" in refused.stderr
    refused = run_forge(copy_of_applied, config_home, "serve", "--env", "local", "--port", "0", code=4)
    assert f"commit {commit} retired Deployment/small-local" in refused.stderr
    (copy_of_applied / "models" / "deployment.yaml").write_text(DEPLOYMENT)
    commit_all(copy_of_applied)
    run_forge(copy_of_applied, config_home, "apply")
    seen.moved()


@pytest.mark.parametrize(
    ("role", "message"),
    [
        (None, "the retirement is not signed"),
        (Role.AGENT, "no valid signature of the role releaser"),
        (Role.TRAINER, "releaser"),
    ],
)
def test_a_retirement_that_the_releaser_did_not_sign_is_refused(
    seen: Seen, copy_of_applied: Path, config_home: Path, role: Role | None, message: str
) -> None:
    seen.moved()
    retire(copy_of_applied, config_home, role)
    with pytest.raises(TrustError, match=message):
        seen.lookout.look()
    with Repository(copy_of_applied) as repository:
        store = Store(".forge/store", copy_of_applied)
        snapshot = Ledger(repository, REF).snapshot()
        assert not verify("release/local", repository, snapshot, store, read_trust_root(config_home)).holds


def test_an_old_retirement_that_is_appended_again_is_refused(seen: Seen, copy_of_applied: Path, config_home: Path) -> None:
    seen.moved()
    before = pointer(copy_of_applied)
    early, late = "2998-01-01T00:00:00.000+00:00", "2998-02-01T00:00:00.000+00:00"
    retire(copy_of_applied, config_home, moved=early)
    retire(copy_of_applied, config_home, moved=late)
    assert isinstance(seen.lookout.look(), Retired)
    body, sealed = signed_move(copy_of_applied, config_home, before.model_copy(update={"moved": LATER}))
    append(copy_of_applied, body, *sealed)
    seen.moved()
    retire(copy_of_applied, config_home, moved=early)
    with pytest.raises(TrustError, match=f"a retirement of local moved {early[:10]}.* follows one of 2999"):
        seen.lookout.look()


def test_a_release_made_for_another_environment_is_refused(seen: Seen, copy_of_applied: Path, config_home: Path) -> None:
    """Even with the releaser's key: what was gated for one environment is not served in another."""
    first = seen.moved()
    other = DEPLOYMENT.replace("small-local", "small-prod").replace("environment: local", "environment: prod")
    (copy_of_applied / "models" / "prod.yaml").write_text(other)
    commit_all(copy_of_applied)
    run_forge(copy_of_applied, config_home, "apply")
    prod = pointer(copy_of_applied, "prod")
    assert seen.lookout.look() is None
    release_of(copy_of_applied, config_home, release=prod.release, key=prod.key, commit=prod.commit)
    with pytest.raises(TrustError, match=r"the release is for prod/small-prod"):
        seen.lookout.look()
    assert seen.lookout.wanted == prod.release
    assert [path.name for path in seen.source.weights.iterdir()] == [first.model_path.name]


def test_what_was_refused_is_verified_again_after_a_while_and_not_at_every_look(
    seen: Seen, copy_of_applied: Path, config_home: Path
) -> None:
    stored = copy_of_applied / ".forge" / "store"
    shutil.move(stored, stored.with_name("away"))
    with pytest.raises(ForgeError):
        seen.lookout.look()
    shutil.move(stored.with_name("away"), stored)
    for moment in (0.0, 9.0):
        seen.clock = moment
        with pytest.raises(ForgeError):  # it is not looked at, or it would hold by now
            seen.lookout.look()
    seen.clock = 11.0
    seen.moved()


def test_a_key_that_cannot_be_resolved_refuses_the_switch(seen: Seen, copy_of_applied: Path, config_home: Path) -> None:
    first = seen.moved()
    edit(copy_of_applied, "policies/small.yaml", "env:FORGE_TEST_KEY", "env:FORGE_ANOTHER_KEY")
    run_forge(copy_of_applied, config_home, "apply")
    with pytest.raises(ServeError, match="FORGE_ANOTHER_KEY"):
        seen.lookout.look()
    assert seen.lookout.has_read
    assert seen.lookout.wanted != first.release_digest


def test_another_trust_root_is_noticed(seen: Seen, copy_of_applied: Path, tmp_path: Path, config_home: Path) -> None:
    own = tmp_path / "config"
    shutil.copytree(config_home, own)
    watched = Seen(copy_of_applied, own)
    watched.moved()
    shutil.rmtree(own)
    make_development_keys(own)
    with pytest.raises(TrustError, match="no valid signature"):
        watched.lookout.look()


def test_a_ledger_that_was_rewritten_is_no_release_at_fault(seen: Seen, copy_of_applied: Path) -> None:
    seen.moved()
    git(copy_of_applied, "update-ref", "-d", REF)
    with pytest.raises(LedgerError, match="the ledger was rewritten"):
        seen.lookout.look()
    assert not seen.lookout.has_read


def shared_by(folder: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A bare remote, and a second clone that has only what it fetches; the store is one that both reach."""
    bare, clone = tmp_path / "shared.git", tmp_path / "next to the accelerators"
    git(tmp_path, "clone", "--quiet", "--bare", str(folder), str(bare))
    settings = SETTINGS + '[ledger]\nremote = "origin"\n'
    (folder / "forge.toml").write_text(settings)
    commit_all(folder)
    git(folder, "remote", "add", "origin", str(bare))
    git(folder, "push", "--quiet", "origin", "main", f"{REF}:{REF}")
    git(tmp_path, "clone", "--quiet", str(bare), str(clone))
    (clone / ".forge").mkdir()
    (clone / ".forge" / "store").symlink_to(folder / ".forge" / "store")
    return bare, clone


def test_a_move_comes_through_the_remote_with_the_commits_that_it_names(
    copy_of_applied: Path, config_home: Path, tmp_path: Path
) -> None:
    bare, clone = shared_by(copy_of_applied, tmp_path)
    there = Seen(clone, config_home, "origin")
    first = there.moved()
    stricter(copy_of_applied, config_home)
    git(copy_of_applied, "push", "--quiet", "origin", "main")
    head = git(clone, "rev-parse", "HEAD")
    assert there.moved().policy_digest != first.policy_digest
    assert git(clone, "rev-parse", "HEAD") == head  # the clone's own branch is left alone
    bare.rename(tmp_path / "gone.git")
    with pytest.raises(LedgerError, match="git fetch failed"):
        there.lookout.look()
    said: list[str] = []
    restarted = Seen(clone, config_home, "origin")
    binding = first_look(restarted.lookout, restarted.source, said.append)
    assert binding.release.policy_digest != first.policy_digest
    assert "what this clone last saw" in said[0]


def test_the_watch_survives_whatever_happens_and_says_when_it_is_over(copy_of_applied: Path, config_home: Path) -> None:
    watched = Seen(copy_of_applied, config_home)
    watched.moved()
    notices: list[Notice] = []
    came = threading.Event()

    def post(notice: Notice) -> None:
        notices.append(notice)
        came.set()

    def next_notice() -> Notice:
        assert came.wait(20)
        came.clear()
        return notices.pop(0)

    watch = Watch(watched.lookout, 0.05, post)
    watch.start()
    head = git(copy_of_applied, "rev-parse", REF)
    git(copy_of_applied, "update-ref", "-d", REF)
    fault = next_notice()
    assert isinstance(fault, Fault)
    assert "the ledger was rewritten" in str(fault.reason)
    git(copy_of_applied, "update-ref", REF, head)
    assert next_notice() == Fault(None)
    git_folder = copy_of_applied / ".git"
    git_folder.rename(copy_of_applied / "away")
    fault = next_notice()
    assert isinstance(fault, Fault)
    assert fault.reason
    (copy_of_applied / "away").rename(git_folder)
    assert next_notice() == Fault(None)
    watch.look_again()
    assert isinstance(next_notice(), Moved)
    assert notices == []
    watch.stop()
    count = subprocess.run(["git", "rev-list", "--count", REF], cwd=copy_of_applied, check=True, capture_output=True).stdout
    assert int(count) > 0
    time.sleep(0.2)
    assert threading.active_count() < 20


def test_nothing_released_is_refused_at_the_start(repository: Path, config_home: Path) -> None:
    fresh = Seen(repository, config_home)
    with pytest.raises(RefusedError, match="nothing is released to 'local'"):
        first_look(fresh.lookout, fresh.source, lambda _: None)


def test_a_retired_environment_starts_no_agent(copy_of_applied: Path, config_home: Path) -> None:
    retire(copy_of_applied, config_home)
    fresh = Seen(copy_of_applied, config_home)
    with pytest.raises(RefusedError, match="retired Deployment/small-local"):
        first_look(fresh.lookout, replace(fresh.source), lambda _: None)
    with Repository(copy_of_applied) as repository, pytest.raises(RetiredError):
        snapshot = Ledger(repository, REF).snapshot()
        verify("release/local", repository, snapshot, Store(".forge/store", copy_of_applied), read_trust_root(config_home))
