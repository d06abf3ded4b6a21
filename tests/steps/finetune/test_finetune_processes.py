"""Fine-tuning over two processes: the numbers of one, exact when interrupted, and a word of what goes wrong."""

import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.steps.finetune.conftest import LORA, Tuning
from tests.steps.train.conftest import let_choose

from forge.errors import StepError
from forge.steps.train.checkpoint import load_checkpoint

Make = Callable[..., Tuning]
STILL_LORA = {"lora": {**LORA["lora"], "dropout": 0.0}}  # each rank draws a dropout of its own
TOLERANCE = 1e-4
"""Two ranks add the same gradients in another order than one; relative difference of losses after 12 steps."""


def finished(attempt: Tuning) -> dict[str, Any]:
    process = attempt.start()
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    return dict(attempt.result()["metrics"])


def steps_of(attempt: Tuning) -> list[dict[str, Any]]:
    return [event for event in attempt.events() if "learning_rate" in event]


@pytest.mark.parametrize(("objective", "adapter"), [("sft", None), ("dpo", STILL_LORA)])
def test_two_ranks_take_the_steps_of_one(new_tuning: Make, new_preferring: Make, objective: str, adapter: Any) -> None:
    make = {"sft": new_tuning, "dpo": new_preferring}[objective]
    one, two = make("one", adapter=adapter), make("two", adapter=adapter, processes=2)
    alone, together = one.run(), finished(two)
    for name in ("train_loss", "validation_loss", "base_validation_loss"):
        assert together[name] == pytest.approx(alone[name], rel=TOLERANCE)
    for name in ("tokens", "answer_tokens", "optimizer_steps", "flops"):
        assert together[name] == alone[name]
    assert alone["validation_loss"] != alone["base_validation_loss"]
    steps = [event["step"] for event in steps_of(two)]
    assert steps == sorted(set(steps)), "both ranks wrote events"
    mine, theirs = (load_file(each.weights / "model.safetensors") for each in (one, two))
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        torch.testing.assert_close(theirs[name], tensor, rtol=1e-3, atol=1e-4)


def test_two_ranks_that_are_stopped_end_with_the_same_bytes(new_tuning: Make) -> None:
    """An adapter's dropout is drawn by each rank, so each has random numbers that have to go on."""
    fields: dict[str, Any] = {"adapter": LORA, "processes": 2, "training": {"tokens": 64 * 4 * 60}}
    whole = new_tuning("whole", **fields)
    expected = finished(whole)
    first = new_tuning("cut", **fields)
    process = first.start()
    deadline = time.monotonic() + 120
    while not steps_of(first):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert first.failure()["cause"] == "stopped"
    assert "stopped by SIGTERM after step" in first.failure()["message"]
    second = new_tuning("cut", number=2, **fields)
    metrics = finished(second)
    assert 0 < metrics["resumed_from_step"] < 60
    assert metrics["train_loss"] == expected["train_loss"]
    assert second.weights_digest() == whole.weights_digest()


def test_in_another_topology_it_goes_on_and_says_so(new_tuning: Make) -> None:
    fields: dict[str, Any] = {"training": {"tokens": 64 * 4 * 12}, "settings": {"checkpoint_every_tokens": 64 * 4 * 5}}
    one = new_tuning(**fields)
    one.run()
    newest = max(one.checkpoints.iterdir())
    (newest / "model.safetensors").write_bytes(b"damaged")
    two = new_tuning(number=2, processes=2, **fields)
    assert finished(two)["resumed_from_step"] == 10
    assert any(
        "it was made by 1 process, this run has 2 processes (2 x ddp): it goes on, but not bit for bit"
        in event.get("message", "")
        for event in two.events()
    )


def test_a_rank_that_fails_is_the_steps_own_failure(new_tuning: Make) -> None:
    attempt = new_tuning(processes=2, training={"optimizer": {"lr": 1e37, "gradient_clip_norm": None}})
    process = attempt.start()
    process.communicate(timeout=240)
    assert process.returncode == 1
    assert "expected finite numbers" in attempt.failure()["message"]
    assert attempt.failure()["cause"] == "input"


def test_a_trial_that_diverges_ends_on_every_rank_at_once(new_tuning: Make) -> None:
    attempt = new_tuning(processes=2, training={"optimizer": {"lr": 1e-3, "gradient_clip_norm": None}})
    let_choose(attempt, {"training.optimizer.lr": 1e37})
    metrics = finished(attempt)
    assert metrics["optimizer_steps"] == metrics["diverged_at_step"] - 1 < 12
    tensors = load_file(attempt.weights / "model.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values())


def test_a_batch_that_cannot_be_dealt_out_is_refused(new_preferring: Make) -> None:
    with pytest.raises(StepError, match=r"a batch of 4 sequences over 4 processes \(4 x ddp\) cannot be read in pairs"):
        from forge.steps.finetune import train
        from forge.steps.run import StepRun
        from forge.steps.train.job import read_job

        attempt = new_preferring(processes=4)
        train(StepRun(attempt.request(), attempt.folder), read_job(attempt.request()))


@pytest.mark.parametrize("objective", ["sft", "dpo"])
def test_its_events_have_operations_and_memory_as_a_pretraining_has(
    new_tuning: Make, new_preferring: Make, objective: str
) -> None:
    attempt = {"sft": new_tuning, "dpo": new_preferring}[objective]()
    metrics = attempt.run()
    per_token = metrics["flops_per_second"] / metrics["tokens_per_second"]
    for event in steps_of(attempt):
        assert event["flops_per_second"] == pytest.approx(per_token * event["tokens_per_second"])
        assert event["memory_bytes"] > 2**20


def test_a_loss_that_rises_far_above_what_it_was_ends_it(new_tuning: Make) -> None:
    """At a rate that is far too high; the checkpoint before is kept, and with another limit the run goes on from it."""
    training = {
        "tokens": 64 * 4 * 40,
        "optimizer": {"lr": 3.0, "gradient_clip_norm": None},
        "schedule": {"name": "wsd", "warmup_tokens": 64 * 4 * 30, "decay_tokens": 0},
    }
    settings = {"checkpoint_every_tokens": 64 * 4 * 2}
    told = []
    for number in (1, 2):
        with pytest.raises(StepError, match=r"the loss has risen: .* The checkpoint of step \d+ \(loss .*\) is kept") as error:
            new_tuning(number=number, training=training, settings=settings).run()
        told.append(str(error.value))
        (kept,) = new_tuning().checkpoints.iterdir()
    assert told[0] == told[1]
    state = load_checkpoint(kept).state
    assert f"The checkpoint of step {state.step} (loss {state.train_loss:.4f})" in told[0]
    again = new_tuning(number=3, training=training, settings={**settings, "max_loss_rise": None})
    assert again.run()["resumed_from_step"] == state.step
