"""What the controller makes of the signed status of a serving agent, and the branch that it follows on a remote."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.admission.test_status import STATUS
from tests.conftest import DEPLOYMENT, commit_all, git, run_forge
from tests.reconcile.test_apply import snapshot_of

from forge.admission.status import SILENT_SECONDS, StatusWatch
from forge.attest.envelope import seal
from forge.attest.keys import signer_for
from forge.attest.statements import STATUS_PAYLOAD_TYPE
from forge.canonical import digest_of_bytes
from forge.cli.place import place_of
from forge.contract.kinds import Role
from forge.contract.status import AgentState
from forge.errors import TrustError
from forge.ledger.refs import LocalRefs
from forge.ledger.status import publish
from forge.plan.health import Health
from forge.reconcile.place import Place
from forge.reconcile.serving import trouble_with_serving
from forge.repo.desired import read_desired
from forge.repo.repository import Repository
from forge.repo.tree import CommitTree

OTHER = str(digest_of_bytes(b"another release"))


@dataclass
class Environment:
    """The applied example, whose environment ``local`` an agent says that it serves."""

    folder: Path
    config: Path
    place: Place
    release: str
    """What the pointer names."""
    seconds: float = 0.0
    watch: StatusWatch = field(init=False)

    def __post_init__(self) -> None:
        self.watch = StatusWatch(monotonic=lambda: self.seconds)

    def says(self, role: Role = Role.AGENT, **facts: Any) -> None:
        """Publish a status, signed by a role's key."""
        told = {"environment": "local", "release": self.release, "wanted": self.release, **facts}
        payload = STATUS.model_copy(update=told).to_bytes()
        repository = self.place.repository
        publish(LocalRefs(repository), repository, "local", seal(payload, signer_for(role, self.config), STATUS_PAYLOAD_TYPE))

    def trouble(self) -> tuple[Health, str] | None:
        """What the controller finds at fault."""
        found = trouble_with_serving(self.place, self.watch)
        assert set(found) <= {"local"}
        return found.get("local")


@pytest.fixture
def local(copy_of_applied: Path, config_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Environment]:
    monkeypatch.setenv("FORGE_CONFIG_HOME", str(config_home))
    release = snapshot_of(copy_of_applied).release("local")
    assert release is not None
    with Repository(copy_of_applied) as repository:
        desired = read_desired(CommitTree(repository, repository.resolve_commit("HEAD")))
        yield Environment(copy_of_applied, config_home, place_of(repository, desired), release.release)


def test_an_environment_without_an_agent_is_no_trouble(local: Environment) -> None:
    assert local.trouble() is None


def test_an_agent_that_serves_what_the_pointer_names_is_no_trouble(local: Environment) -> None:
    local.says()
    assert local.trouble() is None
    assert "in sync     Deployment/small-local" in run_forge(local.folder, local.config, "reconcile").stderr


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"state": AgentState.DEGRADED, "reason": "vLLM died"}, "its agent on rack-1: vLLM died"),
        ({"state": AgentState.STOPPED, "is_serving": False}, "its agent on rack-1 has stopped: told to"),
        (
            {"state": AgentState.WITHDRAWN, "is_serving": False, "reason": "Model/small is withdrawn"},
            "its agent on rack-1 serves nothing: Model/small is withdrawn",
        ),
    ],
)
def test_what_an_agent_says_is_at_fault_degrades_the_deployment(local: Environment, facts: dict[str, Any], words: str) -> None:
    local.says(**facts)
    assert local.trouble() == (Health.DEGRADED, words)
    said = run_forge(local.folder, local.config, "reconcile", code=1).stderr
    assert "degraded    Deployment/small-local" in said
    assert words in said


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"release": OTHER}, f"is ready and serves {OTHER}"),
        ({"release": OTHER, "state": AgentState.SWITCHING}, f"is switching and serves {OTHER}"),
        ({"state": AgentState.STARTING, "is_serving": False}, "is starting and serves sha256:"),
        ({"release": None, "weights": None, "policy": None, "state": AgentState.RETIRED}, "is retired and serves nothing"),
    ],
)
def test_an_agent_that_does_not_serve_what_the_pointer_names_yet_is_progress(
    local: Environment, facts: dict[str, Any], words: str
) -> None:
    local.says(**facts)
    found = local.trouble()
    assert found is not None
    assert found[0] is Health.PROGRESSING
    assert words in found[1]
    assert "progressing Deployment/small-local" in run_forge(local.folder, local.config, "reconcile").stderr


