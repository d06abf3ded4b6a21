"""torch.compile, alone and over slices: the losses of the same training that is not compiled."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.steps.train.conftest import ARCHITECTURE as TINY
from tests.steps.train.conftest import Attempt
from torch._dynamo.testing import CompileCounterWithBackend

from forge.spec.architecture import Architecture
from forge.steps.train.distributed import World
from forge.steps.train.model import build_model
from forge.steps.train.sharding import spread

Make = Callable[..., Attempt]
ARCHITECTURE = {"num_hidden_layers": 1}

pytestmark = pytest.mark.skipif(
    shutil.which("g++") is None, reason="torch.compile writes C++, and there is no g++ on this machine"
)


@pytest.fixture(scope="module")
def compiled_code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where what is compiled lies: the second training takes from it what the first has compiled."""
    return tmp_path_factory.mktemp("compiled")


def losses_of(attempt: Attempt) -> list[float]:
    process = attempt.start()
    _, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors
    metrics = attempt.result()["metrics"]
    return [metrics["train_loss"], metrics["validation_loss"]]


@pytest.mark.parametrize(
    ("processes", "settings", "family"),
    [
        (1, {}, {}),
        (2, {"parallelism": {"data": "fsdp2"}}, {}),
        (2, {"parallelism": {"tensor": 2}}, {"family": "qwen3", "head_dim": 12}),
    ],
    ids=["alone", "fsdp2", "tensor, heads normalised"],
)
def test_a_compiled_training_has_the_losses_of_one_that_is_not(
    new_attempt: Make,
    monkeypatch: pytest.MonkeyPatch,
    compiled_code: Path,
    processes: int,
    settings: dict[str, Any],
    family: dict[str, Any],
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(compiled_code))
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")
    fields: dict[str, Any] = {
        "architecture": {**ARCHITECTURE, **family},
        "training": {
            "tokens": 256 * 6,
            "precision": "bfloat16",
            "schedule": {"name": "wsd", "warmup_tokens": 512, "decay_tokens": 512},
        },
    }
    plain = new_attempt("plain", processes=processes, settings=settings, **fields)
    compiled = new_attempt("compiled", processes=processes, settings={**settings, "compile": True}, **fields)
    expected = losses_of(plain)
    assert losses_of(compiled) == pytest.approx(expected, rel=2e-3)
    assert list(compiled_code.rglob("*.so")), "nothing was compiled"


@pytest.mark.parametrize("experts", [None, {"num_local_experts": 4, "num_experts_per_tok": 2}], ids=["dense", "experts"])
def test_all_layers_are_compiled_as_one_where_they_are_computed_again(
    monkeypatch: pytest.MonkeyPatch, experts: dict[str, Any] | None
) -> None:
    torch._dynamo.reset()
    counted = CompileCounterWithBackend("eager")
    compile_module = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compile_module(module, backend=counted, fullgraph=True))
    kind = {} if experts is None else {"family": "mixtral", "experts": experts}
    job: Any = SimpleNamespace(
        subject="Model/tiny",
        shards_data=False,
        training=SimpleNamespace(compile=True, activation_checkpointing=True, precision="bfloat16"),
    )
    model, plain = (build_model(Architecture(**{**TINY, "num_hidden_layers": 9, **kind}), 64, 7) for _ in range(2))
    spread(model, job, World(0, 1, torch.device("cpu")))
    tokens = torch.arange(64).view(2, 32)
    for each in (model, plain):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = each(tokens, tokens, (tokens % 8 == 0).cumsum(dim=1))
        (output[0] if isinstance(output, tuple) else output).backward()
    assert counted.frame_count == 1, "torch compiles 8 kinds of a function, and then none"
    for (name, parameter), other in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert parameter.grad is not None, name
        assert other.grad is not None, name
        assert (parameter.grad - other.grad).norm() <= 0.05 * other.grad.norm(), name
