"""Ranks in each topology take the steps of one process; and a checkpoint of one topology is taken up by another."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.steps.train.conftest import Attempt

from forge.contract.messages import StepRequest
from forge.errors import StepError
from forge.steps.run import StepRun
from forge.steps.train import run as run_train
from forge.steps.train.checkpoint import checkpoint_name, load_checkpoint, read_state
from forge.steps.train.distributed import World
from forge.steps.train.shards import read_shards

Make = Callable[..., Any]
FSDP2 = {"parallelism": {"data": "fsdp2"}}
TENSOR = {"parallelism": {"tensor": 2}}
GRID = {"parallelism": {"data": "fsdp2", "tensor": 2}}
SHARDED = {**FSDP2, "checkpoint_every_tokens": 256 * 4}
LOSS_TOLERANCE = 1e-5
"""Relative: ranks add in another order than one process; float32, twelve steps."""


def _losses(attempt: Any) -> dict[int, float]:
    return {event["step"]: event["loss"] for event in attempt.events() if "learning_rate" in event}


def _run(attempt: Any) -> dict[str, Any]:
    process = attempt.start()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return attempt.result()["metrics"]


def _largest_difference(first: Path, second: Path) -> float:
    mine, theirs = (load_file(path / "model.safetensors") for path in (first, second))
    assert {name: tensor.shape for name, tensor in mine.items()} == {name: tensor.shape for name, tensor in theirs.items()}
    return max((mine[name] - theirs[name]).abs().max().item() for name in mine)


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory, tokens_folder: Path, tokenizer_folder: Path) -> Attempt:
    """A training that two ranks of fsdp2 finished; nobody changes its folders."""
    attempt = Attempt(tmp_path_factory.mktemp("sharded"), tokens_folder, tokenizer_folder, processes=2, settings=SHARDED)
    _run(attempt)
    return attempt


@pytest.mark.parametrize(
    ("processes", "settings"), [(2, FSDP2), (2, TENSOR), (4, GRID)], ids=["fsdp2", "tensor", "fsdp2 x tensor"]
)
def test_ranks_give_the_losses_and_weights_of_one(new_attempt: Make, processes: int, settings: dict[str, Any]) -> None:
    every = {"checkpoint_every_tokens": 256 * 5, "validate_every_tokens": 256 * 3}
    one = new_attempt("one", settings=every)
    expected = one.run()
    two = new_attempt("two", processes=processes, settings={**every, **settings, "activation_checkpointing": True})
    found = _run(two)
    for name in ("train_loss", "validation_loss"):
        assert found[name] == pytest.approx(expected[name], rel=LOSS_TOLERANCE)
    assert _losses(two)[1] == pytest.approx(_losses(one)[1], rel=LOSS_TOLERANCE)
    assert _largest_difference(one.weights, two.weights) < 1e-3
    newest = two.checkpoints / checkpoint_name(12, 1)
    assert {path.suffix for path in newest.iterdir()} == {".safetensors", ".json"}, "something is pickled"
    assert load_checkpoint(newest).state.layout == "sharded"
    exported = load_file(two.weights / "model.safetensors")
    gathered = {f"model.{name}": torch.full_like(tensor, torch.nan) for name, tensor in exported.items()}
    read_shards(newest, gathered, World(0, 1, torch.device("cpu")))
    assert all(torch.equal(gathered[f"model.{name}"], tensor) for name, tensor in exported.items())
    assert all(
        event["checkpoint_stall_seconds"] >= 0 for event in two.events() if "checkpoint step" in event.get("message", "")
    )


def test_a_training_goes_on_in_other_topologies_and_says_so(new_attempt: Make, sharded: Attempt) -> None:
    """Two ranks of fsdp2, then one process, then two of tensor parallelism."""
    whole = new_attempt("whole")
    expected = whole.run()
    first = _copied(sharded, new_attempt("moved", processes=2, settings=SHARDED))
    _forget(first, above=8)
    second = new_attempt("moved", number=2, settings={"checkpoint_every_tokens": 256 * 2})
    assert second.run()["resumed_from_step"] == 8
    _forget(second, above=10)
    assert read_state(second.checkpoints / checkpoint_name(10, 2)).layout == "whole"
    third = new_attempt("moved", number=3, processes=2, settings=TENSOR)
    found = _run(third)
    assert found["resumed_from_step"] == 10
    assert found["earlier_topologies"] == "2 processes (2 x fsdp2); 1 process"
    for name in ("train_loss", "validation_loss"):
        assert found[name] == pytest.approx(expected[name], rel=LOSS_TOLERANCE)
    assert _largest_difference(whole.weights, third.weights) < 1e-3
    messages = [event.get("message", "") for event in third.events()]
    assert any(
        "made by 1 process, this run has 2 processes (2 x tensor): it goes on, but not bit for bit" in m for m in messages
    )
    assert not third.byproduct.exists(), "a run of mixed topologies is nobody's exact prefix"


def test_the_same_topology_resumes_to_the_same_bytes_after_a_damaged_slice(new_attempt: Make, sharded: Attempt) -> None:
    first = _copied(sharded, new_attempt(processes=2, settings=SHARDED))
    expected = first.result()["metrics"]
    slices = sorted((first.checkpoints / checkpoint_name(12, 1)).glob("*.safetensors"))
    assert len(slices) == 2
    slices[1].write_bytes(slices[1].read_bytes()[:-4])
    second = new_attempt(number=2, processes=2, settings=SHARDED)
    found = _run(second)
    assert found["resumed_from_step"] == 8
    assert found["train_loss"] == expected["train_loss"]
    assert second.weights_digest() == first.weights_digest()
    assert f"checkpoint {checkpoint_name(12, 1)} is damaged: {slices[1].name}" in second.events()[0]["message"]


def test_activation_checkpointing_changes_no_bit(new_attempt: Make) -> None:
    plain, thrifty = new_attempt("plain"), new_attempt("thrifty", settings={"activation_checkpointing": True})
    plain.run()
    thrifty.run()
    assert plain.weights_digest() == thrifty.weights_digest()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"processes": 4, "settings": {"parallelism": {"tensor": 4}}}, r"num_key_value_heads \(2\) is no multiple of"),
        ({"processes": 3, "settings": {"parallelism": {"tensor": 2}}}, r"3 processes are no multiple of"),
        ({"settings": {"parallelism": {"data": "zero"}}}, "the request's parameters are not a model's"),
    ],
)
def test_a_grid_that_does_not_fit_is_named(new_attempt: Make, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(StepError, match=message):
        new_attempt(**fields).run()


def test_an_accelerator_that_is_not_here_is_named(new_attempt: Make) -> None:
    attempt = new_attempt()
    request = json.loads(attempt.request().model_dump_json())
    request["resources"]["accelerator"] = "cuda"
    if torch.cuda.is_available():
        pytest.skip("a CUDA device is here")
    with pytest.raises(StepError, match="accelerator 'cuda' is asked for, but this machine offers"):
        run_train(StepRun(StepRequest.model_validate(request), attempt.folder))


def test_compiling_without_a_compiler_is_named(new_attempt: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(StepError, match=r"training.compile needs a C\+\+ compiler .* no-such-compiler is not on the PATH"):
        new_attempt(settings={"compile": True}).run()


def _copied(finished: Attempt, attempt: Attempt) -> Attempt:
    """An attempt that has done what another did."""
    shutil.copytree(finished.root, attempt.root)
    return attempt


def _forget(attempt: Any, above: int) -> None:
    """Leave only the checkpoints up to a step, as if the run had been killed there; the others are what came later."""
    for path in attempt.checkpoints.iterdir():
        if int(path.name[5:13]) > above:
            shutil.rmtree(path)
