"""The controller: it follows the branch, heals, backs off, and tells how resources are."""

import http.server
import json
import os
import signal
import subprocess
import threading
import types
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.conftest import DEPLOYMENT, MODEL, commit_all, git, new_repository, run_forge, write_small
from tests.governed import commit_as, govern, make_governed
from tests.reconcile.test_apply import FORGE, snapshot_of, step_processes, training_under_way, wait_for

from forge.cli.place import place_of
from forge.contract.messages import FailureCause
from forge.plan.action import Plan
from forge.reconcile.apply import Mode
from forge.reconcile.backoff import FIRST_SECONDS, LONGEST_SECONDS, Backoff
from forge.reconcile.controller import Controller
from forge.reconcile.notify import Metrics
from forge.reconcile.place import Place, look
from forge.reconcile.stop import Stop
from forge.reconcile.telling import Teller
from forge.repo.desired import read_desired
from forge.repo.repository import Repository
from forge.repo.tree import CommitTree


@contextmanager
def watching(folder: Path, config_home: Path, *flags: str) -> Iterator[Path]:
    """A controller at work; gives the file that holds what it says."""
    log = folder.parent / "controller.log"
    environment = {**os.environ, "FORGE_CONFIG_HOME": str(config_home)}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [FORGE, "reconcile", "--watch", "--interval", "1", *flags], cwd=folder, env=environment, stderr=output
        )
    try:
        yield log
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(90)


def test_it_follows_the_branch_and_heals_what_drifts(copy_of_applied: Path, config_home: Path) -> None:
    first = snapshot_of(copy_of_applied).release("local")
    assert first is not None
    with watching(copy_of_applied, config_home, "--metrics-port", "0") as log:
        wait_for(lambda: "in sync     Deployment/small-local" in log.read_text())
        (copy_of_applied / "models" / "deployment.yaml").write_text(DEPLOYMENT + "  engine: {max_num_seqs: 4}\n")
        commit_all(copy_of_applied)
        wait_for(lambda: snapshot_of(copy_of_applied).release("local") != first)
        tokens = snapshot_of(copy_of_applied).latest("tokenize/small")
        assert tokens is not None
        name = tokens.products["tokens"].removeprefix("sha256:")
        manifest = copy_of_applied / ".forge" / "store" / "manifests" / name[:2] / f"{name}.json"
        manifest.unlink()
        wait_for(manifest.exists)
        address = log.read_text().split("metrics on ")[1].split()[0]

        def metrics() -> str:
            with urllib.request.urlopen(address, timeout=10) as answer:
                return str(answer.read().decode())

        wait_for(lambda: 'forge_resource_health{health="in sync",resource="Model/small"} 1.0' in metrics())
        assert 'forge_reconcile_passes_total{outcome="done"}' in metrics()
        wait_for(lambda: 'forge_steps_total{kind="tokenize",outcome="done"}' in metrics())  # stored first, then recorded
        assert 'forge_steps_total{kind="release",outcome="done"}' in metrics()


