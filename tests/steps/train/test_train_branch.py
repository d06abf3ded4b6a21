"""A training that leaves another's way at a step: the bytes of one that took all steps itself, and the same token ids."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.steps.train.conftest import TRAINING, Attempt

from forge.contract.messages import StepResult
from forge.errors import StepError
from forge.spec.extend import with_trunk
from forge.steps.train import loop
from forge.steps.train.checkpoint import artifact_of, verify_checkpoint

BATCH = 256
TRUNK_KEY, KEY = "sha256:" + "1" * 64, "sha256:" + "2" * 64
LEFT = 20
"""The step at which the branch leaves: of 40, before the decay of the last three."""
TRUNK = {"tokens": BATCH * 40}
OWN = {
    "tokens": BATCH * 30,
    "optimizer": {"lr": 4e-3, "betas": [0.8, 0.9], "weight_decay": 0.0, "gradient_clip_norm": 0.5},
    "schedule": {"name": "cosine", "warmup_tokens": 0},
}
Make = Callable[..., Attempt]


@pytest.fixture(scope="module")
def trunk(tmp_path_factory: pytest.TempPathFactory, tokens_folder: Path, tokenizer_folder: Path) -> Attempt:
    """A finished training that others branch from, for the tests that change nothing in its folders."""
    folder = tmp_path_factory.mktemp("trunk")
    attempt = Attempt(folder, tokens_folder, tokenizer_folder, key=TRUNK_KEY, training=TRUNK, branches=(5, LEFT, 39))
    attempt.run()
    return attempt


def kept(attempt: Attempt, step: int) -> Path:
    return attempt.folder / "out" / f"checkpoint-{step}"


@pytest.fixture
def branch(new_attempt: Callable[..., Any]) -> Make:
    """A training that leaves the trunk at a step: ``branch("name", step, continues=..)``."""

    def make(name: str, step: int = LEFT, training: dict[str, Any] | None = None, **fields: Any) -> Attempt:
        other = {"training": {**TRAINING, **TRUNK}}
        stretches = with_trunk({"from": {"step": step}}, other)["trunk"]
        asked = {**OWN, **(training or {})}
        made: Attempt = new_attempt(name, **{"key": KEY, "training": asked, "parameters": {"trunk": stretches}, **fields})
        return made

    return make


def finish(attempt: Attempt) -> StepResult:
    process = attempt.start()
    _, errors = process.communicate(timeout=180)
    assert process.returncode == 0, errors
    return StepResult.model_validate(attempt.result())


def test_from_a_checkpoint_it_is_what_it_is_from_its_first_step_on(branch: Make, trunk: Attempt) -> None:
    whole, short = branch("whole"), branch("short", continues=kept(trunk, LEFT))
    expected, metrics = whole.run(), short.run()
    assert (expected["resumed_from_step"], metrics["resumed_from_step"]) == (0, LEFT)
    assert short.weights_digest() == whole.weights_digest()
    assert short.weights_digest() != trunk.weights_digest()
    for name in ("train_loss", "validation_loss", "tokens", "optimizer_steps"):
        assert metrics[name] == expected[name]
    state = verify_checkpoint(kept(trunk, LEFT))
    assert (state.step, state.key) == (LEFT, TRUNK_KEY)


def test_a_checkpoint_from_earlier_on_the_way_serves_too(branch: Make, trunk: Attempt) -> None:
    whole, short = branch("whole"), branch("short", continues=kept(trunk, 5))
    whole.run()
    assert short.run()["resumed_from_step"] == 5
    assert short.weights_digest() == whole.weights_digest()


def test_in_the_decay_the_rates_are_those_of_the_other_training(branch: Make, trunk: Attempt) -> None:
    tokens = {"tokens": BATCH * 45}
    whole, short = branch("whole", 39, tokens), branch("short", 39, tokens, continues=kept(trunk, 39))
    whole.run()
    assert short.run()["resumed_from_step"] == 39
    assert short.weights_digest() == whole.weights_digest()


def test_no_token_id_is_repeated_and_none_is_skipped(
    branch: Make, trunk: Attempt, new_attempt: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the trunk read up to the branch, and what the branch read after it, is what one training would have read."""
    real, ids = loop.training_batch, list[int]()

    def counted(*arguments: Any) -> Any:
        batch = real(*arguments)
        ids.extend(batch.inputs.flatten().tolist())
        return batch

    monkeypatch.setattr(loop, "training_batch", counted)
    new_attempt("again", key=TRUNK_KEY, training=TRUNK, branches=(LEFT,)).run()
    of_trunk = ids[: LEFT * BATCH]
    ids.clear()
    branch("short", continues=kept(trunk, LEFT)).run()
    of_branch = list(ids)
    ids.clear()
    branch("whole").run()
    assert len(of_branch) == (30 - LEFT) * BATCH
    assert ids == of_trunk + of_branch


