"""What a rank holds of a model that is cut, from the first byte on; and sums of gradients that begin inside the pass.

Each test starts two ranks of a program below, which speak over gloo.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from tests.steps.train.conftest import Attempt

Make = Callable[..., Attempt]
PROGRAM = """
import sys
from pathlib import Path

import torch
from torch import distributed
from torch.distributed.tensor import DTensor

from forge.contract.messages import StepRequest
from forge.steps.train import summing
from forge.steps.train.distributed import open_world
from forge.steps.train.job import read_job
from forge.steps.train.model import outline
from forge.steps.train.sharding import local, spread, whole_tensors
from forge.steps.train.start import begin_weights, initial_model
from forge.steps.train.summing import GradientSum

job = read_job(StepRequest.model_validate_json(Path(sys.argv[1]).read_bytes()))
with open_world("cpu", 2, Path(sys.argv[2]), job.training.parallelism.tensor) as world:
    torch.manual_seed(world.rank)
    model = outline(job.architecture, 512)
    spread(model, job, world)
    assert all(parameter.is_meta for parameter in model.parameters()), "memory before the model was cut"
    begin_weights(model, job, world.device)
{body}
"""
SLICES = """
    whole = initial_model(job, 512).state_dict()
    sizes = [sum(tensor.nbytes for tensor in tensors) for tensors in (map(local, model.parameters()), whole.values())]
    assert sizes[0] < 0.75 * sizes[1], sizes
    found = whole_tensors(model, world)
    assert world.rank or found.keys() == whole.keys()
    for name, tensor in found.items():
        assert torch.equal(tensor, whole[name]), name
    tokens = torch.arange(32)[None]
    assert torch.equal(model.model.rotary.cos, initial_model(job, 512).model.rotary.cos)
"""
PRECISION = """
    seen = {}
    for name in ("model.layers.0.self_attn.q_proj", "model.layers.0", "model.norm"):
        module = model.get_submodule(name)
        module.register_forward_pre_hook(
            lambda module, given, name=name: seen.update({name: (given[0].dtype, next(module.parameters()).dtype)})
        )
    tokens = torch.arange(32)[None]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(tokens, tokens).backward()
    assert seen["model.layers.0.self_attn.q_proj"][1] == torch.bfloat16, seen
    assert seen["model.layers.0"][0] == torch.float32, seen
    assert seen["model.norm"] == (torch.float32, torch.float32), seen
    for parameter in model.parameters():
        assert parameter.dtype == torch.float32
        assert parameter.grad.dtype == torch.float32
"""
SUMS = """
    summing.BUCKET_BYTES = 20_000
    inside, begun, real = [False], [], distributed.all_reduce

    def counting(tensor, *given, **named):
        begun.append((tensor.numel(), inside[0]))
        return real(tensor, *given, **named)

    distributed.all_reduce = counting
    sums = GradientSum(model, world)
    tokens = torch.arange(64).view(2, 32)

    def pass_over(rows, is_last):
        sums.before(is_last=is_last)
        loss = model(rows, rows)
        inside[0] = True
        loss.backward()
        inside[0] = False

    for _ in range(2):  # what a step leaves does not disturb the next
        model.zero_grad(set_to_none=True)
        begun.clear()
        pass_over(tokens[world.rank : world.rank + 1] + 1, False)
        assert not begun
        pass_over(tokens[world.rank : world.rank + 1], True)
        sums.finish()
        assert len(begun) > 3 and all(within for _, within in begun), begun
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    alone = initial_model(job, 512)
    for rows in (tokens[:1] + 1, tokens[:1], tokens[1:] + 1, tokens[1:]):
        alone(rows, rows).backward()
    assert sum(size for size, _ in begun) == sum(parameter.numel() for parameter in alone.parameters())
    for name, parameter in alone.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-5)
"""


def two_ranks(attempt: Attempt, body: str, tmp_path: Path) -> None:
    request = tmp_path / "request.json"
    request.write_text(attempt.request().model_dump_json())
    environment = {**os.environ, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM.format(body=body), str(request), str(tmp_path / "meeting")],
            env={**environment, "RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [rank.communicate(timeout=120)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(said)


@pytest.mark.parametrize(
    "settings", [{"parallelism": {"data": "fsdp2"}}, {"parallelism": {"tensor": 2}}], ids=["fsdp2", "tensor"]
)
def test_a_rank_has_memory_for_its_slices_alone_and_they_are_those_of_the_whole(
    new_attempt: Make, tmp_path: Path, settings: dict[str, Any]
) -> None:
    architecture = {"tie_word_embeddings": False, "intermediate_size": 256}
    two_ranks(new_attempt(processes=2, settings=settings, architecture=architecture), SLICES, tmp_path)


def test_slices_of_a_base_are_those_of_its_file(new_attempt: Make, tmp_path: Path) -> None:
    base = new_attempt("base", training={"tokens": 256, "schedule": {"name": "wsd", "warmup_tokens": 0, "decay_tokens": 0}})
    base.run()
    two_ranks(new_attempt(processes=2, base=base.weights, settings={"parallelism": {"data": "fsdp2"}}), SLICES, tmp_path)


def test_under_bfloat16_layers_travel_in_it_and_sums_do_not(new_attempt: Make, tmp_path: Path) -> None:
    settings = {"parallelism": {"data": "fsdp2"}}
    two_ranks(new_attempt(processes=2, settings=settings, training={"precision": "bfloat16"}), PRECISION, tmp_path)


@pytest.mark.parametrize("architecture", [{}, {"tie_word_embeddings": False}], ids=["tied", "untied"])
def test_gradients_are_summed_while_the_pass_is_at_work(
    new_attempt: Make, tmp_path: Path, architecture: dict[str, Any]
) -> None:
    two_ranks(new_attempt(processes=2, architecture=architecture), SUMS, tmp_path)


@pytest.mark.parametrize("experts", [None, {"num_local_experts": 4, "num_experts_per_tok": 2}], ids=["dense", "experts"])
def test_bfloat16_over_slices_gives_the_losses_of_one_process(new_attempt: Make, experts: dict[str, Any] | None) -> None:
    """Norms are rounded to bfloat16 on their way, and gradients too, so it is near and no more."""
    architecture = {} if experts is None else {"family": "mixtral", "experts": experts}
    fields: dict[str, Any] = {"architecture": architecture, "training": {"precision": "bfloat16"}}
    one = new_attempt("one", **fields)
    expected = one.run()
    two = new_attempt("two", processes=2, settings={"parallelism": {"data": "fsdp2"}}, **fields)
    process = two.start()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    found = two.result()["metrics"]
    assert found["validation_loss"] == pytest.approx(expected["validation_loss"], rel=5e-3)
    assert {str(tensor.dtype) for tensor in load_file(two.weights / "model.safetensors").values()} == {"torch.float32"}
