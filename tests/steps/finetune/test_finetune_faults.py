"""What goes wrong on the machine while a model is tuned: said as a training says it, and the run goes on."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.steps.finetune.conftest import LORA, Tuning
from tests.steps.train.conftest import fill_disk

from forge.contract.messages import FailureCause
from forge.errors import StepError
from forge.steps.process import _cause_of
from forge.steps.train.checkpoint import checkpoint_name

EVERY = {"checkpoint_every_tokens": 64 * 4 * 4}


def test_a_full_disk_keeps_the_checkpoint_before_and_the_run_goes_on_from_it(
    new_tuning: Callable[..., Tuning], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = new_tuning("whole", settings=EVERY, adapter=LORA)
    whole.run()
    first = new_tuning(settings=EVERY, adapter=LORA)
    fill_disk(monkeypatch, times=2)  # of step 4, of step 8
    with pytest.raises(StepError, match=r"Model/tiny: the checkpoint of step 8 cannot be written to .*No space left") as told:
        first.run()
    assert _cause_of(told.value) is FailureCause.RESOURCE
    assert [path.name for path in first.checkpoints.iterdir()] == [checkpoint_name(4, 1)]
    monkeypatch.undo()
    second = new_tuning(number=2, settings=EVERY, adapter=LORA)
    assert second.run()["resumed_from_step"] == 4
    assert second.weights_digest() == whole.weights_digest()


@pytest.mark.parametrize("objective", ["sft", "dpo"])
def test_out_of_memory_in_a_step_is_one_sentence_and_a_matter_of_resources(
    new_tuning: Callable[..., Tuning],
    new_preferring: Callable[..., Tuning],
    monkeypatch: pytest.MonkeyPatch,
    objective: str,
) -> None:
    from forge.steps.finetune.trainer import Finetuning

    def refuse(*_given: Any, **_named: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(Finetuning, "on_step_begin", refuse)
    with pytest.raises(StepError, match=r"Model/tiny: out of memory: CUDA .*train an adapter") as told:
        {"sft": new_tuning, "dpo": new_preferring}[objective]().run()
    assert _cause_of(told.value) is FailureCause.RESOURCE
