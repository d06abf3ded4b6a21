"""Whole tunings on a CUDA device that is not there (``fake_cuda``): no operator is given tensors of two devices."""

from collections.abc import Callable
from pathlib import Path

from tests.steps.fake_device import ask, pass_over
from tests.steps.finetune.conftest import LORA, Tuning

TWO_STEPS = {"precision": "bfloat16", "tokens": 64 * 4 * 2, "schedule": {"name": "wsd", "warmup_tokens": 0, "decay_tokens": 0}}
WRITTEN = {"model": ["cuda"], "optimizer": ["cuda"], "rng": ["cpu"], "weights": ["cuda"]}
"""What is copied from the device is copied where it is written."""

MODULE = "tests.steps.finetune.fake_cuda"


def test_no_tuning_mixes_devices(
    new_tuning: Callable[..., Tuning], new_preferring: Callable[..., Tuning], base_of_experts: Path, missing_device: Path
) -> None:
    attempts = (
        new_tuning("sft", training=TWO_STEPS),
        new_tuning("lora", training=TWO_STEPS, adapter=LORA),
        new_tuning("experts", training=TWO_STEPS, adapter=LORA, base=base_of_experts),
        new_preferring("dpo", training=TWO_STEPS),
        new_preferring("dpo-lora", training=TWO_STEPS, adapter=LORA),
    )
    found = pass_over(MODULE, missing_device, *map(ask, attempts))
    assert found == [WRITTEN, WRITTEN, WRITTEN, *[{**WRITTEN, "reference": ["cpu"]}] * 2]


def test_a_batch_that_is_left_on_the_cpu_is_found(new_tuning: Callable[..., Tuning], missing_device: Path) -> None:
    (found,) = pass_over(MODULE, missing_device, ask(new_tuning(training=TWO_STEPS), spoilt=True))
    assert "device" in found.get("error", "nothing was found")
