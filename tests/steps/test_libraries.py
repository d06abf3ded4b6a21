"""A step looks up what it rests on before its work: what is missing costs nothing, and what is not used is not asked for."""

import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tests.steps.conftest import request_of

from forge.contract.kinds import STEPS, StepKind
from forge.contract.messages import FAILURE_FILE, RESULT_FILE, FailureCause, StepFailure, StepResult
from forge.steps import process
from forge.steps.interruption import StopRequest
from forge.steps.run import StepRun

TUNING = {"transformers", "trl", "peft", "accelerate"}
ALL = {*TUNING, "phonenumberslite"}


def train(folder: Path, parameters: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Process a train step whose work is to say that it was done; returns whether it was."""
    worked: list[str] = []

    def run(run: StepRun) -> dict[str, float]:
        worked.append("worked")
        for product in STEPS[StepKind.TRAIN].products:
            run.product(product)
        return {}

    stand_in = ModuleType("stand_in")
    stand_in.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "stand_in", stand_in)
    monkeypatch.setitem(process._MODULES, StepKind.TRAIN, ("stand_in", process._MODULES[StepKind.TRAIN][1]))
    path = folder / "request.json"
    path.write_text(request_of(folder, "train", parameters, {}).model_dump_json())
    process.process_request([str(path)], StopRequest())
    return worked


def without(monkeypatch: pytest.MonkeyPatch, *missing: str) -> None:
    def look(name: str) -> str:
        if name in missing:
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(process, "version", look)


@pytest.mark.parametrize(
    ("parameters", "used"),
    [
        ({"objective": "pretrain"}, set()),
        ({"objective": "continue"}, set()),
        ({"objective": "pretrain", "backend": "nanotron"}, {"transformers"}),
        ({"objective": "sft"}, TUNING),
        (
            {"objective": "sft", "conversations": {"pii": {"phone_numbers": True, "phone_regions": ["DE"]}}},
            {*TUNING, "phonenumberslite"},
        ),
        ({"objective": "dpo"}, TUNING),
    ],
)
def test_a_training_names_the_libraries_of_its_objective_and_backend(
    tmp_path: Path, parameters: dict[str, Any], used: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, *ALL - used)
    assert train(tmp_path, parameters, monkeypatch)
    environment = StepResult.model_validate_json((tmp_path / RESULT_FILE).read_bytes()).environment
    assert environment.keys() & {*ALL, "torch", "safetensors"} == {*used, "torch", "safetensors"}
    assert all(environment[library] == version(library) for library in used)


def test_a_library_that_is_missing_is_refused_before_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "trl", "peft")
    assert not train(tmp_path, {"objective": "sft"}, monkeypatch)
    failure = StepFailure.model_validate_json((tmp_path / FAILURE_FILE).read_bytes())
    assert failure.cause is FailureCause.INPUT
    assert "this train step needs trl, peft, not installed" in failure.message
    assert "-m pip install trl peft`" in failure.message
