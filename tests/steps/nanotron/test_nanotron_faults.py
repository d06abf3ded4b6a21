"""What goes wrong on the machine, for the nanotron backend: said as the torch backend says it, and the run goes on."""

from collections.abc import Callable
from typing import Any

import pytest
from tests.steps.nanotron.conftest import SETTINGS, TRAINING, NanotronAttempt
from tests.steps.train.conftest import fill_disk

from forge.contract.messages import FailureCause
from forge.errors import StepError
from forge.steps.nanotron.loader import load, machine_for
from forge.steps.process import _cause_of
from forge.steps.train.checkpoint import checkpoint_name


def test_a_full_disk_keeps_the_checkpoint_before_and_the_run_goes_on_from_it(
    alone: NanotronAttempt, new_attempt: Callable[..., NanotronAttempt], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = new_attempt(training=TRAINING, settings=SETTINGS)
    fill_disk(monkeypatch, times=2)  # of step 5, of step 10
    with pytest.raises(StepError, match=r"Model/tiny: the checkpoint of step 10 cannot be written to .*No space left") as told:
        first.run()
    assert _cause_of(told.value) is FailureCause.RESOURCE
    assert [path.name for path in first.checkpoints.iterdir()] == [checkpoint_name(5, 1)]
    monkeypatch.undo()
    second = new_attempt(number=2, training=TRAINING, settings=SETTINGS)
    assert second.run()["resumed_from_step"] == 5
    assert second.weights_digest() == alone.weights_digest()


def test_out_of_memory_in_a_step_is_one_sentence_and_a_matter_of_resources(
    new_attempt: Callable[..., NanotronAttempt], monkeypatch: pytest.MonkeyPatch
) -> None:
    load(machine_for("cpu", "float32"))
    from forge.steps.nanotron import loop

    def refuse(*_given: Any) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:1] . DefaultCPUAllocator: can't allocate memory: you tried 9 bytes")

    monkeypatch.setattr(loop, "training_batches", refuse)
    with pytest.raises(StepError, match=r"Model/tiny: out of memory: .*nanotron\.tensor_parallel") as told:
        new_attempt(training=TRAINING).run()
    assert _cause_of(told.value) is FailureCause.RESOURCE
