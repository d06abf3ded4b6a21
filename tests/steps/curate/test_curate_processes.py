"""Several processes give what one gives; and a process that dies says so."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from tests.steps.conftest import manifest_of_folder, request_of

from forge.contract.messages import Resources
from forge.errors import StepError
from forge.steps import curate
from forge.steps.curate import documents, processes, worker
from forge.steps.run import StepRun

FULL = {
    "sources": [{}, {}],
    "filters": {"gopher_repetition": {}, "gopher_quality": {"max_non_alpha_words_ratio": 0.5}},
    "dedup": {"exact": True, "minhash": {}},
    "pii": {"emails": True},
    "split": {"validation_fraction": 0.2, "seed": 3},
}


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "BLOCK_BYTES", 20_000)
    monkeypatch.setattr(curate, "BLOCK_BYTES", 20_000)


def write(folder: Path, lines: list[str]) -> Path:
    folder.mkdir()
    (folder / "00000.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return folder


def run_with(folder: Path, threads: int, inputs: dict[str, Path]) -> dict[str, str]:
    (folder / "output").mkdir(parents=True)
    request = request_of(folder, "curate", FULL, dict(inputs)).model_copy(update={"resources": Resources(threads=threads)})
    curate.run(StepRun(request, folder))
    return {path.name: manifest_of_folder(path).digest for path in (folder / "output").iterdir()}


@pytest.mark.usefixtures("small_blocks")
def test_the_number_of_processes_changes_no_byte(handbook_source: Path, tmp_path: Path) -> None:
    lines = [json.dumps({"id": str(number), "text": f"Text {number % 40} of the other source. " * 20}) for number in range(200)]
    inputs = {"source-0": handbook_source, "source-1": write(tmp_path / "other", lines)}
    found = [run_with(tmp_path / str(threads), threads, inputs) for threads in (1, 2, 3)]
    assert found[0] == found[1] == found[2]
    report = json.loads((tmp_path / "3" / "output" / "report" / "report.json").read_text())
    assert report["sources"][0]["read"]["documents"] > 50


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("threads", [1, 3])
def test_of_several_faults_the_first_in_reading_order_is_told(threads: int, tmp_path: Path) -> None:
    good = json.dumps({"id": "a", "text": "word " * 3000})
    source = write(tmp_path / "s", [*[good] * 20, '{"id": 1}', *[good] * 20, "{broken", "x" * 100])
    with pytest.raises(StepError, match="line 21: no key 'text'"):
        run_with(tmp_path / "run", threads, {"source-0": source, "source-1": source})


def test_a_worker_that_is_killed_ends_the_step_as_a_fault_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    def die(_self: object, _block: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(worker.Worker, "judge", die)
    blocks = [documents.Block(0, "here", [(1, b"{}")])] * 9
    with pytest.raises(OSError, match="was killed, as a rule for want of memory"):
        list(processes.judged(blocks, worker.Worker(FULL, []), 2))


PARENT = """
import sys, time
from forge.steps.curate import documents, processes, worker
worker.Worker.judge = lambda self, block: time.sleep(60)
blocks = [documents.Block(0, "here", [(1, b"{}")])] * 9
print("started", flush=True)
list(processes.judged(blocks, worker.Worker({"sources": [{}], "split": {"validation_fraction": 0.5}}, []), 2))
"""


def test_workers_end_with_the_process_that_started_them() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        deadline = time.monotonic() + 30
        workers: list[psutil.Process] = []
        while len(workers) < 2 and time.monotonic() < deadline:
            workers = psutil.Process(parent.pid).children(recursive=True)
            time.sleep(0.05)
        time.sleep(0.5)
        parent.kill()
    gone, alive = psutil.wait_procs(workers, timeout=10)
    assert len(gone) == 2
    assert not alive
