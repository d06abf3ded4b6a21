"""Where the ranks run: one process trains in the step's own; more are started by torchrun on this machine.

The ranks find each other through files and speak over the loopback interface. torchrun's usual rendezvous is a TCP store
that listens on every interface and unpickles what it is sent, so it is not used.

The step process stays their parent: it passes SIGTERM on, collects what rank 0 measured, and turns a rank's failure
into its own. It imports no torch itself when it only launches.
"""

import json
import math
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from forge.canonical import canonical_json
from forge.contract.verdict import DIVERGED, DIVERGED_FILE
from forge.errors import StepError
from forge.steps.imports import quick_imports
from forge.steps.interruption import StoppedError, StopRequest
from forge.steps.run import Metrics, StepRun
from forge.steps.train.job import TUNED, TrainJob, read_job

_FILE = "ranks"
_WORKER = "forge.steps.train.worker"
_TUNING_WORKER = "forge.steps.finetune.worker"
_POLL_SECONDS = 0.2
_SPIN_COUNT = "100000"
"""How long an idle OpenMP thread spins before it sleeps (libgomp: 300,000 by default).

A spinning thread burns the core that the other one waits for when the machine has other work: training ran at a tenth of
its speed there. Single runs on two idle cores: 12.0 k tokens a second with this value, 12.7 k with 30,000,000, 10.7 k with
3,000. It changes no bit of the result.
"""


def launch(run: StepRun) -> Metrics:
    """Train with as many processes as the request asks for."""
    job = read_job(run.request)
    metrics = _launch(run, job)
    if not job.searched:
        return metrics
    finite = {name: value for name, value in metrics.items() if not isinstance(value, float) or math.isfinite(value)}
    taken = int(metrics["optimizer_steps"])
    if taken == job.total_steps:
        return finite
    # Beside the weights, so that whoever measures them knows: no gate passes them, and no search picks them.
    (run.product("weights") / DIVERGED_FILE).write_bytes(canonical_json({DIVERGED: taken + 1}) + b"\n")
    return {**finite, DIVERGED: taken + 1}


def _launch(run: StepRun, job: TrainJob) -> Metrics:
    os.environ.setdefault("GOMP_SPINCOUNT", _SPIN_COUNT)  # read once, when torch is imported below
    if job.architecture.rope_scaling is not None:
        run.environment["transformers"] = version("transformers")  # it works out the frequencies
    if job.objective in TUNED:
        if job.processes > 1 or job.accelerator != "cpu":  # without torchrun, transformers would take every device it sees
            return under_torchrun(run, job, _TUNING_WORKER)
        with quick_imports():
            from forge.steps.finetune import train as finetune

        return finetune(run, job)
    if job.nanotron is not None:
        from forge.steps.nanotron import train as with_nanotron

        return with_nanotron(run, job)
    if job.processes > 1:
        return under_torchrun(run, job)
    with quick_imports():
        from forge.steps.train.worker import train

    return train(run)


def torchrun_command(job: TrainJob, request: Path, result: Path, worker: str = _WORKER) -> list[str]:
    """The ranks of one machine; a failed rank ends the others and is not restarted: attempts are the launcher's."""
    return [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nnodes=1",
        f"--nproc-per-node={job.processes}",
        "--rdzv-backend=c10d",
        "--rdzv-conf=store_type=file",
        f"--rdzv-endpoint={result.with_suffix('.rendezvous')}",
        f"--rdzv-id={job.key.removeprefix('sha256:')[:16]}-{job.attempt}",
        "--local-addr=127.0.0.1",
        f"--log-dir={result.with_suffix('.logs')}",  # its own choice is a new folder in /tmp that stays there
        "--max-restarts=0",
        "-m",
        worker,
        str(request),
        str(result),
    ]


def under_torchrun(run: StepRun, job: TrainJob, worker: str = _WORKER) -> Metrics:
    """Start the module ``worker`` once for each rank, and return what rank 0 measured."""
    request, result = run.folder / f"{_FILE}.request.json", run.folder / f"{_FILE}.result"
    for left in run.folder.glob(f"{_FILE}.*"):
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    request.write_text(run.request.model_dump_json(), encoding="utf-8")
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(job.threads),
        "GLOO_SOCKET_IFNAME": "lo",
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    }
    with run.stop.deferred():
        status = _launch_and_wait(torchrun_command(job, request, result, worker), environment, run.stop)
    if status == 0 and result.is_file():
        metrics: Metrics = json.loads(result.read_text(encoding="utf-8"))
        return metrics
    failures = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(run.folder.glob(f"{_FILE}.failure-*"))]
    stopped = next((failure for failure in failures if failure["stopped"]), None)
    if stopped is not None and run.stop.reason:
        raise StoppedError(stopped["message"])
    run.stop.check()
    raise _error_of(failures, job, status)


def _launch_and_wait(command: list[str], environment: dict[str, str], stop: StopRequest) -> int:
    """Run torchrun; a request to stop is passed on once, for a second signal would cut short how it ends its ranks.

    It has a session of its own, so that a signal to this process's group reaches it only from here. The pipe tells the ranks
    when this process ends; nothing is written to it.
    """
    process = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment, start_new_session=True)
    while process.poll() is None and not stop.reason:
        with suppress(subprocess.TimeoutExpired):
            process.wait(_POLL_SECONDS)
    if process.poll() is None:
        process.terminate()
    return process.wait()


def _error_of(failures: list[dict[str, Any]], job: TrainJob, status: int) -> Exception:
    """The failure that explains most.

    One of the machine's before the others, then one that names its reason; a rank that left no word was killed, and the
    others' lost connections, or the request to stop that torchrun sent them, follow from that.
    """
    reasons = [failure for failure in failures if failure["known"] and not failure["stopped"]]
    first = next((failure for failure in reasons if failure["errno"] is not None), reasons[0] if reasons else None)
    if first is not None:
        error = StepError(f"{first['message']} (rank {first['rank']} of {job.processes})")
        if first["errno"] is not None:
            error.__cause__ = OSError(first["errno"], os.strerror(first["errno"]))
        return error
    killed = sorted(set(range(job.processes)) - {failure["rank"] for failure in failures})
    if killed and len(killed) < job.processes:
        ranks = ", ".join(str(rank) for rank in killed)
        error = StepError(
            f"{job.subject}: rank {ranks} of {job.processes} was killed (by the kernel where memory ran out, or by hand); the "
            "others were ended. The last checkpoint is kept, and the next attempt goes on from there"
        )
        error.__cause__ = MemoryError("a training process was killed")
        return error
    said = f": {failures[0]['message']} (rank {failures[0]['rank']})" if failures else ""
    return RuntimeError(f"{job.subject}: torchrun ended with status {status}{said}; the ranks' output is in this step's log")