def test_two_ranks_in_slices_branch_as_well(branch: Make, new_attempt: Callable[..., Any]) -> None:
    spread: dict[str, Any] = {"settings": {"parallelism": {"data": "fsdp2"}}, "processes": 2}
    trunk = new_attempt("trunk", key=TRUNK_KEY, training=TRUNK, branches=(LEFT,), **spread)
    assert finish(trunk).byproducts == {"checkpoint": "checkpoint", f"checkpoint-{LEFT}": f"checkpoint-{LEFT}"}
    whole, short = branch("whole", **spread), branch("short", continues=kept(trunk, LEFT), **spread)
    assert finish(whole).continued is None
    continued = finish(short).continued
    assert short.weights_digest() == whole.weights_digest()
    assert continued is not None
    assert (continued.key, continued.checkpoint) == (TRUNK_KEY, artifact_of(kept(trunk, LEFT)))


def test_a_branch_of_a_branch(branch: Make, new_attempt: Callable[..., Any]) -> None:
    first = branch("first", branches=(25,))
    first.run()
    parameters = {"training": {**TRAINING, **OWN}, **first.parameters}
    last = {"training": {**OWN, "tokens": BATCH * 28, "optimizer": {"lr": 1e-3}}}
    trunk = {"trunk": with_trunk({"from": {"step": 25}}, parameters)["trunk"]}
    whole = new_attempt("whole", key="sha256:" + "3" * 64, parameters=trunk, **last)
    short = new_attempt("short", key="sha256:" + "3" * 64, parameters=trunk, continues=kept(first, 25), **last)
    whole.run()
    assert short.run()["resumed_from_step"] == 25
    assert short.weights_digest() == whole.weights_digest()


def test_killed_after_it_left_it_goes_on_from_its_own_checkpoint(branch: Make, trunk: Attempt) -> None:
    long = {"tokens": BATCH * 400}
    whole = branch("whole", training=long)
    whole.run()
    attempt = branch("short", training=long, continues=kept(trunk, LEFT))
    process = attempt.start()
    deadline = time.monotonic() + 60
    while not list(attempt.checkpoints.glob("step-????????-attempt-1")):
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.communicate()
    again = branch("short", training=long, number=2)
    result = finish(again)
    assert int(result.metrics["resumed_from_step"]) > LEFT
    assert result.continued is not None
    assert again.weights_digest() == whole.weights_digest()


@pytest.mark.parametrize(
    ("checkpoint", "change", "said"),
    [
        (39, {}, f"it stands at step 39, after the decay of its run of {BATCH * 40:,} tokens began; this run"),
        (LEFT, {"training": {"seed": 8}}, "those that it branches from are sha256:"),
        (LEFT, {"architecture": {"rope_theta": 5000.0}}, "those that it branches from are sha256:"),
    ],
)
def test_a_checkpoint_that_is_not_on_the_way_is_refused(
    branch: Make, trunk: Attempt, checkpoint: int, change: dict[str, Any], said: str
) -> None:
    attempt = branch("short", continues=kept(trunk, checkpoint), **change)
    with pytest.raises(StepError) as told:
        attempt.run()
    assert said in str(told.value)
    assert not attempt.weights.exists()


def test_a_checkpoint_that_was_not_kept_is_said(new_attempt: Callable[..., Any]) -> None:
    """The trunk was resumed past the step at which somebody wants to branch by now."""
    first = new_attempt("trunk", key=TRUNK_KEY, training=TRUNK)
    first.run()
    shutil.rmtree(first.root / "scratch" / "before-decay")
    second = new_attempt("trunk", key=TRUNK_KEY, training=TRUNK, branches=(LEFT,), number=2)
    second.run()
    assert not kept(second, LEFT).exists()
    said = [event["message"] for event in second.events() if "message" in event]
    assert f"no checkpoint of step {LEFT} is kept: what branches there trains those steps again" in said
