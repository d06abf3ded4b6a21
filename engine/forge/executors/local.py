"""Steps as processes on this machine.

Invariant: at most one live process per step key. The launcher takes an flock on ``work/KEY/lock`` and hands the open file
to the child, so the lock lives exactly as long as the step does, whatever happens to the launcher: a step that outlived
its parent is seen by the lock it holds, awaited, and never doubled. This is no security boundary: a step runs as the
same user; its environment is an allow-list, and its home an empty folder.
"""

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
from pydantic import ValidationError

from forge.contract.messages import (
    FAILURE_FILE,
    REQUEST_FILE,
    RESULT_FILE,
    FailureCause,
    StepFailure,
    StepRequest,
    StepResult,
)
from forge.errors import StepError
from forge.executors.devices import VISIBLE, lend
from forge.executors.events import EventTail, OnEvent
from forge.executors.killed import told_of_kill
from forge.executors.workspace import Workspace, step_lock
from forge.faults import reached

_PASSED_ON = (
    "PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "TMPDIR", "TZ", VISIBLE, "CUDA_DEVICE_ORDER",
    "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF",
    "CC", "CXX", "CUDA_HOME", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR",
)  # fmt: skip
"""The last five are for `training.compile`: its compilers, and where what was compiled is kept for the next attempt. The two
before them say how torch keeps a device's memory, and change no result."""
_FOR_FETCHING = re.compile(
    r"(?i:(https?|all|no)_proxy)|SSL_CERT_(FILE|DIR)|NETRC|AWS_[A-Z0-9_]+|AZURE_STORAGE_[A-Z0-9_]+"
    r"|GOOGLE_APPLICATION_CREDENTIALS|FORGE_GIT_CREDENTIALS"
)
"""What a step that reads from outside of the repository gets besides: the way there, and credentials by the names that the
backends read. It drops them before it reads a document. No agent of ssh: keys to sign with may be in it."""
LOG_FILE = "step.log"
"""What the process wrote to stdout and stderr."""
_PROCESS_FILE = "process.json"
_LEAST_FREE_BYTES = 64 * 1024
"""Of the disk that holds an attempt: with less, a step that ended without a word ended for want of it."""


class Job:
    """One attempt of a step, at work on this machine: launched here, or found at work and watched."""

    def __init__(self, space: Workspace, attempt: int, process: subprocess.Popen[bytes] | None, on_event: OnEvent) -> None:
        self.space = space
        self.attempt = attempt
        self.adopted = process is None
        self._process = process
        self._is_killed = False
        self._tail = EventTail(space.attempt(attempt), on_event)

    def is_over(self) -> bool:
        """Pass on new events; whether the attempt has ended."""
        self._tail.read()
        if self._process is not None:
            over = self._process.poll() is not None
        else:
            with step_lock(self.space) as lock:
                over = lock is not None
        if over:
            self._tail.read()
        return over

    def outcome(self) -> tuple[StepResult, Path]:
        """The result of an attempt that is over; raises StepFailedError with the step's own words, or its last log lines."""
        status = self._process.returncode if self._process is not None else None
        return _outcome(self.space, self.attempt, status, is_killed=self._is_killed)

    def ask_to_stop(self) -> None:
        """Ask politely: a train step writes a checkpoint first."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once; its last checkpoint stays."""
        self._is_killed = True
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        pid = self._process.pid if self._process is not None else living_process(self.space)
        if pid is not None and (self._process is None or self._process.poll() is None):
            with suppress(ProcessLookupError):
                os.killpg(pid, number)


