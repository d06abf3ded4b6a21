"""Whole tunings on a CUDA device that is not there (``fake_cuda``): no operator is given tensors of two devices."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.steps.finetune.conftest import LORA, Tuning
from tests.steps.finetune.fake_cuda import SPOILT

from forge.contract.messages import Resources

TWO_STEPS = {"precision": "bfloat16", "tokens": 64 * 4 * 2, "schedule": {"name": "wsd", "warmup_tokens": 0, "decay_tokens": 0}}
WRITTEN = {"model": ["cuda"], "optimizer": ["cuda"], "rng": ["cpu"], "weights": ["cuda"]}
"""What is copied from the device is copied where it is written."""

Run = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def tuned(missing_device: Path) -> Run:
    """Tune once for each attempt; what each gave."""

    def run(*attempts: Tuning, **settings: bool) -> list[dict[str, Any]]:
        paths = []
        for attempt in attempts:
            request = attempt.request()
            resources = Resources(threads=1, processes=1, accelerator="cuda")
            changed = {"resources": resources, "settings": {**request.settings, **settings}}
            paths.append(attempt.folder / "request.json")
            paths[-1].write_text(request.model_copy(update=changed).model_dump_json())
        command = [sys.executable, "-m", "tests.steps.finetune.fake_cuda", str(missing_device), *map(str, paths)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]

    return run


def test_no_tuning_mixes_devices(
    new_tuning: Callable[..., Tuning], new_preferring: Callable[..., Tuning], base_of_experts: Path, tuned: Run
) -> None:
    found = tuned(
        new_tuning("sft", training=TWO_STEPS),
        new_tuning("lora", training=TWO_STEPS, adapter=LORA),
        new_tuning("experts", training=TWO_STEPS, adapter=LORA, base=base_of_experts),
        new_preferring("dpo", training=TWO_STEPS),
        new_preferring("dpo-lora", training=TWO_STEPS, adapter=LORA),
    )
    assert found == [WRITTEN, WRITTEN, WRITTEN, *[{**WRITTEN, "reference": ["cpu"]}] * 2]


def test_a_batch_that_is_left_on_the_cpu_is_found(new_tuning: Callable[..., Tuning], tuned: Run) -> None:
    (found,) = tuned(new_tuning(training=TWO_STEPS), **{SPOILT: True})
    assert "device" in found.get("error", "nothing was found")