@contextmanager
def heard_by_a_webhook_of(folder: Path) -> Iterator[list[dict[str, object]]]:
    """The changes that a webhook hears, which forge.toml names from here on."""
    heard: list[dict[str, object]] = []

    class Hook(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.extend(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["changes"])
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with (folder / "forge.toml").open("a") as settings:
        settings.write(f'[notify]\nwebhook = "http://127.0.0.1:{server.server_port}/"\n')
    try:
        yield heard
    finally:
        server.shutdown()
        server.server_close()


def words(heard: list[dict[str, object]], resource: str) -> list[object]:
    return [change["to"] for change in heard if change["resource"] == resource]


def test_a_failing_step_degrades_its_resource_and_the_webhook_hears_of_it(repository: Path, config_home: Path) -> None:
    with heard_by_a_webhook_of(repository) as heard:
        (repository / "corpus" / "part.jsonl.gz").write_bytes(b"")
        commit_all(repository)
        done = run_forge(repository, config_home, "reconcile", code=1)
    assert "curate/small failed and is tried again in 30 s" in done.stderr
    assert "degraded    DataRecipe/small" in done.stderr
    states = {change["resource"]: change["to"] for change in heard}
    assert states["DataRecipe/small"] == "degraded"
    assert states["Model/small"] == "progressing"
    assert snapshot_of(repository).attempts("curate/small")[0].cause is FailureCause.INPUT


def test_health_is_told_while_a_pass_is_under_way(copy_of_applied: Path, config_home: Path) -> None:
    """A training may take days: that it is under way, and that something else failed meanwhile, is known at once."""
    with heard_by_a_webhook_of(copy_of_applied) as heard:
        commit_all(copy_of_applied)
        with watching(copy_of_applied, config_home, "--metrics-port", "0") as log:
            wait_for(lambda: "in sync     Model/small" in log.read_text())
            address = log.read_text().split("metrics on ")[1].split()[0]
            (copy_of_applied / "models" / "model.yaml").write_text(MODEL.replace("tokens: 40k", "tokens: 20M"))
            commit_all(copy_of_applied)
            wait_for(lambda: training_under_way(copy_of_applied))
            wait_for(lambda: "progressing Model/small (was in sync)" in log.read_text())
            with urllib.request.urlopen(address, timeout=10) as answer:
                shown = answer.read().decode()
            assert 'forge_resource_health{health="progressing",resource="Model/small"} 1.0' in shown
            assert "forge_plan_changes 0.0" not in shown
            wait_for(lambda: words(heard, "Model/small") == ["progressing"])


def test_a_pass_that_is_refused_degrades_the_branch_and_tells_what_would_be_done(
    copy_of_applied: Path, config_home: Path
) -> None:
    with heard_by_a_webhook_of(copy_of_applied) as heard:
        with (copy_of_applied / "forge.toml").open("a") as settings:
            settings.write("[budgets]\nmax_cost_per_plan = 0.0000000001\n")
        (copy_of_applied / "models" / "model.yaml").write_text(MODEL.replace("tokens: 40k", "tokens: 80k"))
        commit_all(copy_of_applied)
        done = run_forge(copy_of_applied, config_home, "reconcile", code=1)
    assert "degraded    Branch/main: the plan may cost" in done.stderr
    assert "in sync     Branch/main" not in done.stderr
    assert "progressing Model/small" in done.stderr
    assert "in sync     EvalSuite/small" in done.stderr
    assert words(heard, "Branch/main") == ["degraded"]
    assert words(heard, "Model/small") == ["progressing"]


def test_a_controller_that_is_started_again_tells_what_changed_since(copy_of_applied: Path, config_home: Path) -> None:
    with heard_by_a_webhook_of(copy_of_applied) as heard:
        commit_all(copy_of_applied)
        for _ in range(2):
            run_forge(copy_of_applied, config_home, "reconcile")
        assert heard == []
        (copy_of_applied / "models" / "model.yaml").write_text("kind: Nothing\n")
        broken = commit_all(copy_of_applied)
        for _ in range(2):
            run_forge(copy_of_applied, config_home, "reconcile", code=1)
        assert words(heard, "Branch/main") == ["degraded"]
        git(copy_of_applied, "revert", "--no-edit", broken)
        run_forge(copy_of_applied, config_home, "reconcile")
        assert [(change["resource"], change["from"], change["to"]) for change in heard[1:]] == [
            ("Branch/main", "degraded", "in sync")
        ]


def test_a_mended_branch_is_taken_up_before_the_pause_is_over(copy_of_applied: Path, config_home: Path) -> None:
    """The pause after failed passes grows; what ends it is a commit that the last pass did not start from."""
    (copy_of_applied / "models" / "model.yaml").write_text("kind: Nothing\n")
    broken = commit_all(copy_of_applied)
    with watching(copy_of_applied, config_home) as log:
        wait_for(lambda: "the next is in 16 s" in log.read_text())
        git(copy_of_applied, "revert", "--no-edit", broken)
        wait_for(lambda: "in sync     Branch/main (was degraded)" in log.read_text(), 8)


def test_an_error_of_the_file_system_ends_a_pass_and_not_the_controller(copy_of_applied: Path, config_home: Path) -> None:
    work = copy_of_applied / ".forge" / "work"
    with watching(copy_of_applied, config_home) as log:
        wait_for(lambda: "in sync     Model/small" in log.read_text())
        work.rename(work.with_name("elsewhere"))
        work.write_bytes(b"")
        (copy_of_applied / "models" / "model.yaml").write_text(MODEL.replace("tokens: 40k", "tokens: 80k"))
        commit_all(copy_of_applied)
        wait_for(lambda: "degraded    Branch/main (was in sync)" in log.read_text())
        work.unlink()
        wait_for(lambda: "in sync     Branch/main (was degraded)" in log.read_text())


def test_a_suspended_resource_is_left_alone(copy_of_applied: Path, config_home: Path) -> None:
    suspended = DEPLOYMENT.replace("{name: small-local}", '{name: small-local, annotations: {forge/suspend: "true"}}')
    (copy_of_applied / "models" / "deployment.yaml").write_text(suspended + "  engine: {max_num_seqs: 4}\n")
    commit_all(copy_of_applied)
    before = git(copy_of_applied, "rev-parse", "refs/forge/ledger")
    done = run_forge(copy_of_applied, config_home, "reconcile")
    assert "suspended   Deployment/small-local" in done.stderr
    assert git(copy_of_applied, "rev-parse", "refs/forge/ledger") == before


def test_a_branch_that_cannot_be_read_is_said_and_tried_again(copy_of_applied: Path, config_home: Path) -> None:
    (copy_of_applied / "models" / "model.yaml").write_text("kind: Nothing\n")
    commit_all(copy_of_applied)
    done = run_forge(copy_of_applied, config_home, "reconcile", code=1)
    assert "this pass failed, the next is in 60 s: models/deployment.yaml:6:10: there is no Model/small" in done.stderr
    assert "models/model.yaml:1:7: unknown kind `Nothing`" in done.stderr


@pytest.mark.parametrize(
    ("edit", "decision"),
    [
        ("tokens: 1600k", "extend"),
        ("tokens: 800k\n    precision: bfloat16", "supersede"),
        ("tokens: 800k # a comment", "finish"),
    ],
)
def test_a_commit_that_changes_a_running_step(copy_of_applied: Path, config_home: Path, edit: str, decision: str) -> None:
    model = copy_of_applied / "models" / "model.yaml"
    model.write_text(MODEL.replace("tokens: 40k", "tokens: 800k").replace("seed: 5", "seed: 6"))
    commit_all(copy_of_applied)
    with watching(copy_of_applied, config_home) as log:
        wait_for(lambda: training_under_way(copy_of_applied))
        model.write_text(MODEL.replace("tokens: 40k", edit).replace("seed: 5", "seed: 6"))
        commit = commit_all(copy_of_applied)

        def done() -> bool:
            record = snapshot_of(copy_of_applied).latest("train/small")
            return record is not None and record.parameters["training"].get("seed") == 6

        wait_for(done, 300)
        said = log.read_text()
    snapshot = snapshot_of(copy_of_applied)
    record = snapshot.latest("train/small")
    assert record is not None
    stopped = [attempt for attempt in snapshot.attempts("train/small") if attempt.cause is FailureCause.STOPPED]
    if decision == "finish":
        assert "no longer wanted" not in said
        assert (record.attempt, stopped) == (1, [])
    else:
        assert "train/small: no longer wanted" in said
        assert record.commit == commit
    if decision == "extend":
        assert record.continued is not None
        assert [attempt.byproducts["checkpoint"] for attempt in stopped] == [record.continued.checkpoint]
        assert int(record.metrics["resumed_from_step"]) > 0
        assert "the chain holds" in run_forge(copy_of_applied, config_home, "verify", "model/small").stdout
    if decision == "supersede":
        assert record.continued is None
        assert any((copy_of_applied / ".forge" / "work").glob("*/scratch/checkpoints/step-*"))  # the old run's, kept


def test_the_pause_doubles_up_to_a_quarter_of_an_hour_and_a_new_key_starts_afresh() -> None:
    now = 0.0
    backoff = Backoff(lambda: now)
    pauses = [backoff.failed("a") for _ in range(8)]
    assert pauses[:3] == [FIRST_SECONDS, 2 * FIRST_SECONDS, 4 * FIRST_SECONDS]
    assert pauses[-1] == LONGEST_SECONDS
    assert backoff.waits("a")
    assert not backoff.waits("b")
    now = LONGEST_SECONDS
    assert not backoff.waits("a")
    backoff.succeeded("a")
    assert backoff.failed("a") == FIRST_SECONDS


def test_a_budget_that_is_lowered_while_it_trains_stops_the_training(copy_of_applied: Path, config_home: Path) -> None:
    (copy_of_applied / "models" / "model.yaml").write_text(MODEL.replace("tokens: 40k", "tokens: 400k"))
    commit_all(copy_of_applied)
    with watching(copy_of_applied, config_home) as log:
        wait_for(lambda: training_under_way(copy_of_applied))
        with (copy_of_applied / "forge.toml").open("a") as settings:
            settings.write("[budgets]\nmax_cost_per_plan = 0.00000001\n")
        commit_all(copy_of_applied)
        wait_for(lambda: "budgets.max_cost_per_plan" in log.read_text())
        assert "what is left to do may not be done" in log.read_text()
        wait_for(lambda: not step_processes(copy_of_applied))
    assert snapshot_of(copy_of_applied).attempts("train/small") == []
    assert list((copy_of_applied / ".forge" / "work").glob("*/scratch/checkpoints/step-*"))  # the next one goes on from it


def test_a_commit_whose_plan_needs_approval_is_not_taken_up_while_another_is_applied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is any while an approved plan is carried out: the next pass takes it up, and asks first."""
    governed = make_governed(tmp_path)
    monkeypatch.setenv("FORGE_CONFIG_HOME", str(governed.config))
    folder = new_repository(tmp_path / "repository")
    write_small(folder)
    rules: list[dict[str, object]] = [{}, {"plans": {"approvals": 1}}, {"plans": {"approvals": 1, "above_cost": 1000.0}}]
    commits = []
    for number, rule in enumerate(rules):
        (folder / "models" / "model.yaml").write_text(MODEL.replace("seed: 5", f"seed: {number}"))
        govern(folder, governed.supply_chain(release={}, **rule), governed.people())
        commits.append(commit_as(folder, governed, "cleo"))
    with Repository(folder) as repository:
        free, needs_approval, cheap = (place_of(repository, read_desired(CommitTree(repository, each))) for each in commits)
        places = [free]
        said: list[str] = []
        reporter = types.SimpleNamespace(said=said.append)
        controller = Controller(
            "main",
            lambda: places[-1],
            tuple,
            reporter,  # type: ignore[arg-type]
            Stop(),
            Metrics(),
            Teller(reporter, Metrics(), None, tmp_path / "health.json"),  # type: ignore[arg-type]
            0.0,
            lambda _place: {},
        )

        def taken_up(newer: Place) -> Place:
            """What a pass goes on with that was begun with ``free``, once the branch is at another commit."""
            found: list[Place] = []

            def applying(place: Place, _observer: object, _stop: object, mode: Mode) -> Plan:
                places.append(newer)
                assert mode.refresh is not None
                found.append(mode.refresh(place))
                return Plan(place.desired.commit, "USD", ())

            monkeypatch.setattr("forge.reconcile.controller.apply", applying)
            controller._apply(free)
            return found[0]

        assert taken_up(cheap).desired.commit == commits[2]
        assert said == [f"commit {commits[2][:12]} is taken up"]
        assert taken_up(needs_approval) is free
        approved = look(needs_approval).plan
        monkeypatch.setattr("forge.reconcile.controller.approved_in_ledger", lambda _place: approved)
        assert taken_up(cheap) is free