def launch(request: StepRequest, space: Workspace, lock: int, on_event: OnEvent) -> Job:
    """Start an attempt in a session of its own. It inherits the lock: the caller may close its own copy.

    Where too few devices are free the attempt is over at once, and has failed for want of a resource.
    """
    folder = space.attempt(request.attempt)
    folder.mkdir(parents=True)
    (folder / REQUEST_FILE).write_text(request.model_dump_json(indent=1) + "\n")
    home = space.folder / "home"
    home.mkdir(exist_ok=True)
    reached("executor.launch.before")
    with (folder / LOG_FILE).open("wb") as log, lend(request.resources, space.folder.parent / "devices") as lent:
        if lent.refusal is not None:
            return _not_started(request, space, lent.refusal, on_event)
        process = subprocess.Popen(
            [sys.executable, "-m", "forge.steps", str(folder / REQUEST_FILE)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=_environment(request, home) | ({VISIBLE: ",".join(lent.names)} if lent.names else {}),
            cwd=folder,
            pass_fds=(lock, *lent.locks),
            start_new_session=True,
        )
    reached("executor.launch.after")
    _write_process_file(folder, process.pid)
    return Job(space, request.attempt, process, on_event)


def _not_started(request: StepRequest, space: Workspace, why: str, on_event: OnEvent) -> Job:
    failure = StepFailure(
        key=request.key, attempt=request.attempt, cause=FailureCause.RESOURCE, message=f"{request.subject}: {why}"
    )
    (space.attempt(request.attempt) / FAILURE_FILE).write_text(failure.model_dump_json(indent=1) + "\n")
    return Job(space, request.attempt, None, on_event)


def adopt(space: Workspace, on_event: OnEvent) -> Job:
    """Watch the step process that holds the key's lock: it outlived its launcher."""
    return Job(space, max(space.attempts(), default=1), None, on_event)


def living_process(space: Workspace) -> int | None:
    """The pid of the newest attempt's process, if that very process (pid and start time) still lives."""
    for number in reversed(space.attempts()):
        path = space.attempt(number) / _PROCESS_FILE
        if path.exists():
            with suppress(psutil.NoSuchProcess, ValueError):
                known = json.loads(path.read_text())
                if abs(psutil.Process(known["pid"]).create_time() - known["started"]) < 1:
                    return int(known["pid"])
            return None
    return None


class StepFailedError(StepError):
    """A step ended without a result."""

    def __init__(self, message: str, cause: FailureCause, attempt: int) -> None:
        self.cause = cause
        self.attempt = attempt
        super().__init__(message)


def _outcome(space: Workspace, attempt: int, status: int | None, *, is_killed: bool = False) -> tuple[StepResult, Path]:
    folder = space.attempt(attempt)
    if (folder / RESULT_FILE).exists():
        return StepResult.model_validate_json((folder / RESULT_FILE).read_bytes()), folder / "output"
    log = folder / LOG_FILE
    try:
        failure = StepFailure.model_validate_json((folder / FAILURE_FILE).read_bytes())
    except (OSError, ValidationError):
        if status == -signal.SIGKILL and not is_killed:
            raise StepFailedError(f"{told_of_kill(space, attempt)} (log: {log})", FailureCause.RESOURCE, attempt) from None
        if status is None:
            how = "ended"
        else:
            how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"exited with status {status}"
        lines = log.read_text(errors="replace").splitlines()[-8:]
        if (free := _free_bytes(folder)) < _LEAST_FREE_BYTES:
            full = f"the disk that holds {folder} is full ({free} bytes are free); free some space and apply again"
            message = "\n".join([f"the step process {how} and could not say why: {full}", *lines])
            raise StepFailedError(message, FailureCause.RESOURCE, attempt) from None
        message = "\n".join([f"the step process {how} without a word; its log ({log}) ends:", *lines])
        raise StepFailedError(message, FailureCause.INTERNAL, attempt) from None
    where = f" (log: {log})" if failure.cause is FailureCause.INTERNAL else ""
    raise StepFailedError(failure.message + where, failure.cause, attempt)


def _free_bytes(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def _environment(request: StepRequest, home: Path) -> dict[str, str]:
    threads = str(request.resources.threads)
    return {
        **{name: os.environ[name] for name in _PASSED_ON if name in os.environ},
        **({name: value for name, value in os.environ.items() if _FOR_FETCHING.fullmatch(name)} if request.downloads else {}),
        "HOME": str(home),
        "HF_HOME": str(home / "huggingface"),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "PYTHONHASHSEED": "0",
        "PYTHONUNBUFFERED": "1",
    }


def _write_process_file(folder: Path, pid: int) -> None:
    with suppress(psutil.NoSuchProcess):  # it ended already: nothing to find later
        started = psutil.Process(pid).create_time()
        (folder / _PROCESS_FILE).write_text(json.dumps({"schema_version": 1, "pid": pid, "started": started}))
