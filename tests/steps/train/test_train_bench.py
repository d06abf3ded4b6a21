"""The bench for CUDA devices, as far as a CPU can run it: its inputs train, its figures are those of the events."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.bench import train_gpu
from tests.bench.train_gpu import Scale, figures_of, measure
from tests.steps.train.conftest import ARCHITECTURE

ROOT = Path(__file__).resolve().parents[3]
SCALE = Scale(ARCHITECTURE, 512, 32, 8, 4, 400, 150, accelerator="cpu", compile=False)


def test_its_run_trains_and_is_measured(tmp_path: Path) -> None:
    found = measure(SCALE, tmp_path)
    assert found["tokens_per_second"] > 0
    assert 0 < found["mfu"] < 1
    assert 0 <= found["stall"] < 1
    assert found["memory_gib"] > 0.05


def test_the_rate_leaves_the_stall_out_and_the_formula_counts_every_flop() -> None:
    events = [
        {"time": 10.0, "step": 5, "tokens": 5_000, "learning_rate": 1.0, "memory_bytes": 1 << 30},
        {"time": 11.0, "message": "checkpoint x", "checkpoint_stall_seconds": 0.75},
        {"time": 12.0, "message": "checkpoint y", "checkpoint_stall_seconds": 0.25},
        {"time": 14.0, "step": 8, "tokens": 8_000, "learning_rate": 1.0, "memory_bytes": 2 << 30},
    ]
    found = figures_of(SCALE, events, {"train_loss": 1.0})
    assert found["tokens_per_second"] == pytest.approx(1000.0)
    assert (found["stall"], found["stalled_seconds"], found["memory_gib"]) == (0.25, 0.5, 2.0)
    flops = 6 * (512 * 32 + 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64 + 64) + 32) + 12 * 2 * 32 * 32
    assert found["mfu"] == pytest.approx(1000.0 * flops / 989e12)


def test_a_run_with_fewer_than_two_checkpoints_in_its_steps_measures_no_stall() -> None:
    steps = [{"time": time, "step": time, "tokens": time, "learning_rate": 1.0, "memory_bytes": 1} for time in (5, 60)]
    outside = [{"time": time, "message": "checkpoint", "checkpoint_stall_seconds": 1.0} for time in (4, 30, 61)]
    with pytest.raises(RuntimeError, match=r"1 checkpoints were written between steps 5 and 60, .* 2 or more: .*--steps"):
        figures_of(SCALE, steps + outside, {"train_loss": 1.0})


def test_what_it_trains_by_default_holds_two_checkpoints_and_time_to_write_them() -> None:
    every = train_gpu.checkpoint_steps_of(train_gpu.STEPS_OF_A_RUN)
    due = range(every, train_gpu.STEPS_OF_A_RUN, every)
    in_place_by_the_next = [step for step in due if step > train_gpu.WARM_STEPS and step + every < train_gpu.STEPS_OF_A_RUN]
    assert len(in_place_by_the_next) >= train_gpu.LEAST_CHECKPOINTS


def test_an_interpreter_without_the_packages_is_told_in_one_line_what_it_lacks() -> None:
    """``-S``: no site-packages."""
    done = subprocess.run(
        [sys.executable, "-S", "tests/bench/train_gpu.py"],
        cwd=ROOT,
        env={"PYTHONPATH": "engine:."},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "lacks numpy, psutil, pydantic, rfc8785, safetensors, tokenizers, torch: install them there" in done.stderr


def test_make_runs_it_with_the_interpreter_that_is_named_and_sets_nothing_up() -> None:
    command = ["make", "--dry-run", "--no-print-directory", "bench-gpu", "PYTHON=/opt/cuda/bin/python"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert shown == "PYTHONPATH=engine:. /opt/cuda/bin/python tests/bench/train_gpu.py\n"


def test_without_a_device_it_refuses_in_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert train_gpu.main([]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "finds no CUDA device here" in said.err