def test_an_agent_that_is_not_heard_of_any_more_degrades_until_it_speaks_again(local: Environment) -> None:
    local.says()
    assert local.trouble() is None
    local.seconds = SILENT_SECONDS - 1
    assert local.trouble() is None
    local.seconds = SILENT_SECONDS
    assert local.trouble() == (
        Health.DEGRADED,
        "its agent on rack-1 has not been heard of since 2026-01-01T00:00:00.000+00:00",
    )
    local.says(beat=2)
    assert local.trouble() is None
    local.seconds *= 2
    local.says(beat=1)  # an older status that somebody put back is no sign of life
    assert local.trouble() is not None


@pytest.mark.parametrize("role", [Role.TRAINER, Role.RELEASER])
def test_a_status_that_another_key_signed_counts_for_nothing(local: Environment, role: Role) -> None:
    local.says(role)
    found = local.trouble()
    assert found is not None
    assert found[0] is Health.DEGRADED
    assert "refs/forge/status/local: no valid signature of the role agent" in found[1]


def test_a_forged_byte_and_another_environments_status_count_for_nothing(local: Environment) -> None:
    repository = local.place.repository
    signed = seal(
        STATUS.model_copy(update={"environment": "local", "release": local.release}).to_bytes(),
        signer_for(Role.AGENT, local.config),
        STATUS_PAYLOAD_TYPE,
    )
    publish(LocalRefs(repository), repository, "local", signed.replace(b'"payload":"', b'"payload":"A', 1))
    found = local.trouble()
    assert found is not None
    assert found[0] is Health.DEGRADED
    local.says(environment="prod")
    found = local.trouble()
    assert found is not None
    assert "it is the status of 'prod'" in found[1]


def test_without_a_trust_root_no_status_is_judged(local: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local.says()
    monkeypatch.setenv("FORGE_CONFIG_HOME", str(tmp_path / "none"))
    place = place_of(local.place.repository, local.place.desired)
    with pytest.raises(TrustError):
        trouble_with_serving(place, local.watch)


def follow(folder: Path, config: Path, code: int = 0) -> str:
    return run_forge(folder, config, "reconcile", "--remote", "origin", code=code).stderr


def test_the_controller_follows_a_branch_of_a_remote(copy_of_applied: Path, config_home: Path, tmp_path: Path) -> None:
    """What lies in the clone's own branch does not count; a force-push is followed, an absent branch is said."""
    git(tmp_path, "clone", "--quiet", "--bare", str(copy_of_applied), "origin.git")
    git(copy_of_applied, "remote", "add", "origin", str(tmp_path / "origin.git"))
    git(tmp_path, "clone", "--quiet", "origin.git", "author")
    author = tmp_path / "author"
    for name in ("name", "email"):
        git(author, "config", f"user.{name}", "tester@forge.invalid")

    def push(number: int) -> str:
        (author / "models" / "deployment.yaml").write_text(DEPLOYMENT + f"  engine: {{max_num_seqs: {number}}}\n")
        commit = commit_all(author)
        git(author, "push", "--quiet", "--force", "origin", "HEAD:main")
        return commit

    def serves() -> str:
        release = snapshot_of(copy_of_applied).release("local")
        assert release is not None
        return release.commit

    here = git(copy_of_applied, "rev-parse", "HEAD")
    first = push(4)
    follow(copy_of_applied, config_home)
    assert serves() == first
    git(author, "reset", "--quiet", "--hard", "HEAD~1")
    second = push(5)
    follow(copy_of_applied, config_home)
    assert serves() == second
    assert git(copy_of_applied, "rev-parse", "refs/remotes/origin/main") == second
    assert git(copy_of_applied, "rev-parse", "HEAD") == here
    git(tmp_path / "origin.git", "update-ref", "-d", "refs/heads/main")
    assert "this pass failed, the next is in 60 s: cannot fetch main from origin: " in follow(copy_of_applied, config_home, 1)


def test_a_remote_that_is_away_is_named_without_its_password(copy_of_applied: Path, config_home: Path) -> None:
    git(copy_of_applied, "remote", "add", "origin", "http://robot:hunter2@127.0.0.1:9/models.git")
    said = follow(copy_of_applied, config_home, 1)
    assert "cannot fetch main from origin: " in said
    assert "127.0.0.1:9" in said
    assert "hunter2" not in said
