"""The step as a whole, in this process: learning, repeatability, events, checkpoints, bad numbers, bad requests."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from forge.errors import StepError
from forge.steps.train.checkpoint import checkpoint_name, load_checkpoint

ENTROPY_BOUND = 5.6
"""Nats per token that a model reaches only by learning: the tokens in use alone give log(253) = 5.53 plus their ends."""


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_two_runs_give_the_same_bytes_and_another_seed_gives_others(new_attempt: Callable[..., Any], precision: str) -> None:
    attempts = [
        new_attempt(name, training={"precision": precision, "seed": seed})
        for name, seed in (("first", 7), ("second", 7), ("other", 8))
    ]
    metrics = [attempt.run() for attempt in attempts]
    first, second, other = (attempt.weights_digest() for attempt in attempts)
    assert first == second
    assert first != other
    assert metrics[0]["validation_loss"] == metrics[1]["validation_loss"]


def test_float32_is_no_other_precision_that_the_environment_asks_for(new_attempt: Callable[..., Any]) -> None:
    """As containers ask for TF32 on CUDA, by TORCH_ALLOW_TF32_CUBLAS_OVERRIDE."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        new_attempt(training={"tokens": 256, "schedule": {"name": "cosine", "warmup_tokens": 128}}).run()
        assert torch.get_float32_matmul_precision() == "highest"
    finally:
        torch.set_float32_matmul_precision(before)


def test_how_often_it_validates_and_checkpoints_changes_no_byte(new_attempt: Callable[..., Any]) -> None:
    quiet, busy = (
        new_attempt("quiet"),
        new_attempt("busy", settings={"validate_every_tokens": 256, "checkpoint_every_tokens": 256}),
    )
    assert quiet.run()["train_loss"] == busy.run()["train_loss"]
    assert quiet.weights_digest() == busy.weights_digest()
    assert sum("bits_per_byte" in event for event in busy.events()) == 12
    assert sum("bits_per_byte" in event for event in quiet.events()) == 1


def test_training_learns_and_reports_what_it_did(new_attempt: Callable[..., Any]) -> None:
    attempt = new_attempt(training={"tokens": 256 * 40 - 100, "optimizer": {"lr": 2e-2}})
    metrics = attempt.run()
    assert metrics["validation_loss"] < ENTROPY_BOUND - 2.0
    assert metrics["validation_bits_per_byte"] == pytest.approx(metrics["validation_loss"] / math.log(2) / 3)
    assert (metrics["tokens"], metrics["optimizer_steps"], metrics["resumed_from_step"]) == (256 * 40, 40, 0)
    assert metrics["tokens_per_second"] > 0
    last = [event for event in attempt.events() if "learning_rate" in event][-1]
    assert (last["step"], last["fraction"], last["loss"]) == (40, 1.0, metrics["train_loss"])
    assert last["gradient_norm"] > 0


def test_the_last_two_checkpoints_are_kept_and_know_their_place_in_the_data(new_attempt: Callable[..., Any]) -> None:
    attempt = new_attempt(settings={"checkpoint_every_tokens": 256 * 5})
    attempt.run()
    kept = sorted(attempt.checkpoints.iterdir())
    assert [path.name for path in kept] == [checkpoint_name(10, 1), checkpoint_name(12, 1)]
    state = load_checkpoint(kept[0]).state
    assert (state.step, state.tokens, state.sequences) == (10, 2560, 80)


def test_an_attempt_after_a_damaged_checkpoint_says_so_and_ends_where_the_first_did(
    new_attempt: Callable[..., Any],
) -> None:
    first = new_attempt(settings={"checkpoint_every_tokens": 256 * 5})
    expected = first.run()
    damaged = first.checkpoints / checkpoint_name(12, 1) / "optimizer.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-4])
    second = new_attempt(number=2)
    metrics = second.run()
    assert metrics["resumed_from_step"] == 10
    assert metrics["train_loss"] == expected["train_loss"]
    assert second.weights_digest() == first.weights_digest()
    messages = [event["message"] for event in second.events() if "message" in event]
    assert "is damaged: optimizer.safetensors" in messages[0]
    assert messages[1] == f"resumed from checkpoint {checkpoint_name(10, 1)}"


def test_an_attempt_after_training_ended_only_exports(new_attempt: Callable[..., Any]) -> None:
    expected = new_attempt().run()
    metrics = new_attempt(number=2).run()
    assert metrics["resumed_from_step"] == 12
    assert [metrics[name] for name in ("train_loss", "validation_loss")] == [
        expected[name] for name in ("train_loss", "validation_loss")
    ]
    assert new_attempt(number=2).weights_digest() == new_attempt().weights_digest()


def test_another_key_in_the_same_scratch_is_refused(new_attempt: Callable[..., Any]) -> None:
    new_attempt().run()
    with pytest.raises(StepError, match="belongs to step key"):
        new_attempt(number=2, key="sha256:" + "b" * 64).run()


@pytest.mark.parametrize("changed", ["tokens", "tokenizer"])
def test_at_resume_another_data_set_or_tokenizer_is_refused_naming_both_digests(
    new_attempt: Callable[..., Any], changed: str
) -> None:
    """Their digests are part of the step key, so it is another one; the refusal says what made it so."""
    first = new_attempt()
    first.run()
    before, after = first.request().inputs[changed].digest, "sha256:" + "e" * 64
    second = new_attempt(number=2, key="sha256:" + "b" * 64)
    request = second.request()
    inputs = {**request.inputs, changed: request.inputs[changed].model_copy(update={"digest": after})}
    second.request = lambda: request.model_copy(update={"inputs": inputs})
    with pytest.raises(StepError) as told:
        second.run()
    assert f"(inputs: {changed} was {before}, is {after})" in str(told.value)
    assert f"belongs to step key {first.key}, this step is {second.key}" in str(told.value)
    assert not second.weights.exists()


def test_a_loss_that_is_not_finite_stops_before_the_weights_and_names_the_step(
    new_attempt: Callable[..., Any],
) -> None:
    attempt = new_attempt(
        training={"optimizer": {"lr": 1e37, "gradient_clip_norm": None}}, settings={"checkpoint_every_tokens": 256}
    )
    with pytest.raises(StepError, match=r"Model/tiny: at step (\d+) of 12 the loss is .* expected finite numbers") as told:
        attempt.run()
    failed = int(str(told.value).split("at step ")[1].split(" ")[0])
    newest = load_checkpoint(max(attempt.checkpoints.iterdir()))
    assert newest.state.step == failed - 1
    assert math.isfinite(newest.state.train_loss)


def test_accumulation_gives_the_loss_of_one_pass(new_attempt: Callable[..., Any]) -> None:
    losses = [
        new_attempt(f"micro-{size}", training={"micro_batch_sequences": size}).run()["validation_loss"] for size in (1, 2, 8)
    ]
    assert max(losses) - min(losses) < 1e-4


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"parameters": {"objective": "distil"}}, "objective 'distil' is unknown"),
        ({"training": {"lr": 1}}, "the request's parameters are not a model's"),
        ({"processes": 3}, "8 sequences cannot be split over 3 processes"),
    ],
)
def test_a_request_that_cannot_be_trained_is_named(
    new_attempt: Callable[..., Any], fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(StepError, match=message):
        new_attempt(**fields).run()


def test_a_world_of_another_size_than_asked_for_is_refused(
    new_attempt: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(StepError, match="asks for 1 training processes, but this process belongs to a world of 2"):
        new_attempt().run()
