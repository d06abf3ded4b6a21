"""Trainings by nanotron in processes of their own: against the torch backend's, spread over processes, killed, refused."""

import json
import math
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml
from safetensors.torch import load_file, save
from tests.steps.nanotron.conftest import SETTINGS, STEPS, TRAINING, NanotronAttempt
from tests.steps.train.conftest import Attempt, let_choose

from forge.errors import StepError
from forge.steps.nanotron.loader import machine_for
from forge.steps.nanotron.parity import check_parity, exported_logits
from forge.steps.nanotron.wheel import WHEEL, WHEEL_DIGEST
from forge.steps.nanotron.worker import bit_environment
from forge.steps.train.checkpoint import load_checkpoint, load_newest
from forge.steps.train.data import open_corpus

LOSS_TOLERANCE = 1e-5
"""float32, relative: the backends add in another order (docs/nanotron.md)."""
BFLOAT16_LOSS_TOLERANCE = 1e-2
"""Relative: nanotron computes with weights rounded to bfloat16, the torch backend under autocast."""
SAID = {"backend": "nanotron 0.4", "backend_wheel": WHEEL, "backend_wheel_digest": WHEEL_DIGEST}


def checkpoints(attempt: NanotronAttempt) -> set[str]:
    return {path.name for path in attempt.checkpoints.glob("step-????????-attempt-?")}


def curve(attempt: Any) -> dict[int, tuple[float, float, float]]:
    """Step -> loss, gradient norm, learning rate."""
    return {
        event["step"]: (event["loss"], event["gradient_norm"], event["learning_rate"])
        for event in attempt.events()
        if "learning_rate" in event
    }


def until(condition: Callable[[], bool], process: Any) -> None:
    deadline = time.monotonic() + 90
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def assert_same_training(found: Any, expected: Any, tolerance: float) -> None:
    ours, theirs = curve(found), curve(expected)
    assert {1, STEPS} <= ours.keys() & theirs.keys()
    for step in ours.keys() & theirs.keys():
        assert ours[step] == pytest.approx(theirs[step], rel=tolerance if step > 1 else tolerance / 2), step


def test_one_process_has_the_torch_backends_curve_and_weights(alone: Any, with_torch: Callable[[str], Any]) -> None:
    expected = with_torch("float32")
    assert_same_training(alone, expected, LOSS_TOLERANCE)
    metrics = alone.metrics
    validations = [event for event in expected.events() if "bits_per_byte" in event]
    assert [event["step"] for event in alone.events() if "bits_per_byte" in event] == [10, 20, 30, STEPS]
    assert metrics["validation_loss"] == pytest.approx(validations[-1]["loss"], rel=LOSS_TOLERANCE)
    assert metrics["validation_bits_per_byte"] == pytest.approx(validations[-1]["bits_per_byte"], rel=LOSS_TOLERANCE)
    ours, theirs = (load_file(each.weights / "model.safetensors") for each in (alone, expected))
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-3, atol=2e-5)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (alone.weights / name).read_bytes() == (expected.weights / name).read_bytes()


def test_the_metrics_say_which_release_trained_and_that_the_export_is_its_model(alone: Any) -> None:
    assert SAID.items() <= alone.metrics.items()
    assert 0 <= alone.metrics["logits_difference"] < 1e-5
    assert yaml.safe_load((alone.folder / "nanotron.yaml").read_text())["parallelism"]["dp"] == 1


def test_an_export_that_forgot_to_turn_the_rows_of_one_matrix_would_be_caught(alone: Any, tmp_path: Path) -> None:
    """The likeliest fault of a conversion leaves every shape as it should be."""
    inputs = torch.from_numpy(open_corpus(alone.tokens).validation.tokens[:32].astype("int64"))[None]
    trained = exported_logits(alone.weights, inputs)
    wrong = Path(shutil.copytree(alone.weights, tmp_path / "wrong"))
    state = load_file(wrong / "model.safetensors")
    name = "model.layers.1.self_attn.q_proj.weight"
    state[name] = state[name].view(4, 2, 4, 32).transpose(1, 2).reshape(32, 32).contiguous()
    (wrong / "model.safetensors").write_bytes(save(state, metadata={"format": "pt"}))
    with pytest.raises(StepError, match="not the trained one"):
        check_parity(exported_logits(wrong, inputs), trained, "Model/tiny")


ACCUMULATED = {**TRAINING, "micro_batch_sequences": 2}  # two backward passes a step, in each copy
TOGETHER = {"processes": 2, "settings": {**SETTINGS, "validate_every_tokens": 256 * 15}}
SPREAD: dict[str, dict[str, Any]] = {
    "two copies": {**TOGETHER, "training": {**ACCUMULATED, "precision": "bfloat16"}},
    "two tensor-parallel ranks": {
        **TOGETHER,
        "training": ACCUMULATED,
        "layout": {"tensor_parallel": 2},
        "architecture": {"tie_word_embeddings": False, "num_key_value_heads": 4},
    },
    "two stages": {**TOGETHER, "training": ACCUMULATED, "layout": {"pipeline_parallel": 2}},
}
"""How two processes share a training, by name."""


