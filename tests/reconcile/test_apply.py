"""Applying a commit: once done nothing is done again, whatever is interrupted goes on, what fails says why."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from tests.conftest import DEPLOYMENT, MODEL, commit_all, git, run_forge

from forge.ledger.ledger import Ledger, Snapshot
from forge.repo.repository import Repository

FORGE = Path(sys.executable).with_name("forge")
CORPUS = "corpus/part.jsonl.gz"


def snapshot_of(folder: Path) -> Snapshot:
    return Ledger(Repository(folder), "refs/forge/ledger").snapshot()


def start_apply(folder: Path, config_home: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "FORGE_CONFIG_HOME": str(config_home)}
    return subprocess.Popen([FORGE, "apply"], cwd=folder, env=environment, stderr=subprocess.PIPE)


def step_processes(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if "forge.steps" in command and any(str(folder) in part for part in command):
            found.append(process)
    return found


def wait_for(what: object, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not what():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def training_under_way(folder: Path) -> bool:
    """Whether a whole checkpoint is there; one that is being written still has a temporary name."""
    return any((folder / ".forge" / "work").glob("*/scratch/checkpoints/step-*-attempt-[0-9]"))


def test_a_second_apply_does_nothing(applied: Path, config_home: Path) -> None:
    before = git(applied, "rev-parse", "refs/forge/ledger")
    assert "7 in sync" in run_forge(applied, config_home, "apply").stdout
    assert git(applied, "rev-parse", "refs/forge/ledger") == before
    assert run_forge(applied, config_home, "plan", "--exit-code").returncode == 0


def test_records_hold_estimate_and_actual_side_by_side(applied: Path) -> None:
    record = snapshot_of(applied).latest("train/small")
    assert record is not None
    assert record.estimate is not None
    assert record.estimate.seconds > 0
    assert record.actual.seconds > 0
    assert record.actual.cost == pytest.approx(record.actual.seconds / 3600 * 0.08)


def test_another_clone_with_the_ledger_has_nothing_to_plan(applied: Path, config_home: Path, tmp_path: Path) -> None:
    """The records travel by the ref; the bytes by the store."""
    git(tmp_path, "clone", "--quiet", str(applied), "clone")
    clone = tmp_path / "clone"
    git(clone, "fetch", "--quiet", "origin", "refs/forge/*:refs/forge/*")
    (clone / ".forge").symlink_to(applied / ".forge")
    assert "7 in sync" in run_forge(clone, config_home, "plan").stdout


def test_only_the_gate_runs_again_when_a_threshold_moves_and_no_go_releases_nothing(
    copy_of_applied: Path, config_home: Path
) -> None:
    before = snapshot_of(copy_of_applied).release("local")
    (copy_of_applied / "models" / "deployment.yaml").write_text(DEPLOYMENT.replace("max: 7.0", "max: 0.5"))
    commit_all(copy_of_applied)
    done = run_forge(copy_of_applied, config_home, "apply", code=1)
    assert "gate/small-local: started" in done.stderr
    assert "train/small: started" not in done.stderr
    assert "task       metric         threshold  value" in done.stderr
    assert "FAIL  small_bpb  bits_per_byte  <= 0.5" in done.stderr
    assert snapshot_of(copy_of_applied).release("local") == before
    again = run_forge(copy_of_applied, config_home, "apply", code=1)
    assert "started" not in again.stderr
    assert "! blocked     release/small-local" in run_forge(copy_of_applied, config_home, "plan").stdout


def test_a_revert_releases_the_earlier_model_without_training(copy_of_applied: Path, config_home: Path) -> None:
    first = snapshot_of(copy_of_applied).release("local")
    (copy_of_applied / "models" / "deployment.yaml").write_text(DEPLOYMENT + "  engine: {max_num_seqs: 4}\n")
    commit_all(copy_of_applied)
    done = run_forge(copy_of_applied, config_home, "apply")
    assert "~ reload      release/small-local" in done.stdout
    assert snapshot_of(copy_of_applied).release("local") != first
    git(copy_of_applied, "revert", "--no-edit", "HEAD")
    done = run_forge(copy_of_applied, config_home, "apply")
    assert "started" not in done.stderr
    assert "v roll back   release/small-local" in done.stdout
    now = snapshot_of(copy_of_applied).release("local")
    assert now is not None
    assert first is not None
    assert now.release == first.release


def test_a_lost_artifact_is_made_again(copy_of_applied: Path, config_home: Path) -> None:
    record = snapshot_of(copy_of_applied).latest("tokenize/small")
    assert record is not None
    name = record.products["tokens"].removeprefix("sha256:")
    (copy_of_applied / ".forge" / "store" / "manifests" / name[:2] / f"{name}.json").unlink()
    done = run_forge(copy_of_applied, config_home, "apply")
    assert "tokenize/small: started" in done.stderr
    assert "train/small: not needed, its inputs are the same" in done.stderr


def test_killed_with_its_step_it_goes_on_from_the_checkpoint(copy_of_applied: Path, config_home: Path) -> None:
    (copy_of_applied / "models" / "model.yaml").write_text(MODEL.replace("tokens: 40k", "tokens: 400k"))
    commit_all(copy_of_applied)
    first = start_apply(copy_of_applied, config_home)
    wait_for(lambda: training_under_way(copy_of_applied))
    first.send_signal(signal.SIGKILL)
    for process in step_processes(copy_of_applied):
        process.kill()
    first.wait()
    done = run_forge(copy_of_applied, config_home, "apply")
    assert "curate/small: started" not in done.stderr
    record = snapshot_of(copy_of_applied).latest("train/small")
    assert record is not None
    assert (record.attempt, int(record.metrics["resumed_from_step"]) > 0) == (2, True)


def test_a_step_that_outlived_its_parent_is_awaited_and_never_doubled(copy_of_applied: Path, config_home: Path) -> None:
    (copy_of_applied / "models" / "model.yaml").write_text(MODEL.replace("tokens: 40k", "tokens: 200k"))
    commit_all(copy_of_applied)
    first = start_apply(copy_of_applied, config_home)
    wait_for(lambda: training_under_way(copy_of_applied))
    first.send_signal(signal.SIGKILL)
    first.wait()
    (orphan,) = step_processes(copy_of_applied)
    done = run_forge(copy_of_applied, config_home, "apply")
    assert "train/small: found at work, awaited" in done.stderr
    assert not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE
    record = snapshot_of(copy_of_applied).latest("train/small")
    assert record is not None
    assert record.attempt == 1


def test_an_interrupt_ends_the_step_and_the_next_apply_resumes_it(copy_of_applied: Path, config_home: Path) -> None:
    (copy_of_applied / "models" / "model.yaml").write_text(MODEL.replace("tokens: 40k", "tokens: 400k"))
    commit_all(copy_of_applied)
    first = start_apply(copy_of_applied, config_home)
    wait_for(lambda: training_under_way(copy_of_applied))
    first.send_signal(signal.SIGTERM)
    _, said = first.communicate(timeout=60)
    assert first.returncode == 130, said
    assert b"goes on where it stopped" in said
    assert step_processes(copy_of_applied) == []
    run_forge(copy_of_applied, config_home, "apply")
    record = snapshot_of(copy_of_applied).latest("train/small")
    assert record is not None
    assert int(record.metrics["resumed_from_step"]) > 0


def test_two_at_once_the_second_names_the_first_or_waits(copy_of_applied: Path, config_home: Path) -> None:
    (copy_of_applied / "models" / "model.yaml").write_text(MODEL.replace("seed: 5", "seed: 7"))
    commit_all(copy_of_applied)
    first = start_apply(copy_of_applied, config_home)
    wait_for(lambda: step_processes(copy_of_applied))
    second = run_forge(copy_of_applied, config_home, "apply", code=4)
    assert f"another `forge apply` is at work here: process {first.pid} on " in second.stderr
    third = run_forge(copy_of_applied, config_home, "apply", "--wait", "120")
    assert first.wait(60) == 0
    assert "7 in sync" in third.stdout


@pytest.mark.parametrize(
    ("corpus", "said"),
    [
        (b"", "the corpus is empty"),
        (gzip.compress(b""), "the corpus is empty"),
        (gzip.compress(b'{"id": "a", "text": "too short"}\n'), "gopher_quality"),
        (gzip.compress(b'{"id": "a", "text": "x"}\n' * 500)[:-20], "00000.jsonl.gz"),
        (gzip.compress(b"not json\n"), "00000.jsonl.gz, line 1"),
    ],
    ids=["no bytes", "no documents", "all filtered", "truncated", "not JSON"],
)
def test_a_corpus_that_cannot_be_used_fails_by_name(repository: Path, config_home: Path, corpus: bytes, said: str) -> None:
    (repository / CORPUS).write_bytes(corpus)
    commit_all(repository)
    done = run_forge(repository, config_home, "apply", code=1)
    assert "curate/small failed" in done.stderr
    assert said in done.stderr
    assert "source-0/00000.jsonl.gz is corpus/part.jsonl.gz" in done.stderr
    assert "Traceback" not in done.stderr
    snapshot = snapshot_of(repository)
    assert snapshot.latest("curate/small") is None
    (attempt,) = snapshot.attempts("curate/small")
    assert attempt.cause == "input"
    again = run_forge(repository, config_home, "plan").stdout
    assert "+ run         curate/small" in again


def test_a_full_disk_is_named_and_records_nothing(repository: Path, config_home: Path, tmp_path: Path) -> None:
    """The working folder lies on a file system of one megabyte."""
    work = repository / ".forge" / "work"
    work.mkdir(parents=True)
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", str(work)], check=False, capture_output=True
    ).returncode:
        pytest.skip("mounting needs privileges that this machine does not give")
    try:
        done = run_forge(repository, config_home, "apply", code=1)
        assert "No space left on device" in done.stderr
        assert "Traceback" not in done.stderr
        assert snapshot_of(repository).latest("tokenizer/small") is None
    finally:
        subprocess.run(["umount", str(work)], check=True)
    run_forge(repository, config_home, "apply", "--target", "Tokenizer/small")


def test_without_keys_nothing_is_started(repository: Path, tmp_path: Path) -> None:
    done = run_forge(repository, tmp_path / "empty", "apply", code=4)
    assert "no trust root is pinned" in done.stderr
    assert "forge keys init" in done.stderr
    assert not (repository / ".forge" / "work").exists()


def test_the_working_tree_is_never_applied(repository: Path, config_home: Path) -> None:
    (repository / "models" / "model.yaml").write_text("broken")
    assert "commit" in run_forge(repository, config_home, "plan").stdout
    run_forge(repository, config_home, "plan", "--worktree", code=2)


def test_events_carry_what_the_display_shows(applied: Path) -> None:
    key = snapshot_of(applied).latest("train/small").key.removeprefix("sha256:")  # type: ignore[union-attr]
    (events,) = (applied / ".forge" / "work" / key).glob("*/events.jsonl")
    last = [json.loads(line) for line in events.read_text().splitlines() if '"tokens_per_second"' in line][-1]
    assert {"time", "step", "tokens", "loss", "tokens_per_second", "fraction", "learning_rate"} <= set(last)
