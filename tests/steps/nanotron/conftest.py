"""Attempts at training with nanotron: the torch backend's tiny inputs, and how a copy of the model is spread."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.steps.deterministic import NothingRefused
from tests.steps.train.conftest import Attempt, chain_documents, write_tokenizer, write_tokens

from forge.contract.messages import StepRequest
from forge.steps.train.job import TrainJob, read_job

STEPS = 40
TRAINING = {"tokens": 256 * STEPS}
SETTINGS = {"checkpoint_every_tokens": 256 * 5, "validate_every_tokens": 256 * 10}


@dataclass
class NanotronAttempt(Attempt):
    """An attempt with ``backend: nanotron``; ``start`` works in a process of its own."""

    layout: dict[str, int] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)

    def request(self) -> StepRequest:
        request = super().request()
        return request.model_copy(
            update={
                "parameters": {**request.parameters, "backend": "nanotron"},
                "settings": {**request.settings, **({"nanotron": self.layout} if self.layout else {})},
            }
        )

    def job(self) -> TrainJob:
        return read_job(self.request())

    def finish(self) -> dict[str, Any]:
        """Run to the end in a process of its own; returns the metrics."""
        process = self.start()
        _, errors = process.communicate(timeout=180)
        assert process.returncode == 0, errors
        metrics: dict[str, Any] = self.result()["metrics"]
        return metrics


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("nanotron-inputs")
    tokens = write_tokens(folder / "tokens", chain_documents(60, seed=1), chain_documents(6, seed=2))
    return {"tokens": tokens, "tokenizer": write_tokenizer(folder / "tokenizer")}


@pytest.fixture
def new_attempt(tmp_path: Path, inputs: dict[str, Path]) -> Callable[..., NanotronAttempt]:
    """``new_attempt("name of a run", number=2, layout={...})``; attempts of one name share scratch."""
    return lambda name="run", **fields: NanotronAttempt(root=tmp_path / name, **{**inputs, **fields})


@pytest.fixture(scope="session")
def alone(tmp_path_factory: pytest.TempPathFactory, inputs: dict[str, Path]) -> NanotronAttempt:
    """A finished training in one process, this one, which asked for nothing that a CUDA device refuses."""
    attempt = NanotronAttempt(root=tmp_path_factory.mktemp("alone"), training=TRAINING, settings=SETTINGS, **inputs)
    with NothingRefused():
        attempt.metrics = attempt.run()
    return attempt


@pytest.fixture(scope="session")
def with_torch(tmp_path_factory: pytest.TempPathFactory, inputs: dict[str, Path]) -> Callable[[str], Attempt]:
    """The same training by the torch backend, in a precision."""
    finished: dict[str, Attempt] = {}

    def make(precision: str) -> Attempt:
        if precision not in finished:
            root = tmp_path_factory.mktemp(f"torch-{precision}")
            finished[precision] = Attempt(root=root, training={**TRAINING, "precision": precision}, **inputs)
            finished[precision].run()
        return finished[precision]

    return make
