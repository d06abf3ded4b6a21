"""Ways to run a step: as a process through its request file, as the control plane does, or in this process for bad input."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.steps.fake_device import build_device

from forge.canonical import digest_of_bytes
from forge.contract.kinds import STEPS, StepKind
from forge.contract.manifest import Manifest, manifest_of
from forge.contract.messages import InputArtifact, StepRequest
from forge.steps.run import StepRun

NO_DIGEST = "sha256:" + "0" * 64


def manifest_of_folder(folder: Path) -> Manifest:
    """What the store would name a product."""
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return manifest_of({name: (len(data), digest_of_bytes(data)) for name, data in files.items()})


@pytest.fixture(scope="session")
def missing_device(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library with the CUDA device that this torch lacks (``tests.steps.fake_device``)."""
    if shutil.which("g++") is None:
        pytest.skip("the device that is not there is written in C++, and there is no g++ on this machine")
    return build_device(tmp_path_factory.mktemp("fake-cuda"))


@dataclass(frozen=True)
class Finished:
    """A step process that ended."""

    status: int
    folder: Path
    stderr: str

    @property
    def failure(self) -> dict[str, Any]:
        return json.loads((self.folder / "failure.json").read_text())

    @property
    def metrics(self) -> dict[str, Any]:
        return json.loads((self.folder / "result.json").read_text())["metrics"]

    def product(self, name: str) -> Path:
        assert self.status == 0, self.stderr
        return self.folder / "output" / name

    def digests(self) -> dict[str, str]:
        output = self.folder / "output"
        return {path.name: manifest_of_folder(path).digest for path in sorted(output.iterdir())}


def request_of(
    folder: Path, step: str, parameters: dict[str, Any], inputs: dict[str, Path | None], attempt: int = 1
) -> StepRequest:
    """A request whose folders lie under ``folder``."""
    return StepRequest(
        step=StepKind(step),
        step_version=STEPS[StepKind(step)].version,
        key="sha256:" + "1" * 64,
        subject="Test/subject",
        parameters=parameters,
        inputs={
            name: InputArtifact(digest=NO_DIGEST, path=None if path is None else str(path)) for name, path in inputs.items()
        },
        output=str(folder / "output"),
        scratch=str(folder / "scratch"),
        attempt=attempt,
    )


def run_process(folder: Path, request: StepRequest) -> Finished:
    """``python -m forge.steps REQUEST``."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "request.json"
    path.write_text(request.model_dump_json())
    done = subprocess.run(
        [sys.executable, "-m", "forge.steps", str(path)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    return Finished(done.returncode, folder, done.stderr)


RunStep = Callable[..., Finished]
MakeRun = Callable[..., StepRun]


@pytest.fixture
def run_step(tmp_path: Path) -> RunStep:
    """Run a step in a process and a folder of its own: ``run_step("curate", parameters, {"source-0": folder})``."""
    count = iter(range(100))

    def run(step: str, parameters: dict[str, Any], inputs: dict[str, Path | None], attempt: int = 1) -> Finished:
        folder = tmp_path / f"run-{next(count)}"
        return run_process(folder, request_of(folder, step, parameters, inputs, attempt))

    return run


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """What a step module's ``run`` is given, for calls in this process."""
    count = iter(range(100))

    def make(step: str, parameters: dict[str, Any], inputs: dict[str, Path | None]) -> StepRun:
        folder = tmp_path / f"inside-{next(count)}"
        (folder / "output").mkdir(parents=True)
        return StepRun(request_of(folder, step, parameters, inputs), folder)

    return make


@pytest.fixture
def own_environment() -> Iterator[None]:
    """For steps that forget credentials in this process: the environment is as before afterwards."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def handbook_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source folder with one of the example's manuals."""
    corpus = Path(__file__).resolve().parents[2] / "models" / "handbook" / "corpus"
    folder = tmp_path_factory.mktemp("source")
    shutil.copyfile(corpus / "developers-reference.jsonl.gz", folder / "00000.jsonl.gz")
    return folder


@pytest.fixture(scope="session")
def curated(handbook_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The product ``documents`` of that source."""
    folder = tmp_path_factory.mktemp("curated")
    parameters = {"sources": [{}], "split": {"validation_fraction": 0.1}}
    return run_process(folder, request_of(folder, "curate", parameters, {"source-0": handbook_source})).product("documents")


@pytest.fixture(scope="session")
def tokenizer(curated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The product ``tokenizer`` of those documents."""
    folder = tmp_path_factory.mktemp("tokenizer")
    request = request_of(folder, "tokenizer", {"vocab_size": 600}, {"documents": curated})
    return run_process(folder, request).product("tokenizer")
