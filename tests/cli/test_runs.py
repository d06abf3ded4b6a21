"""runs, logs and plot, as a user calls them on a repository that was applied."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from tests.conftest import run_forge

from forge.contract.messages import EVENTS_FILE, FAILURE_FILE, Event, FailureCause, StepFailure


def runs_in(folder: Path, config_home: Path, *options: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(run_forge(folder, config_home, "runs", "--format", "json", *options).stdout)[
        "runs"
    ]
    return found


def work_of(folder: Path, config_home: Path, step: str = "train/small") -> Path:
    return Path(str(runs_in(folder, config_home, "--step", step)[0]["folder"]))


def test_every_step_that_ran_is_listed_newest_first(applied: Path, config_home: Path) -> None:
    found = runs_in(applied, config_home)
    assert {str(run["step"]).split("/")[0] for run in found} == {
        *("curate", "tokenizer", "tokenize", "train", "evaluate", "gate", "release")
    }
    assert {run["state"] for run in found} == {"finished"}
    started = [str(run["started"]) for run in found]
    assert started == sorted(started, reverse=True)
    assert [run["step"] for run in runs_in(applied, config_home, "--step", "train")] == ["train/small"]
    assert len(runs_in(applied, config_home, "-n", "2")) == 2
    text = run_forge(applied, config_home, "runs").stdout
    assert "train/small" in text
    assert text.splitlines()[0].split() == ["RUN", "STEP", "STATE", "STARTED", "(UTC)", "TOOK", "LAST"]


def test_what_only_the_ledger_knows_is_listed_too(copy_of_applied: Path, config_home: Path) -> None:
    before = runs_in(copy_of_applied, config_home)
    subprocess.run(["rm", "-rf", ".forge/work"], cwd=copy_of_applied, check=True)
    after = runs_in(copy_of_applied, config_home)
    assert [(run["id"], run["step"], run["state"]) for run in after] == [
        (run["id"], run["step"], run["state"]) for run in before
    ]
    assert {run["folder"] for run in after} == {None}
    refused = run_forge(copy_of_applied, config_home, "logs", "train/small", code=2).stderr
    assert "has no folder here" in refused


def test_a_log_is_found_by_step_by_key_and_by_attempt(applied: Path, config_home: Path) -> None:
    run = runs_in(applied, config_home, "--step", "train")[0]
    key = str(run["key"]).removeprefix("sha256:")
    names = ("train/small", key[:8], key, f"sha256:{key}", str(run["id"]))
    printed = {run_forge(applied, config_home, "logs", name).stdout for name in names}
    assert len(printed) == 1
    assert "loss" in printed.pop()
    events = run_forge(applied, config_home, "logs", "train/small", "--format", "json").stdout.splitlines()
    trained = [event for event in map(Event.model_validate_json, events) if event.learning_rate is not None]
    assert trained[-1].fraction == 1.0
    assert all((event.flops_per_second or 0) > 0 and (event.memory_bytes or 0) > 2**20 for event in trained)


def test_a_name_that_means_nothing_is_refused_with_a_near_one(applied: Path, config_home: Path) -> None:
    assert "did you mean `train/small`?" in run_forge(applied, config_home, "logs", "train/smal", code=2).stderr
    assert "no run" in run_forge(applied, config_home, "logs", f"{runs_in(applied, config_home)[0]['id']}9", code=2).stderr


def test_a_log_is_followed_to_the_end_of_its_run(copy_of_applied: Path, config_home: Path) -> None:
    """The folder of an attempt is brought back to life: its process is one of ours, and its events go on."""
    old = work_of(copy_of_applied, config_home)
    folder = old.parent / "000007"
    folder.mkdir()
    (folder / "request.json").write_bytes((old / "request.json").read_bytes().replace(b'"attempt": 1', b'"attempt": 7'))
    (folder / "step.log").write_text("a warning \x1b[31m\n")
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        known = {"schema_version": 1, "pid": process.pid, "started": psutil.Process(process.pid).create_time()}
        (folder / "process.json").write_text(json.dumps(known))
        assert runs_in(copy_of_applied, config_home, "--step", "train")[0]["state"] == "running"

        def live() -> None:
            for step in range(1, 4):
                time.sleep(0.7)
                with (folder / EVENTS_FILE).open("a") as file:
                    file.write(Event(time=time.time(), step=step, tokens=step * 8, loss=9.0 - step).model_dump_json() + "\n")
            failure = StepFailure(
                key=f"sha256:{old.parent.name}", attempt=7, cause=FailureCause.INPUT, message="the disk is full"
            )
            (folder / FAILURE_FILE).write_text(failure.model_dump_json())
            process.kill()

        thread = threading.Thread(target=live)
        thread.start()
        done = run_forge(copy_of_applied, config_home, "logs", "-f", "train/small", code=1)
        thread.join()
    lines = done.stdout.splitlines()
    assert lines[0] == "| a warning \\x1b[31m"
    assert [line.split("loss ")[1] for line in lines[1:]] == ["8.000", "7.000", "6.000"]
    assert "failed: the disk is full" in done.stderr


def test_a_run_that_was_killed_is_interrupted(copy_of_applied: Path, config_home: Path) -> None:
    old = work_of(copy_of_applied, config_home)
    folder = old.parent / "000002"
    folder.mkdir()
    (folder / "request.json").write_bytes((old / "request.json").read_bytes().replace(b'"attempt": 1', b'"attempt": 2'))
    (folder / EVENTS_FILE).write_text(Event(time=time.time(), message="began").model_dump_json() + "\n" + '{"torn')
    states = {run["attempt"]: run["state"] for run in runs_in(copy_of_applied, config_home, "--step", "train")}
    assert states == {1: "finished", 2: "interrupted"}


def test_curves_are_drawn_in_the_terminal_and_as_a_png(applied: Path, config_home: Path, tmp_path: Path) -> None:
    drawn = run_forge(applied, config_home, "plot", "train/small").stdout
    assert "training loss (nats per token)" in drawn
    assert "\x1b" not in drawn
    picture = tmp_path / "small.png"
    run_forge(applied, config_home, "plot", "train/small", "--out", str(picture))
    assert picture.read_bytes().startswith(b"\x89PNG\r\n")
    assert "no .png file" in run_forge(applied, config_home, "plot", "train/small", "--out", "a.svg", code=2).stderr
    assert "only trainings do" in run_forge(applied, config_home, "plot", "curate/small", code=2).stderr
    assert "did you mean `loss`" in run_forge(applied, config_home, "plot", "train/small", "--metric", "los", code=2).stderr


def test_mfu_is_drawn_against_the_peak_that_forge_toml_names(copy_of_applied: Path, config_home: Path) -> None:
    refused = run_forge(copy_of_applied, config_home, "plot", "train/small", "--metric", "mfu", code=2).stderr
    assert (
        "below [accelerators.NAME] of forge.toml, where NAME is what they ran on, add `peak_flops_per_second = ..`" in refused
    )
    settings = copy_of_applied / "forge.toml"
    section = "[accelerators.cpu]\n"
    assert section in settings.read_text()
    settings.write_text(settings.read_text().replace(section, section + "peak_flops_per_second = 2e11\n"))
    subprocess.run(["git", "commit", "-qam", "the peak"], cwd=copy_of_applied, check=True, env={**os.environ})
    drawn = run_forge(copy_of_applied, config_home, "plot", "train/small", "--metric", "mfu").stdout
    assert "6*N + 12*L*H*S" in drawn


def test_tensorboard_files_hold_what_the_events_say(applied: Path, config_home: Path, tmp_path: Path) -> None:
    from tensorboardX.proto.event_pb2 import Event as Written

    run_forge(applied, config_home, "plot", "train/small", "--tensorboard", str(tmp_path / "board"))
    (file,) = (tmp_path / "board").rglob("events.out.tfevents.*")
    data, position = file.read_bytes(), 0
    losses: dict[int, float] = {}
    while position < len(data):  # TFRecord: length, its checksum, the record, its checksum
        length = int.from_bytes(data[position : position + 8], "little")
        written = Written.FromString(data[position + 12 : position + 12 + length])
        losses.update((written.step, value.simple_value) for value in written.summary.value if value.tag == "loss")
        position += length + 16
    events = run_forge(applied, config_home, "logs", "train/small", "--format", "json").stdout.splitlines()
    told = [event for event in map(Event.model_validate_json, events) if event.learning_rate is not None]
    assert set(losses) == {event.tokens for event in told}
    assert losses[told[-1].tokens or 0] == pytest.approx(told[-1].loss, rel=1e-6)
