"""Trainings by nanotron that leave another's way at a step: as the torch backend's do, and to the bit from either beginning."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.steps.nanotron.conftest import NanotronAttempt
from tests.steps.nanotron.test_nanotron_step import LOSS_TOLERANCE, curve
from tests.steps.train.conftest import TRAINING, Attempt
from tests.steps.train.test_train_branch import BATCH, LEFT, OWN, TRUNK, TRUNK_KEY, kept

from forge.contract.checkpoints import BYPRODUCT, branch_point
from forge.errors import StepError
from forge.spec.extend import with_trunk
from forge.steps.train.checkpoint import artifact_of, verify_checkpoint

KEY = "sha256:" + "2" * 64
LAST = OWN["tokens"] // BATCH
Make = Callable[..., NanotronAttempt]


def branching(trunk: dict[str, Any]) -> dict[str, Any]:
    """What an attempt at a branch is made with, of a trunk of these settings."""
    stretches = with_trunk({"from": {"step": LEFT}}, {"training": {**TRAINING, **trunk}})["trunk"]
    return {"key": KEY, "training": OWN, "parameters": {"trunk": stretches}}


@pytest.fixture(scope="module")
def trunk(tmp_path_factory: pytest.TempPathFactory, inputs: dict[str, Path]) -> NanotronAttempt:
    """A finished training that others branch from."""
    attempt = NanotronAttempt(
        root=tmp_path_factory.mktemp("trunk"), key=TRUNK_KEY, training=TRUNK, branches=(5, LEFT), **inputs
    )
    attempt.run()
    return attempt


def test_it_ends_with_the_same_bytes_from_a_checkpoint_and_follows_the_torch_backends_curve(
    trunk: NanotronAttempt, new_attempt: Make, inputs: dict[str, Path], tmp_path: Path
) -> None:
    assert {path.name for path in (trunk.folder / "out").iterdir()} == {
        "weights",
        BYPRODUCT,
        branch_point(5),
        branch_point(LEFT),
    }
    assert (verify_checkpoint(kept(trunk, LEFT)).step, verify_checkpoint(kept(trunk, LEFT)).key) == (LEFT, TRUNK_KEY)
    whole = new_attempt("whole", **branching(TRUNK))
    expected = whole.run()
    for step in (5, LEFT):
        short = new_attempt(f"short-{step}", **branching(TRUNK), continues=kept(trunk, step))
        metrics = short.run()
        assert (expected["resumed_from_step"], metrics["resumed_from_step"]) == (0, step)
        assert short.weights_digest() == whole.weights_digest() != trunk.weights_digest()
        continued = json.loads((short.folder / "continued.json").read_text())
        assert (continued["key"], continued["checkpoint"]) == (TRUNK_KEY, artifact_of(kept(trunk, step)))

    torchs = Attempt(root=tmp_path / "torch", **inputs, **branching(TRUNK))
    assert expected["train_loss"] == pytest.approx(torchs.run()["train_loss"], rel=LOSS_TOLERANCE)
    ours, theirs = curve(whole), curve(torchs)
    assert {1, LAST} <= ours.keys() & theirs.keys()
    for step in ours.keys() & theirs.keys():
        assert ours[step] == pytest.approx(theirs[step], rel=LOSS_TOLERANCE), step


def test_settings_of_the_trunk_hold_up_to_the_branch_and_its_own_from_there(new_attempt: Make) -> None:
    """Each of them shows in the weights: betas, decay and the clipped norm change with the step, as the rate does."""
    digests = set()
    for name in ("betas", "weight_decay", "gradient_clip_norm", "lr"):
        own = {**OWN["optimizer"], name: {**TRAINING["optimizer"], "betas": [0.9, 0.95]}.get(name)}
        if own[name] is None:
            del own[name]
        attempt = new_attempt(name, **{**branching(TRUNK), "training": {**OWN, "optimizer": own}})
        attempt.run()
        digests.add(attempt.weights_digest())
    attempt = new_attempt("own", **branching(TRUNK))
    attempt.run()
    assert attempt.weights_digest() not in digests
    assert len(digests) == 4


def test_two_stages_in_bfloat16_branch_as_well(new_attempt: Make) -> None:
    spread: dict[str, Any] = {"layout": {"pipeline_parallel": 2}, "processes": 2}
    coarse = {**TRUNK, "precision": "bfloat16"}
    trunk = new_attempt("trunk", key=TRUNK_KEY, training=coarse, branches=(LEFT,), **spread)
    trunk.finish()
    made = {**branching(TRUNK), "training": {**OWN, "precision": "bfloat16"}, **spread}
    whole, short = new_attempt("whole", **made), new_attempt("short", **made, continues=kept(trunk, LEFT))
    whole.finish()
    assert short.finish()["resumed_from_step"] == LEFT
    assert short.weights_digest() == whole.weights_digest()


def test_the_checkpoint_of_another_backend_is_not_on_the_way(
    new_attempt: Make, inputs: dict[str, Path], tmp_path: Path
) -> None:
    torchs = Attempt(root=tmp_path / "torch", key=TRUNK_KEY, training=TRUNK, branches=(LEFT,), **inputs)
    torchs.run()
    with pytest.raises(StepError, match="those that it branches from are sha256:"):
        new_attempt(**branching(TRUNK), continues=kept(torchs, LEFT)).run()
