"""The step in processes of its own: killed and run again, stopped, and spread over two ranks."""

import random
import signal
import time
from collections.abc import Callable
from typing import Any

import psutil
import pytest

TRAINING = {"tokens": 256 * 400, "precision": "bfloat16"}
SETTINGS = {"checkpoint_every_tokens": 256 * 10}
LOSS_TOLERANCE = 1e-5
"""Two ranks add the same gradients in another order than one; relative difference of the loss after 12 steps."""


def _checkpoints(attempt: Any) -> set[str]:
    return {path.name for path in attempt.checkpoints.glob("step-????????-attempt-?")}


def _wait_until(condition: Callable[[], bool], process: Any, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, f"ended early: {process.stderr.read()}"
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_killed_at_random_steps_it_ends_with_the_same_weights_and_loss(new_attempt: Callable[..., Any]) -> None:
    whole = new_attempt("whole", training=TRAINING, settings=SETTINGS)
    expected = whole.run()
    moments = random.Random(4)
    for number in (1, 2, 3):
        attempt = new_attempt("killed", number=number, training=TRAINING, settings=SETTINGS)
        before = _checkpoints(attempt)
        process = attempt.start()
        _wait_until(lambda known=before, now=attempt: len(_checkpoints(now) - known) > 0, process)
        time.sleep(moments.uniform(0.0, 0.3))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert not (attempt.folder / "result.json").exists()
    last = new_attempt("killed", number=4, training=TRAINING, settings=SETTINGS)
    assert last.start().wait() == 0
    metrics = last.result()["metrics"]
    assert 0 < metrics["resumed_from_step"] < 400
    assert metrics["train_loss"] == expected["train_loss"]
    assert metrics["validation_loss"] == expected["validation_loss"]
    assert last.weights_digest() == whole.weights_digest()


@pytest.mark.parametrize("processes", [1, 2])
def test_sigterm_leaves_a_checkpoint_of_the_running_step_and_a_message(new_attempt: Callable[..., Any], processes: int) -> None:
    attempt = new_attempt(training={"tokens": 256 * 4000}, processes=processes)
    process = attempt.start()
    _wait_until(lambda: any("learning_rate" in event for event in attempt.events()), process)
    process.send_signal(signal.SIGTERM)
    _, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert attempt.failure()["cause"] == "stopped"
    message = attempt.failure()["message"]
    assert "Model/tiny: stopped by SIGTERM after step" in message
    step = int(message.split("after step ")[1].split(" ")[0])
    assert f"step-{step:08d}-attempt-1" in _checkpoints(attempt)


def test_two_ranks_give_the_loss_of_one(new_attempt: Callable[..., Any]) -> None:
    one = new_attempt("one").run()
    attempt = new_attempt("two", processes=2)
    process = attempt.start()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    two = attempt.result()["metrics"]
    for name in ("train_loss", "validation_loss"):
        assert two[name] == pytest.approx(one[name], rel=LOSS_TOLERANCE)
    steps = [event["step"] for event in attempt.events() if "learning_rate" in event]
    assert steps == sorted(set(steps)), "both ranks wrote events"
    assert attempt.weights_digest()


def test_ranks_listen_on_loopback_only_and_end_when_their_step_process_is_killed(
    new_attempt: Callable[..., Any],
) -> None:
    attempt = new_attempt(training={"tokens": 256 * 100_000}, processes=2)
    process = attempt.start()
    _wait_until(lambda: any("learning_rate" in event for event in attempt.events()), process)
    ranks = psutil.Process(process.pid).children(recursive=True)
    assert len(ranks) == 3, "torchrun and two ranks"
    connections = [connection for rank in ranks for connection in rank.net_connections()]
    process.kill()
    process.wait()  # its pipe stays open for as long as a rank lives
    _, orphans = psutil.wait_procs(ranks, timeout=20)
    for orphan in orphans:
        orphan.kill()
    assert orphans == []
    assert {connection.laddr.ip for connection in connections if connection.status == "LISTEN"} <= {"127.0.0.1"}
    assert _checkpoints(attempt)
    assert not (attempt.folder / "result.json").exists()


def test_a_failure_of_a_rank_is_the_steps_own(new_attempt: Callable[..., Any]) -> None:
    attempt = new_attempt(training={"optimizer": {"lr": 1e37, "gradient_clip_norm": None}}, processes=2)
    process = attempt.start()
    process.communicate(timeout=120)
    assert process.returncode == 1
    assert "expected finite numbers" in attempt.failure()["message"]
    assert attempt.failure()["cause"] == "input"
