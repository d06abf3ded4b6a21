"""torch.compile, alone and over slices: the losses of the same training that is not compiled."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.steps.train.conftest import Attempt

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
