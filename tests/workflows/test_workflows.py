"""The workflows, read as an attacker and as GitHub would, then run: in scratch clones, against an API on loopback."""

import json
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import DEPLOYMENT, MODEL, ROOT, commit_all, git, new_repository, run_forge, write_small
from tests.governed import commit_as, govern, make_governed
from tests.made import lay_made
from tests.workflows.github import BOT, INSTALLS, WORKFLOWS, GitHub, Job, github, run_job

from forge.plan.markdown import COMMENT_MARK

PERMISSIONS = {
    "ci.yaml": {"check": {"contents": "read"}},
    "plan.yml": {"plan": {"contents": "read", "pull-requests": "write"}},
    "reconcile.yml": {"reconcile": {"contents": "write"}, "verify": {"contents": "read"}},
    "drift.yml": {"drift": {"contents": "read", "issues": "write"}},
    "verify.yml": {"verify": {"contents": "read"}},
}
every_workflow = pytest.mark.parametrize("name", sorted(WORKFLOWS))


def jobs(name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    yield from WORKFLOWS[name]["jobs"].items()


def steps(name: str) -> Iterator[dict[str, Any]]:
    for _, job in jobs(name):
        yield from job.get("steps", [])


def triggers(name: str) -> Any:
    return WORKFLOWS[name].get("on", WORKFLOWS[name].get(True))


@every_workflow
def test_it_is_one_that_github_reads(name: str) -> None:
    checker = Path(sys.executable).with_name("check-jsonschema")
    subprocess.run(
        [checker, "--builtin-schema", "vendor.github-workflows", ROOT / ".github" / "workflows" / name], check=True, timeout=60
    )


@every_workflow
def test_it_gives_strangers_nothing(name: str) -> None:
    """No privileged trigger, no more rights than it needs, no text of an event in a script, nothing that outlives a step."""
    assert "pull_request_target" not in str(triggers(name))
    assert "workflow_run" not in str(triggers(name))
    default = WORKFLOWS[name]["permissions"]
    assert {job_name: job.get("permissions", default) for job_name, job in jobs(name)} == PERMISSIONS[name]
    for step in steps(name):
        assert "${{" not in step.get("run", "")
        assert "GITHUB_ENV" not in step.get("run", "")
        assert "GITHUB_PATH" not in step.get("run", "")
    text = (ROOT / ".github" / "workflows" / name).read_text()
    assert not re.search(r"\$\{\{[^}]*(title|body|head_ref|head\.ref|label|message|login|secrets)", text)


@every_workflow
def test_every_action_is_github_s_own_and_pinned(name: str) -> None:
    used = [item["uses"] for item in [*steps(name), *(job for _, job in jobs(name))] if "uses" in item]
    assert used
    for action in used:
        assert re.fullmatch(r"actions/(checkout|setup-python)@[0-9a-f]{40}|\./\.github/workflows/verify\.yml", action)
    text = (ROOT / ".github" / "workflows" / name).read_text()
    assert all(re.search(r"@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line) for line in text.splitlines() if "uses: actions/" in line)


@every_workflow
def test_every_job_ends_and_every_step_fails_loudly(name: str) -> None:
    for _, job in jobs(name):
        assert "uses" in job or 0 < job["timeout-minutes"] <= 1380  # the job's token lives for 1,440 minutes
    for step in steps(name):
        assert "continue-on-error" not in step
    if name != "ci.yaml":
        assert WORKFLOWS[name]["defaults"] == {"run": {"shell": "bash"}}  # with pipefail, which the default shell lacks
        assert all("name" in step for step in steps(name) if "run" in step)


def test_who_waits_for_whom() -> None:
    assert WORKFLOWS["plan.yml"]["concurrency"]["cancel-in-progress"] is True
    assert "pull_request.number" in WORKFLOWS["plan.yml"]["concurrency"]["group"]
    assert WORKFLOWS["reconcile.yml"]["concurrency"] == {"group": "reconcile", "cancel-in-progress": False}
    assert triggers("reconcile.yml") == {"push": {"branches": ["main"]}, "workflow_dispatch": None}
    assert WORKFLOWS["reconcile.yml"]["jobs"]["reconcile"]["if"] == "${{ github.ref == 'refs/heads/main' }}"
    assert triggers("plan.yml") == "pull_request"


def test_a_runner_of_one_s_own_keeps_its_store() -> None:
    """actions/checkout deletes what git ignores unless it is told not to: .forge, with every artifact."""
    for name in WORKFLOWS:
        for _, job in jobs(name):
            for step in job.get("steps", []):
                if "self-hosted" in job["runs-on"] and "checkout" in step.get("uses", ""):
                    assert step["with"]["clean"] is False


def test_a_pull_request_s_job_holds_no_credentials_but_in_two_steps() -> None:
    (checkout,) = [step for step in steps("plan.yml") if "checkout" in step.get("uses", "")]
    assert checkout["with"]["persist-credentials"] is False
    assert [step["name"] for step in steps("plan.yml") if "token" in str(step.get("env"))] == ["Fetch the ledger", "Comment"]
    assert "PROFILE=core" in next(step for step in steps("plan.yml") if step.get("name") == INSTALLS)["run"]


def test_the_script_looks_for_the_mark_that_the_plan_writes() -> None:
    assert runpy.run_path(str(ROOT / ".github" / "post.py"))["MARK"] == COMMENT_MARK


@pytest.fixture
def api() -> Iterator[GitHub]:
    with github() as state:
        yield state


@pytest.fixture
def origin(copy_of_applied: Path, tmp_path: Path) -> Path:
    """A server's copy of the applied example, with the workflows, and its ledger."""
    shutil.copytree(ROOT / ".github", copy_of_applied / ".github")
    commit_all(copy_of_applied, "workflows")
    bare = tmp_path / "origin.git"
    git(tmp_path, "clone", "--quiet", "--bare", str(copy_of_applied), str(bare))
    git(copy_of_applied, "remote", "add", "origin", str(bare))
    git(copy_of_applied, "push", "--quiet", "origin", "refs/forge/ledger")
    return bare


def pull_request(origin: Path, folder: Path, changes: dict[str, str]) -> tuple[Path, dict[str, str]]:
    """What actions/checkout leaves for a pull request: a detached merge of its head into main, with all branches."""
    git(folder.parent, "clone", "--quiet", str(origin), folder.name)
    git(folder, "config", "user.name", "Tester")
    git(folder, "config", "user.email", "tester@forge.invalid")
    git(folder, "checkout", "--quiet", "-b", "change")
    for path, text in changes.items():
        (folder / path).write_text(text)
    head = commit_all(folder, "the change")
    git(folder, "checkout", "--quiet", "--detach", "origin/main")
    git(folder, "merge", "--quiet", "--no-ff", "-m", "merge", head)
    event = {"github.event.pull_request.number": "7", "github.event.pull_request.head.sha": head, "GITHUB_BASE_REF": "main"}
    return folder, event


def planned(origin: Path, tmp_path: Path, api: GitHub, config: Path, changes: dict[str, str], name: str = "pr") -> Job:
    workspace, event = pull_request(origin, tmp_path / name, changes)
    return run_job("plan.yml", workspace, tmp_path / "scratch", api, config, event)


def test_a_pull_request_gets_one_comment_with_what_it_adds(origin: Path, tmp_path: Path, api: GitHub) -> None:
    """Without keys, without the store: only the repository and its ledger."""
    stranger = {"id": 1, "user": {"login": "mallory", "type": "User"}, "body": COMMENT_MARK + "\nAll is well: merge it."}
    chatter = [{"id": 100 + n, "user": BOT, "body": f"coverage {n}; {COMMENT_MARK}"} for n in range(120)]
    api.comments.extend([stranger, *chatter])
    nowhere = tmp_path / "no-keys"
    first = planned(origin, tmp_path, api, nowhere, {"models/model.yaml": MODEL.replace("seed: 5", "seed: 6")})
    assert not first.failed, first.log
    assert list(first.steps) == ["Fetch the ledger", "Validate", "Plan", "Comment"]
    comment = api.comments[-1]
    assert comment["body"].startswith(COMMENT_MARK + "\n### Forge plan for commit ")
    assert "| `train/small` |" in comment["body"]
    assert "`field changed: training.seed: 5 -> 6 (rebuild)`" in comment["body"]
    assert "curate/small" not in comment["body"]
    assert "[Log](https://github.invalid/acme/models/actions/runs/99)" in comment["body"]
    gate = DEPLOYMENT.replace("max: 7.0", "max: 70.0")
    second = planned(origin, tmp_path, api, nowhere, {"models/deployment.yaml": gate}, "again")
    assert not second.failed, second.log
    assert len(api.comments) == 122
    assert "**gate** `Deployment/small-local`" in comment["body"]
    assert "train/small" not in comment["body"]
    assert stranger["body"].endswith("merge it.")
    assert first.summary == ""


def test_a_first_run_has_no_ledger_and_a_fork_may_not_comment(origin: Path, tmp_path: Path, api: GitHub) -> None:
    git(origin, "update-ref", "-d", "refs/forge/ledger")
    api.may_write = False
    job = planned(origin, tmp_path, api, tmp_path / "none", {"models/model.yaml": MODEL.replace("seed: 5", "seed: 6")})
    assert not job.failed, job.log
    assert "::notice::This token may not comment" in job.steps["Comment"].stdout
    assert job.summary.startswith(COMMENT_MARK)
    assert "`train/small`" in job.summary
    assert "curate/small" not in job.summary.replace("decided after curate/small", "")
    assert api.comments == []


def test_a_change_that_does_nothing_and_one_that_is_not_valid(origin: Path, tmp_path: Path, api: GitHub) -> None:
    nothing = planned(origin, tmp_path, api, tmp_path, {"models/model.yaml": MODEL + "# a comment\n"}, "nothing")
    assert not nothing.failed, nothing.log
    assert "7 in sync" in api.comments[0]["body"]
    broken = MODEL.replace("hidden_size: 32", "hiden_size: 32")
    job = planned(origin, tmp_path, api, tmp_path, {"models/model.yaml": broken}, "broken")
    assert job.failed
    assert list(job.steps) == ["Fetch the ledger", "Validate", "Comment"]
    assert "::error file=models/model.yaml" in job.steps["Validate"].stdout
    assert len(api.comments) == 1
    assert "No plan could be made of this commit" in api.comments[0]["body"]  # not the plan of an earlier push


def test_a_change_that_mends_a_broken_main_is_planned_whole(origin: Path, tmp_path: Path, api: GitHub) -> None:
    git(tmp_path, "clone", "--quiet", str(origin), "breaks")
    (tmp_path / "breaks" / "models" / "model.yaml").write_text(MODEL.replace("hidden_size: 32", "hiden_size: 32"))
    git(tmp_path / "breaks", "-c", "user.name=T", "-c", "user.email=t@forge.invalid", "commit", "--quiet", "-am", "broken")
    git(tmp_path / "breaks", "push", "--quiet", "origin", "HEAD:main")
    job = planned(origin, tmp_path, api, tmp_path, {"models/model.yaml": MODEL.replace("seed: 5", "seed: 6")})
    assert not job.failed, job.log
    assert "the base, is not valid itself: this is the whole plan" in api.comments[0]["body"]


def test_a_plan_over_the_budget_fails_the_check_and_says_why(origin: Path, tmp_path: Path, api: GitHub) -> None:
    model = MODEL.replace("seed: 5", "seed: 6")
    settings = (ROOT / "tests" / "conftest.py").read_text().split('SETTINGS = """')[1].split('"""')[0]
    budget = settings + "[budgets]\nmax_cost_per_plan = 0.00000001\n"
    job = planned(origin, tmp_path, api, tmp_path, {"models/model.yaml": model, "forge.toml": budget})
    assert job.failed
    assert job.steps["Plan"].returncode == 4
    assert "> **Refused:** `the plan may cost" in api.comments[0]["body"]
    assert "**forge.toml** `budgets.max_cost_per_plan`" in api.comments[0]["body"]


def runner(workspace: Path) -> dict[str, str]:
    """What GitHub sets for a push to main."""
    return {"GITHUB_SHA": git(workspace, "rev-parse", "HEAD"), "GITHUB_REF_NAME": "main"}


def test_drift_opens_one_issue_and_closes_it_when_it_is_gone(
    origin: Path, copy_of_applied: Path, tmp_path: Path, api: GitHub, config_home: Path
) -> None:
    api.issues.append({"number": 3, "user": {"login": "mallory"}, "state": "open", "body": COMMENT_MARK, "title": "mine"})

    def drift() -> Job:
        job = run_job("drift.yml", copy_of_applied, tmp_path / "scratch", api, config_home, runner(copy_of_applied))
        assert not job.failed, job.log
        return job

    assert "    in sync" in drift().summary
    assert len(api.issues) == 1
    shutil.move(copy_of_applied / ".forge" / "store", tmp_path / "store")
    drift()
    drift()
    assert [item["state"] for item in api.issues] == ["open", "open"]
    assert "artifact missing" in api.issues[1]["body"]
    assert api.issues[1]["title"].startswith("Forge: ")
    shutil.move(tmp_path / "store", copy_of_applied / ".forge" / "store")
    drift()
    assert [item["state"] for item in api.issues] == ["open", "closed"]
    assert api.issues[0]["title"] == "mine"


def test_verify_prints_a_verdict_for_each_environment_and_fails_on_one_that_does_not_hold(
    origin: Path, copy_of_applied: Path, tmp_path: Path, api: GitHub, config_home: Path
) -> None:
    def verify() -> Job:
        return run_job("verify.yml", copy_of_applied, tmp_path / "scratch", api, config_home, runner(copy_of_applied))

    good = verify()
    assert not good.failed, good.log
    assert "    release/local: the chain holds" in good.summary
    assert api.requests == []
    for blob in (copy_of_applied / ".forge" / "store" / "blobs").glob("*/*"):
        blob.chmod(0o644)
        blob.write_bytes(blob.read_bytes() + b"x")
    bad = verify()
    assert bad.failed
    assert bad.steps["Verify"].returncode == 4
    assert "FAIL" in bad.summary or "does not hold" in bad.summary


def test_reconcile_leaves_what_is_in_sync_and_pushes_what_was_not_pushed(
    origin: Path, copy_of_applied: Path, tmp_path: Path, api: GitHub, config_home: Path
) -> None:
    """The runner's own ledger is ahead: its last push failed. Its history is not lost, and not overwritten.

    Two branches have names that ``git ls-remote`` takes for the ledger and for main: they change nothing.
    """
    ahead = git(copy_of_applied, "rev-parse", "refs/forge/ledger")
    git(origin, "update-ref", "refs/forge/ledger", f"{ahead}~1")
    for branch in ("refs/heads/refs/forge/ledger", "refs/heads/refs/heads/main"):
        git(origin, "update-ref", branch, "main~1")
    job = run_job("reconcile.yml", copy_of_applied, tmp_path / "scratch", api, config_home, runner(copy_of_applied))
    assert not job.failed, job.log
    assert list(job.steps) == ["Fetch the ledger", "Reconcile", "Push the ledger", "Summary"]
    assert "7 in sync" in job.steps["Reconcile"].stdout
    assert git(origin, "rev-parse", "refs/forge/ledger") == ahead
    assert "    in sync" in job.summary


def test_reconcile_applies_a_change_and_shares_its_ledger(
    origin: Path, copy_of_applied: Path, tmp_path: Path, api: GitHub, config_home: Path
) -> None:
    (copy_of_applied / "models" / "deployment.yaml").write_text(DEPLOYMENT.replace("max: 7.0", "max: 7.5"))
    commit_all(copy_of_applied, "another gate")
    git(copy_of_applied, "push", "--quiet", "origin", "HEAD:main")
    before = git(origin, "rev-parse", "refs/forge/ledger")
    job = run_job("reconcile.yml", copy_of_applied, tmp_path / "scratch", api, config_home, runner(copy_of_applied))
    assert not job.failed, job.log
    assert "In sync with commit" in job.steps["Reconcile"].stderr
    assert git(origin, "rev-parse", "refs/forge/ledger") != before
    assert "7 in sync" in run_forge(copy_of_applied, config_home, "plan").stdout
    assert json.loads(run_forge(copy_of_applied, config_home, "status", "--format", "json").stdout)["environments"]["local"]


def test_a_runner_and_a_pull_request_share_the_ledger_of_a_remote_that_forge_toml_names(
    origin: Path, copy_of_applied: Path, tmp_path: Path, api: GitHub, config_home: Path
) -> None:
    settings = (copy_of_applied / "forge.toml").read_text() + '[ledger]\nremote = "origin"\n'
    (copy_of_applied / "forge.toml").write_text(settings)
    (copy_of_applied / "models" / "deployment.yaml").write_text(DEPLOYMENT.replace("max: 7.0", "max: 7.5"))
    commit_all(copy_of_applied, "a shared ledger, and another gate")
    git(copy_of_applied, "push", "--quiet", "origin", "HEAD:main")
    job = run_job("reconcile.yml", copy_of_applied, tmp_path / "scratch", api, config_home, runner(copy_of_applied))
    assert not job.failed, job.log
    assert git(origin, "rev-parse", "refs/forge/ledger") == git(copy_of_applied, "rev-parse", "refs/forge/ledger")
    job = planned(origin, tmp_path, api, tmp_path / "no-keys", {"models/model.yaml": MODEL.replace("seed: 5", "seed: 6")})
    assert not job.failed, job.log
    assert "`field changed: training.seed: 5 -> 6 (rebuild)`" in api.comments[0]["body"]


@pytest.mark.parametrize(("stale", "code"), [(1, 0), (3, 4)])
def test_a_plan_that_went_stale_is_made_again_but_not_for_ever(
    origin: Path, copy_of_applied: Path, tmp_path: Path, api: GitHub, config_home: Path, stale: int, code: int
) -> None:
    (copy_of_applied / "models" / "deployment.yaml").write_text(DEPLOYMENT.replace("max: 7.0", "max: 7.5"))
    commit_all(copy_of_applied, "another gate")
    git(copy_of_applied, "push", "--quiet", "origin", "HEAD:main")
    program = copy_of_applied / ".venv" / "bin" / "forge"
    program.parent.mkdir(parents=True)
    program.write_text(
        "#!/bin/sh\n# The real program; so many times the plan is another one by the time that it is applied.\n"
        f'if [ "$1" = apply ] && [ "$(cat ../applies | wc -l)" -lt {stale} ]; then echo >> "$RUNNER_TEMP/plan.json"; fi\n'
        f'[ "$1" != apply ] || echo >> ../applies\nexec "{Path(sys.executable).with_name("forge")}" "$@"\n'
    )
    program.chmod(0o755)
    (tmp_path / "applies").write_text("")
    job = run_job("reconcile.yml", copy_of_applied, tmp_path / "scratch", api, config_home, runner(copy_of_applied))
    assert job.steps["Reconcile"].returncode == code, job.log
    assert len((tmp_path / "applies").read_text()) == min(stale + 1, 3)
    assert job.steps["Push the ledger"].returncode == 0


def test_a_plan_that_needs_approval_waits_for_it_and_is_then_applied(tmp_path: Path, api: GitHub, applied: Path) -> None:
    """Refused and published; approved in another clone; started once more; and worth nothing for another plan."""
    governed = make_governed(tmp_path)
    workspace = new_repository(tmp_path / "runner")
    write_small(workspace)
    shutil.copytree(ROOT / ".github", workspace / ".github")
    govern(workspace, governed.supply_chain(plans={"approvals": 1}, release={}), governed.people())
    commit = commit_as(workspace, governed, "cleo", "plans are approved")
    run_forge(workspace, governed.config, "keys", "delegate")
    git(tmp_path, "clone", "--quiet", "--bare", str(workspace), "origin.git")
    git(workspace, "remote", "add", "origin", str(tmp_path / "origin.git"))
    git(workspace, "push", "--quiet", "origin", "refs/forge/ledger")

    def reconcile() -> Job:
        return run_job("reconcile.yml", workspace, tmp_path / "scratch", api, governed.config, runner(workspace))

    refused = reconcile()
    assert refused.steps["Reconcile"].returncode == 4, refused.log
    assert "needs 1, has 0" in refused.steps["Reconcile"].stderr
    assert f"::notice::The plan needs approvals. It is in refs/forge/plans/{commit}" in refused.steps["Reconcile"].stdout
    assert "started" not in refused.steps["Reconcile"].stderr

    git(tmp_path, "clone", "--quiet", "origin.git", "approver")
    approver = tmp_path / "approver"
    subprocess.run(["sh", ".github/ledger", "fetch"], cwd=approver, check=True)
    git(approver, "fetch", "--quiet", "origin", f"refs/forge/plans/{commit}")
    (tmp_path / "plan.json").write_text(git(approver, "cat-file", "blob", "FETCH_HEAD") + "\n")
    said = run_forge(approver, governed.config, "approve", str(tmp_path / "plan.json"), "--key", str(governed.ssh / "ana"))
    assert "+ run         train/small" in said.stdout
    subprocess.run(["sh", ".github/ledger", "push"], cwd=approver, check=True)

    lay_made(applied, workspace)
    done = reconcile()
    assert not done.failed, done.log
    assert "In sync with commit" in done.steps["Reconcile"].stderr
    assert "    in sync" in done.summary

    (workspace / "models" / "deployment.yaml").write_text(DEPLOYMENT + "  engine: {max_num_seqs: 4}\n")
    commit_as(workspace, governed, "cleo", "another plan")
    git(workspace, "push", "--quiet", "origin", "HEAD:main")
    before = git(workspace, "rev-parse", "refs/forge/ledger")
    assert reconcile().steps["Reconcile"].returncode == 4
    assert git(workspace, "rev-parse", "refs/forge/ledger") == before


def test_an_old_run_that_is_started_again_rolls_nothing_back(
    origin: Path, copy_of_applied: Path, tmp_path: Path, api: GitHub, config_home: Path
) -> None:
    (copy_of_applied / "models" / "deployment.yaml").write_text(DEPLOYMENT.replace("max: 7.0", "max: 7.5"))
    old = runner(copy_of_applied)
    commit_all(copy_of_applied, "another gate")
    git(copy_of_applied, "push", "--quiet", "origin", "HEAD:main")
    git(copy_of_applied, "checkout", "--quiet", "--detach", "HEAD~1")
    job = run_job("reconcile.yml", copy_of_applied, tmp_path / "scratch", api, config_home, old)
    assert not job.failed, job.log
    assert "::notice::The branch is at" in job.steps["Reconcile"].stdout
    assert "forge" not in job.steps["Reconcile"].stderr


def test_a_ledger_that_was_rewritten_on_the_server_stops_the_runner(
    origin: Path, copy_of_applied: Path, tmp_path: Path, api: GitHub, config_home: Path
) -> None:
    git(origin, "update-ref", "refs/forge/ledger", git(origin, "rev-parse", "refs/heads/main"))
    job = run_job("reconcile.yml", copy_of_applied, tmp_path / "scratch", api, config_home, runner(copy_of_applied))
    assert job.failed
    assert list(job.steps) == ["Fetch the ledger", "Push the ledger", "Summary"]
    assert job.steps["Fetch the ledger"].returncode != 0
