"""Trainings whose values a sweep chose: as with the values written; and a trial that diverges has a result."""

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.steps.train.conftest import TRAINING, Attempt, let_choose

from forge.contract.verdict import DIVERGED, DIVERGED_FILE
from forge.errors import StepError
from forge.steps.train.checkpoint import load_checkpoint

Make = Callable[..., Attempt]
DIVERGING = {"training.optimizer.lr": 1e37}


def diverging(make: Make, name: str = "run", **fields: Any) -> Attempt:
    """An attempt whose chosen rate no training survives."""
    attempt = make(name, training={"optimizer": {"lr": 1e-2, "gradient_clip_norm": None}}, **fields)
    let_choose(attempt, DIVERGING)
    return attempt


def test_chosen_values_train_what_written_ones_do(new_attempt: Make) -> None:
    values = {"training.optimizer.lr": 3e-3, "training.optimizer.weight_decay": 0.0, "training.batch_tokens": 512}
    written = new_attempt("written", training={"optimizer": {"lr": 3e-3, "weight_decay": 0.0}, "batch_tokens": 512})
    chosen = new_attempt("chosen")
    let_choose(chosen, values)
    assert chosen.run()["validation_loss"] == written.run()["validation_loss"]
    assert chosen.weights_digest() == written.weights_digest()


def test_values_of_other_fields_than_are_searched_are_refused(new_attempt: Make) -> None:
    attempt = new_attempt()
    let_choose(attempt, {"training.optimizer.lr": 3e-3}, ["training.optimizer.eps", "training.optimizer.lr"])
    with pytest.raises(StepError, match=r"its sweep chooses training.optimizer.eps, .*lr, and gave training.optimizer.lr"):
        attempt.run()


def test_chosen_values_that_are_none_of_a_training_are_refused(new_attempt: Make) -> None:
    attempt = new_attempt()
    let_choose(attempt, {"training.batch_tokens": 100})
    with pytest.raises(StepError, match=r"batch_tokens must be a multiple of sequence_length"):
        attempt.run()


def test_a_trial_that_diverges_ends_with_the_weights_before_that_step(new_attempt: Make) -> None:
    attempt = diverging(new_attempt, settings={"checkpoint_every_tokens": 256})
    metrics = attempt.run()
    ended = metrics["diverged_at_step"]
    assert metrics["optimizer_steps"] == ended - 1 < 12
    assert metrics["tokens"] == (ended - 1) * TRAINING["batch_tokens"]
    assert all(math.isfinite(value) for value in metrics.values() if isinstance(value, float))
    weights = load_file(attempt.weights / "model.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())
    newest = load_checkpoint(max(attempt.checkpoints.iterdir()))
    assert newest.state.step == ended - 1
    name = "model.layers.0.mlp.down_proj.weight"
    torch.testing.assert_close(newest.groups["model"][name], weights[name])
    told = [event["message"] for event in attempt.events() if "this trial has diverged" in event.get("message", "")]
    assert len(told) == 1
    assert f"at step {ended} of 12 the loss is" in told[0]


def test_weights_that_diverged_say_so_and_are_no_base(new_attempt: Make) -> None:
    attempt = diverging(new_attempt)
    ended = attempt.run()["diverged_at_step"]
    assert json.loads((attempt.weights / DIVERGED_FILE).read_text()) == {DIVERGED: ended}
    with pytest.raises(StepError, match=r"its base diverged in training, before that came to its end"):
        new_attempt("next", base=attempt.weights).run()
    whole = new_attempt("whole")
    whole.run()
    assert not (whole.weights / DIVERGED_FILE).exists()


def test_how_often_it_is_validated_does_not_change_what_a_diverging_trial_leaves(new_attempt: Make) -> None:
    """Neither do checkpoints, nor where a loss counts as risen: what does not enter the key shapes no product."""
    one = diverging(new_attempt, "one")
    other = diverging(
        new_attempt,
        "other",
        settings={"checkpoint_every_tokens": 256, "validate_every_tokens": 256, "max_loss_rise": 0.001},
    )
    one.run()
    other.run()
    assert one.weights_digest() == other.weights_digest()


def test_a_loss_that_rises_is_no_end_of_a_trial(new_attempt: Make) -> None:
    schedule = {"name": "wsd", "warmup_tokens": 256 * 380, "decay_tokens": 0}
    training = {"tokens": 256 * 400, "optimizer": {"lr": 1e-2}, "schedule": schedule}
    attempt = new_attempt(training=training)
    let_choose(attempt, {"training.optimizer.lr": 3.0})
    assert attempt.run()["optimizer_steps"] == 400
