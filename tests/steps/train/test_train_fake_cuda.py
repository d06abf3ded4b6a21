"""Whole trainings on a CUDA device that is not there (``fake_cuda``): no operator is given tensors of two devices."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.steps.fake_device import SPOILT, ask, pass_over
from tests.steps.train.conftest import Attempt

Make = Callable[..., Attempt]
QWEN = {"family": "qwen3", "head_dim": 12}
EXPERTS = {"family": "mixtral", "experts": {"num_local_experts": 4, "num_experts_per_tok": 2}}


@pytest.fixture
def trained(new_attempt: Make, missing_device: Path) -> Callable[..., list[dict[str, Any]]]:
    """Train once for each mapping of an attempt's fields; what each gave."""

    def train(*cases: dict[str, Any]) -> list[dict[str, Any]]:
        requests = []
        for number, case in enumerate(cases):
            settings = dict(case.get("settings", {}))
            spoilt = settings.pop(SPOILT, False)
            fields = {
                "architecture": {"num_hidden_layers": 1, "tie_word_embeddings": False, **case.get("architecture", {})},
                "training": {"tokens": 256, "schedule": {"name": "cosine", "warmup_tokens": 128}, **case.get("training", {})},
            }
            attempt = new_attempt(f"run-{number}", settings=settings, processes=case.get("processes", 1), **fields)
            requests.append(ask(attempt, spoilt=spoilt))
        return pass_over("tests.steps.train.fake_cuda", missing_device, *requests)

    return train


def test_no_training_mixes_devices_and_more_micro_batches_are_no_more_waits(
    trained: Callable[..., list[dict[str, Any]]],
) -> None:
    in_bfloat16 = {"precision": "bfloat16"}
    apart = {**in_bfloat16, "intra_document_masking": True}
    found = trained(
        {"training": {**in_bfloat16, "micro_batch_sequences": 8}},
        {"training": {**in_bfloat16, "micro_batch_sequences": 2}, "settings": {"activation_checkpointing": True}},
        {"training": {"intra_document_masking": True}},
        {"training": apart, "architecture": EXPERTS},
        {"training": in_bfloat16, "processes": 2},
        {"training": in_bfloat16, "architecture": QWEN, "processes": 2, "settings": {"parallelism": {"tensor": 2}}},
        {"training": apart, "architecture": EXPERTS, "processes": 2, "settings": {"parallelism": {"data": "fsdp2"}}},
    )
    assert [each["error"] for each in found if "error" in each] == []
    assert len(found) == 7
    assert found[0]["waits"] == found[1]["waits"] > 0


def test_a_tensor_that_is_left_on_the_cpu_is_found(trained: Callable[..., list[dict[str, Any]]]) -> None:
    (found,) = trained({"training": {"intra_document_masking": True}, "settings": {SPOILT: True}})
    assert "device" in found.get("error", "nothing was found")
