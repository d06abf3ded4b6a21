"""Several recipes in a training by nanotron: what it reads is what the torch backend reads, to the token."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.steps.nanotron.conftest import NanotronAttempt
from tests.steps.train.conftest import write_tokens
from tests.steps.train.test_train_mixture import Mixed, other_documents

from forge.errors import StepError
from forge.steps.nanotron import batches
from forge.steps.nanotron.batches import training_batches
from forge.steps.train import loop
from forge.steps.train.data import MixedIn, open_corpus, training_batch

Parts = list[tuple[Path, dict[str, float]]]


@dataclass
class MixedByNanotron(NanotronAttempt, Mixed):
    """An attempt with ``backend: nanotron`` that reads other data too."""


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    folders = []
    for number, (low, high) in enumerate(((259, 300), (300, 340))):
        documents = other_documents(number, low, high)
        folders.append(write_tokens(tmp_path_factory.mktemp(f"other-{number}"), documents, documents[:5]))
    return [(folders[0], {"fraction": 0.25}), (folders[1], {"fraction": 0.1, "max_epochs": 2.0})]


def rows_read(monkeypatch: pytest.MonkeyPatch, module: Any, train: Callable[[], Any]) -> tuple[list[list[int]], Any]:
    """The windows that a training reads, in order, each with its last target; and its metrics."""
    rows: list[list[int]] = []

    def seen(*arguments: Any, **named: Any) -> Any:
        batch = training_batch(*arguments, **named)
        rows.extend(
            [*inputs, targets[-1]] for inputs, targets in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True)
        )
        return batch

    with monkeypatch.context() as patch:
        patch.setattr(module, "training_batch", seen)
        metrics = train()
    return rows, metrics


def test_it_reads_the_tokens_of_each_recipe_that_the_torch_backend_reads(
    inputs: dict[str, Path], parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = MixedByNanotron(tmp_path / "nanotron", **inputs, parts=parts)
    theirs = Mixed(tmp_path / "torch", **inputs, parts=parts)
    found, metrics = rows_read(monkeypatch, batches, ours.run)
    expected, of_torch = rows_read(monkeypatch, loop, theirs.run)
    assert found == expected
    counted = Counter(token for row in found for token in row[1:])
    assert counted.total() == metrics["tokens"] == 256 * 12
    assert counted == Counter(token for row in expected for token in row[1:])
    for name in ("mixture_0_tokens", "mixture_0_epochs", "mixture_1_tokens", "mixture_1_epochs", "epochs", "tokens"):
        assert metrics[name] == of_torch[name], name
    assert (metrics["mixture_0_tokens"], metrics["mixture_1_tokens"]) == (24 * 32, 9 * 32)
    assert metrics["train_loss"] == pytest.approx(of_torch["train_loss"], rel=1e-5)
    assert metrics["validation_loss"] == pytest.approx(of_torch["validation_loss"], rel=1e-5)
    weights, others = (load_file(each.weights / "model.safetensors") for each in (ours, theirs))
    for name, tensor in others.items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize(("processes", "layout"), [(2, {}), (4, {"tensor_parallel": 2}), (2, {"pipeline_parallel": 2})])
def test_the_copies_share_a_mixture_as_they_share_one_recipe(
    inputs: dict[str, Path], parts: Parts, tmp_path: Path, processes: int, layout: dict[str, int]
) -> None:
    attempt = MixedByNanotron(tmp_path, **inputs, parts=parts, processes=processes, layout=layout)
    job, own = attempt.job(), open_corpus(attempt.tokens).train
    mixed_in = tuple(
        MixedIn(open_corpus(folder).train, share.fraction) for (folder, _), share in zip(parts, job.mixture, strict=True)
    )
    mixture = replace(own, mixed_in=mixed_in)
    for step in range(job.total_steps):
        found = [each.targets for copy in range(job.copies) for each in training_batches(job, mixture, step, copy)]
        expected = training_batch(mixture, 32, job.training.seed, step * job.batch_sequences, job.batch_sequences)
        assert torch.equal(torch.cat(found), expected.targets)


def test_data_that_would_be_read_too_often_is_refused_before_the_first_step(
    inputs: dict[str, Path], parts: Parts, tmp_path: Path
) -> None:
    often = [(parts[0][0], {"fraction": 0.75, "max_epochs": 1.0})]
    with pytest.raises(StepError, match=r"mixture\[0\] would be read 1\.09 times"):
        MixedByNanotron(tmp_path, **inputs, parts=often).run()
