"""SIGTERM ends every kind of step soon, with ``failure.json`` and the cause ``stopped``, wherever it stands."""

import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from tests.steps.conftest import request_of

from forge.contract.kinds import STEPS, StepKind
from forge.contract.messages import FAILURE_FILE, RESULT_FILE, FailureCause, StepFailure

SOON_SECONDS = 30
"""On a busy machine; an interpreter that loads torch takes some of it."""


def start(folder: Path, kind: StepKind, code: str) -> "subprocess.Popen[str]":
    """A step process whose step's code is this: ``run`` of a module that stands in for the kind's own."""
    folder.mkdir(parents=True, exist_ok=True)
    request = request_of(folder, kind.value, {}, {})
    (folder / "request.json").write_text(request.model_dump_json())
    (folder / "stand_in.py").write_text(textwrap.dedent(code))
    program = f"""
        import sys
        sys.path.insert(0, {str(folder)!r})
        from forge.contract.kinds import StepKind
        from forge.steps import interruption, process
        from forge.steps.__main__ import main
        process._MODULES[StepKind({kind.value!r})] = ("stand_in", ())
        interruption.PATIENCE_SECONDS = 0.5
        raise SystemExit(main([{str(folder / "request.json")!r}]))
        """
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], stderr=subprocess.PIPE, text=True)


def wait_for(path: Path, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + SOON_SECONDS
    while not path.exists():
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < deadline
        time.sleep(0.01)


def ended(folder: Path, process: "subprocess.Popen[str]") -> StepFailure:
    _, errors = process.communicate(timeout=SOON_SECONDS)
    assert process.returncode == 1, errors
    assert not (folder / RESULT_FILE).exists()
    return StepFailure.model_validate_json((folder / FAILURE_FILE).read_bytes())


@pytest.mark.parametrize("kind", list(StepKind))
def test_every_kind_of_step_ends_as_stopped(tmp_path: Path, kind: StepKind) -> None:
    code = """
        import pathlib, time
        def run(run):
            (run.folder / "working").touch()
            time.sleep(600)
        """
    process = start(tmp_path, kind, code)
    wait_for(tmp_path / "working", process)
    process.terminate()
    failure = ended(tmp_path, process)
    assert failure.cause is FailureCause.STOPPED
    then = "goes on from its last checkpoint" if kind is StepKind.TRAIN else "starts anew"
    assert failure.message == f"Test/subject: stopped by SIGTERM; the next attempt {then}"


STUBBORN = {
    "swallows it": """
        import time
        def run(run):
            (run.folder / "working").touch()
            while True:
                try:
                    time.sleep(600)
                except BaseException:
                    pass
        """,
    "waits where no Python runs": """
        import ctypes
        def run(run):
            libc = ctypes.CDLL(None)
            (run.folder / "working").touch()
            while True:
                libc.usleep(900_000)
                libc.sleep(600)
        """,
    "takes it for a fault of its own": """
        import time
        def run(run):
            (run.folder / "working").touch()
            try:
                time.sleep(600)
            except BaseException as error:
                raise RuntimeError("the iterator failed") from error
        """,
}


@pytest.mark.parametrize("how", STUBBORN)
def test_code_that_does_not_answer_is_ended_all_the_same(tmp_path: Path, how: str) -> None:
    process = start(tmp_path, StepKind.TOKENIZER, STUBBORN[how])
    wait_for(tmp_path / "working", process)
    process.terminate()
    failure = ended(tmp_path, process)
    assert failure.cause is FailureCause.STOPPED
    assert failure.message.startswith("Test/subject: stopped by SIGTERM")


def test_many_signals_are_one_request(tmp_path: Path) -> None:
    code = """
        import time
        def run(run):
            (run.folder / "working").touch()
            try:
                time.sleep(600)
            finally:
                time.sleep(0.3)
        """
    process = start(tmp_path, StepKind.CURATE, code)
    wait_for(tmp_path / "working", process)
    while process.poll() is None:
        process.terminate()
        time.sleep(0.01)
    assert ended(tmp_path, process).cause is FailureCause.STOPPED


def test_a_child_that_a_step_forks_and_ends_is_no_request_to_stop(tmp_path: Path) -> None:
    code = """
        import os, signal, time
        def run(run):
            child = os.fork()
            if child == 0:
                time.sleep(600)
            time.sleep(0.5)
            os.kill(child, signal.SIGTERM)
            _, status = os.waitpid(child, 0)
            assert os.WTERMSIG(status) == signal.SIGTERM
            time.sleep(1.5)  # longer than the thread's patience
            run.product("verdict")
            return {}
        """
    process = start(tmp_path, StepKind.GATE, code)
    _, errors = process.communicate(timeout=SOON_SECONDS)
    assert process.returncode == 0, errors


def test_a_fault_without_a_request_to_stop_keeps_its_cause(tmp_path: Path) -> None:
    process = start(tmp_path, StepKind.GATE, "def run(run):\n    raise RuntimeError('broken')\n")
    failure = ended(tmp_path, process)
    assert (failure.cause, failure.message) == (FailureCause.INTERNAL, "RuntimeError: broken")


def test_only_training_and_curation_have_byproducts() -> None:
    assert {kind: definition.byproducts for kind, definition in STEPS.items() if definition.byproducts} == {
        StepKind.CURATE: ("survey", "inventory"),
        StepKind.TRAIN: ("checkpoint",),
    }