@pytest.fixture(scope="module")
def spread(tmp_path_factory: pytest.TempPathFactory, inputs: dict[str, Path]) -> Callable[[str], NanotronAttempt]:
    """A finished training of two processes, by the name of how they share it; nobody changes its folders."""
    finished: dict[str, NanotronAttempt] = {}

    def make(how: str) -> NanotronAttempt:
        if how not in finished:
            finished[how] = NanotronAttempt(root=tmp_path_factory.mktemp("spread"), **SPREAD[how], **inputs)
            finished[how].metrics = finished[how].finish()
        return finished[how]

    return make


@pytest.mark.parametrize("how", SPREAD)
def test_two_processes_train_as_one(
    spread: Callable[[str], NanotronAttempt],
    inputs: dict[str, Path],
    with_torch: Callable[[str], Any],
    tmp_path: Path,
    how: str,
) -> None:
    attempt = spread(how)
    metrics, precision = attempt.metrics, attempt.training.get("precision", "float32")
    expected = with_torch(precision)
    if attempt.architecture:
        expected = Attempt(root=tmp_path / "torch", training=attempt.training, architecture=attempt.architecture, **inputs)
        expected.run()
    tolerance = LOSS_TOLERANCE if precision == "float32" else BFLOAT16_LOSS_TOLERANCE
    losses, norms = ({step: row[part] for step, row in curve(attempt).items()} for part in (0, 1))
    theirs = curve(expected)
    assert losses[1] == pytest.approx(theirs[1][0], rel=1e-4), "other data, or other weights"
    assert norms[1] == pytest.approx(theirs[1][1], rel=1e-3), "gradients are summed or averaged wrongly"
    assert losses[STEPS] == pytest.approx(theirs[STEPS][0], rel=tolerance)
    assert metrics["logits_difference"] < 1e-5
    assert SAID.items() <= attempt.result()["environment"].items()
    assert [event["step"] for event in attempt.events() if "bits_per_byte" in event] == [15, 30, STEPS]
    assert sorted(losses) == list(dict.fromkeys(losses)), "several ranks wrote events"
    weights = load_file(attempt.weights / "model.safetensors")
    assert {str(tensor.dtype) for tensor in weights.values()} == {f"torch.{precision}"}
    assert {name: tensor.shape for name, tensor in weights.items()} == {
        name: tensor.shape for name, tensor in load_file(expected.weights / "model.safetensors").items()
    }


def test_killed_after_a_checkpoint_it_ends_with_the_same_weights_and_loss(
    alone: NanotronAttempt, new_attempt: Callable[..., NanotronAttempt]
) -> None:
    first = new_attempt(training=TRAINING, settings=SETTINGS)
    process = first.start()
    until(lambda: bool(checkpoints(first)), process)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    left = checkpoints(first)
    last = new_attempt(number=2, training=TRAINING, settings=SETTINGS)
    metrics, expected = last.run(), alone.metrics
    assert 0 < metrics["resumed_from_step"] < STEPS
    assert f"step-{metrics['resumed_from_step']:08d}-attempt-1" in left
    for name in ("train_loss", "validation_loss", "validation_bits_per_byte"):
        assert metrics[name] == expected[name]
    resumed, whole = curve(last), curve(alone)
    assert all(resumed[step] == whole[step] for step in resumed.keys() & whole.keys())
    assert last.weights_digest() == alone.weights_digest()


@pytest.mark.parametrize("how", SPREAD)
def test_two_processes_that_are_killed_end_with_the_same_weights_and_loss(
    spread: Callable[[str], NanotronAttempt], new_attempt: Callable[..., NanotronAttempt], how: str
) -> None:
    whole = spread(how)
    first = new_attempt(**SPREAD[how])
    process = first.start()
    until(lambda: bool(checkpoints(first)), process)
    ranks = psutil.Process(process.pid).children(recursive=True)
    for each in (process, *ranks):
        with suppress(psutil.NoSuchProcess):
            each.kill()
    process.communicate()
    _, living = psutil.wait_procs(ranks, timeout=20)
    assert not living
    last = new_attempt(number=2, **SPREAD[how])
    metrics, expected = last.finish(), whole.metrics
    assert 0 < metrics["resumed_from_step"] < STEPS
    for name in ("train_loss", "validation_loss", "validation_bits_per_byte"):
        assert metrics[name] == expected[name]
    resumed, undisturbed = curve(last), curve(whole)
    assert resumed.keys() & undisturbed.keys()
    assert all(resumed[step] == undisturbed[step] for step in resumed.keys() & undisturbed.keys())
    assert last.weights_digest() == whole.weights_digest()


