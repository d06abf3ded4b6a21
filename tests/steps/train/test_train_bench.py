"""The bench for CUDA devices, as far as a CPU can run it: its inputs train, its figures are those of the events."""

from pathlib import Path

import pytest
import torch
from tests.bench import train_gpu
from tests.bench.train_gpu import Scale, figures_of, measure
from tests.steps.train.conftest import ARCHITECTURE

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
        {"time": 11.0, "message": "checkpoint x", "checkpoint_stall_seconds": 1.0},
        {"time": 14.0, "step": 8, "tokens": 8_000, "learning_rate": 1.0, "memory_bytes": 2 << 30},
    ]
    found = figures_of(SCALE, events, {"train_loss": 1.0})
    assert found["tokens_per_second"] == pytest.approx(1000.0)
    assert (found["stall"], found["memory_gib"]) == (0.25, 2.0)
    flops = 6 * (512 * 32 + 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64 + 64) + 32) + 12 * 2 * 32 * 32
    assert found["mfu"] == pytest.approx(1000.0 * flops / 989e12)


def test_without_a_device_it_refuses_in_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert train_gpu.main([]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "finds no CUDA device here" in said.err