def test_more_tokens_go_on_from_before_the_decay_and_follow_the_torch_backends_curve(
    alone: NanotronAttempt, new_attempt: Callable[..., NanotronAttempt], inputs: dict[str, Path], tmp_path: Path
) -> None:
    training = {**TRAINING, "tokens": 256 * (STEPS + 8)}
    longer = new_attempt(training=training, continues=alone.byproduct)
    metrics = longer.run()
    assert metrics["resumed_from_step"] == alone.job().kept_step == STEPS - 3
    assert json.loads((longer.folder / "continued.json").read_text())["tokens"] == TRAINING["tokens"]
    scratch = Attempt(root=tmp_path / "torch", training=training, **inputs)
    assert metrics["train_loss"] == pytest.approx(scratch.run()["train_loss"], rel=LOSS_TOLERANCE)


def test_two_ranks_asked_to_stop_leave_one_checkpoint_of_the_same_step(new_attempt: Callable[..., NanotronAttempt]) -> None:
    attempt = new_attempt(training={"tokens": 256 * 100_000}, layout={"tensor_parallel": 2}, processes=2)
    process = attempt.start()
    until(lambda: any("learning_rate" in event for event in attempt.events()), process)
    ranks = psutil.Process(process.pid).children(recursive=True)
    listening = {each.laddr.ip for rank in ranks for each in rank.net_connections() if each.status == "LISTEN"}
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=90)
    assert attempt.failure()["cause"] == "stopped"
    (step,) = {int(name.split("-")[1]) for name in checkpoints(attempt)}
    assert f"stopped by SIGTERM after step {step} of" in attempt.failure()["message"]
    assert listening <= {"127.0.0.1"}


def test_another_layout_or_backend_does_not_take_up_a_checkpoint(
    alone: NanotronAttempt, new_attempt: Callable[..., NanotronAttempt]
) -> None:
    attempt = new_attempt(number=2, training=TRAINING, settings=SETTINGS)
    shutil.copytree(alone.root / "scratch", attempt.root / "scratch")
    (newest,) = sorted(attempt.checkpoints.iterdir())[-1:]
    state = json.loads((newest / "state.json").read_bytes())
    assert state["environment"]["layout"] == "1 copies, tensor parallel 1, pipeline parallel 1"
    assert state["environment"]["wheel"] == WHEEL_DIGEST
    two = new_attempt(layout={"tensor_parallel": 2}, processes=2).job()
    environment = bit_environment(two, machine_for("cpu", "float32"), torch.device("cpu"))
    with pytest.raises(StepError, match=r"layout was 1 copies, tensor parallel 1, .* is 1 copies, tensor parallel 2"):
        load_newest(attempt.checkpoints, attempt.key, environment, lambda _: None)


def test_a_checkpoint_names_the_model_of_its_device(
    new_attempt: Callable[..., NanotronAttempt], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"NVIDIA H200 at {device}")
    job, machine = new_attempt().job(), machine_for("cuda", "float32")
    assert bit_environment(job, machine, torch.device("cuda", 1))["device"] == "NVIDIA H200 at cuda:1"
    assert bit_environment(job, machine, torch.device("cpu"))["device"] == "cpu"


def test_a_loss_that_rises_ends_it_and_leaves_the_checkpoint_from_before(new_attempt: Callable[..., NanotronAttempt]) -> None:
    schedule = {"name": "wsd", "warmup_tokens": 256 * 380, "decay_tokens": 0}
    training = {**TRAINING, "tokens": 256 * 400, "optimizer": {"lr": 3.0}, "schedule": schedule}
    attempt = new_attempt(training=training, settings={"checkpoint_every_tokens": 256 * 5})
    with pytest.raises(StepError, match=r"the loss has risen: .* The checkpoint of step \d+ \(loss .*\) is kept") as told:
        attempt.run()
    (kept,) = attempt.checkpoints.iterdir()
    state = load_checkpoint(kept).state
    assert f"The checkpoint of step {state.step} (loss {state.train_loss:.4f})" in str(told.value)
    assert state.train_loss < state.lowest_mean_loss + 0.5


def test_numbers_that_are_not_finite_stop_it_before_they_reach_the_weights(new_attempt: Callable[..., NanotronAttempt]) -> None:
    attempt = new_attempt(training={**TRAINING, "optimizer": {"lr": 1e37, "gradient_clip_norm": None}})
    with pytest.raises(StepError, match="expected finite numbers"):
        attempt.run()
    assert not list((attempt.folder / "out" / "weights").glob("*.safetensors"))
    assert all(math.isfinite(event["loss"]) for event in attempt.events() if "loss" in event)


def test_a_trial_of_a_search_that_diverges_ends_with_finite_weights(new_attempt: Callable[..., NanotronAttempt]) -> None:
    attempt = new_attempt(training={**TRAINING, "optimizer": {"lr": 1e-2, "gradient_clip_norm": None}})
    let_choose(attempt, {"training.optimizer.lr": 1e37})
    metrics = attempt.run()
    assert metrics["optimizer_steps"] == metrics["diverged_at_step"] - 1 < 12
    assert all(math.isfinite(value) for value in metrics.values() if isinstance(value, float))
    tensors = load_file(attempt.folder / "out" / "weights" / "model.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values())
