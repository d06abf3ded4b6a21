"""Starting, watching and ending an engine, with a small program in vLLM's place; and what the agent refuses to start."""

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from forge.errors import ServeError
from forge.serve import engine_guard
from forge.serve.agent import ServeSettings, serve
from forge.serve.engine import EngineSettings, EngineSupervisor, engine_command, engine_environment, next_delay
from forge.serve.pull import check_weights
from forge.serve.release import ServableRelease
from forge.store.store import manifest_of_folder

WITH_CHILD = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(os.getpid(), child.pid, flush=True)
time.sleep(60)
"""


def guarded(*command: str, scratch: Path = Path("nowhere")) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-I", engine_guard.__file__, str(scratch), *command],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def family_of(guard: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    assert guard.stdout is not None
    return [psutil.Process(int(pid)) for pid in guard.stdout.readline().split()]


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def are_gone(processes: list[psutil.Process]) -> bool:
    """Whether none of them runs any more; an orphan that the machine's first process has not reaped yet is gone too."""
    deadline = time.monotonic() + 5
    while any(_runs(process) for process in processes):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_when_the_agent_is_gone_the_engine_and_its_workers_are_killed_and_leave_no_files(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    (scratch / "sockets").mkdir(parents=True)
    guard = guarded(sys.executable, "-c", WITH_CHILD, scratch=scratch)
    family = family_of(guard)
    assert guard.stdin is not None
    guard.stdin.close()  # what the kernel does when the agent is killed
    assert guard.wait(5) == -signal.SIGKILL
    assert are_gone(family)
    deadline = time.monotonic() + 15
    while scratch.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert tmp_path.exists()


def test_when_the_guard_is_killed_the_engine_dies_with_it() -> None:
    guard = guarded(sys.executable, "-c", WITH_CHILD)
    engine, worker = family_of(guard)
    guard.kill()
    assert are_gone([engine])
    worker.kill()


def test_the_guard_outlives_sigterm_and_ends_with_the_engines_status() -> None:
    assert guarded(sys.executable, "-c", "raise SystemExit(7)").wait(5) == 7
    guard = guarded(sys.executable, "-c", WITH_CHILD)
    family_of(guard)
    os.killpg(guard.pid, signal.SIGTERM)
    assert guard.wait(5) == 128 + signal.SIGTERM
    os.killpg(guard.pid, signal.SIGKILL)


def test_delays_double_to_a_minute_and_start_anew_after_a_steady_time() -> None:
    delays: list[float] = []
    for _ in range(9):
        delays.append(next_delay(delays[-1] if delays else None, 0))
    assert delays == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert next_delay(60, 299) == 60
    assert next_delay(60, 300) == 1


def engine_settings(folder: Path, **changes: object) -> EngineSettings:
    settings = EngineSettings(
        python=sys.executable, log_folder=folder, environment=dict(os.environ), check=lambda release: None, start_seconds=20
    )
    return replace(settings, **changes)  # type: ignore[arg-type]


def first_reason(release: ServableRelease, settings: EngineSettings) -> str:
    """Run a supervisor until it says for the first time how the engine is."""

    async def run() -> str:
        reasons: asyncio.Queue[str | None] = asyncio.Queue()
        supervisor = EngineSupervisor(release, settings, lambda reason, _: reasons.put_nowait(reason))
        task = asyncio.create_task(supervisor.run())
        reason = await asyncio.wait_for(reasons.get(), 30)
        assert supervisor.address() is None
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return str(reason)

    return asyncio.run(run())


def python_that(folder: Path, body: str) -> str:
    """A program in the place of Python, which runs the guard as Python does and does something else for vLLM."""
    script = folder / "python"
    script.write_text(f'#!/bin/sh\nif [ "$1" = -I ]; then exec {sys.executable} "$@"; fi\n{body}\n')
    script.chmod(0o755)
    return str(script)


def test_an_engine_that_does_not_come_up_says_why(release: ServableRelease, tmp_path: Path) -> None:
    python = python_that(tmp_path, 'echo "loading"; echo "no such model" >&2; exit 3')
    reason = first_reason(release, engine_settings(tmp_path, python=python))
    assert reason.startswith("vLLM did not come up (exit status 3)")
    assert "loading\n  no such model; next start in 1 s" in reason


def test_an_engine_that_is_killed_says_by_what(release: ServableRelease, tmp_path: Path) -> None:
    reason = first_reason(release, engine_settings(tmp_path, python=python_that(tmp_path, "kill -SEGV $$")))
    assert "killed by SIGSEGV" in reason
    assert "engine.log is empty" in reason


def test_an_engine_that_is_never_healthy_is_ended_with_its_workers(release: ServableRelease, tmp_path: Path) -> None:
    body = f'trap "" TERM; sleep 60 & echo $! $$ > {tmp_path}/pids; wait; sleep 60'
    settings = engine_settings(tmp_path, python=python_that(tmp_path, body), start_seconds=2)
    import forge.serve.engine as engine_module

    before = engine_module._GRACE_SECONDS
    engine_module._GRACE_SECONDS = 0.3
    try:
        assert "not healthy after 2 s" in first_reason(release, settings)
    finally:
        engine_module._GRACE_SECONDS = before
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 2
    left = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            left.append(psutil.Process(pid))
    assert are_gone(left)


def test_somebody_else_on_the_engines_port_is_not_taken_for_the_engine(release: ServableRelease, tmp_path: Path) -> None:
    server = tmp_path / "server.py"
    server.write_text("""
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b'{"data": [{"id": "tiny"}]}')
http.server.HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
""")
    python = python_that(tmp_path, f'exec {sys.executable} {server} "$@"')
    assert "not healthy after 2 s" in first_reason(release, engine_settings(tmp_path, python=python, start_seconds=2))


CHANGES: dict[str, Callable[[Path], object]] = {
    "edited": lambda file: file.write_bytes(b"weighty"),
    "joined": lambda file: (file.parent / "more.py").touch(),
    "removed": lambda file: file.unlink(missing_ok=True),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_an_engine_is_not_started_again_from_files_that_somebody_changed(
    release: ServableRelease, tmp_path: Path, change: Callable[[Path], object]
) -> None:
    """The first start is from what was verified; it dies, and what lies there then is something else."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "weights").write_bytes(b"weights")
    release = replace(release, model_path=model, weights_digest=manifest_of_folder(model).digest)
    starts = tmp_path / "starts"
    python = python_that(tmp_path, f"echo started >> {starts}; exit 3")
    reasons: list[str | None] = []

    async def run() -> None:
        supervisor = EngineSupervisor(
            release, engine_settings(tmp_path, python=python, check=check_weights), lambda reason, _: reasons.append(reason)
        )
        task = asyncio.create_task(supervisor.run())
        while len(reasons) < 2:
            if len(reasons) == 1:
                change(model / "weights")
            await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(asyncio.wait_for(run(), 30))
    assert "exit status 3" in str(reasons[0])
    assert "no longer those that were verified" in str(reasons[1])
    assert starts.read_text() == "started\n"


def test_an_interpreter_that_is_not_there_is_a_reason_too(release: ServableRelease, tmp_path: Path) -> None:
    assert "cannot be started" in first_reason(release, engine_settings(tmp_path, python="/nowhere/python"))


def test_what_an_engine_leaves_in_its_temporary_folder_goes_with_it(release: ServableRelease, tmp_path: Path) -> None:
    python = python_that(tmp_path, 'touch "$TMPDIR/socket"; echo "left $TMPDIR/socket"; exit 3')
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    settings = engine_settings(tmp_path, python=python, environment={**os.environ, "TMPDIR": str(temporary)})
    assert f"left {temporary}/fe-" in first_reason(release, settings)
    assert list(temporary.iterdir()) == []
    for nothing in ("", "."):  # a relative one is as of where the agent is, not of where the engine runs
        settings = engine_settings(tmp_path, python=python, environment={**os.environ, "TMPDIR": nothing})
        assert re.search("left /.*/fe-[^/]*/socket", first_reason(release, settings))
    gone = engine_settings(tmp_path, environment={**os.environ, "TMPDIR": str(tmp_path / "nowhere")})
    assert "cannot be started" in first_reason(release, gone)


def test_the_engines_environment_is_an_allow_list_and_its_command_line_holds_no_secret(release: ServableRelease) -> None:
    outside = {"PATH": "/bin", "KEY_READER": "x", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": "/x", "AWS_SECRET": "x",
               "HF_HUB_OFFLINE": "0"}  # fmt: skip
    environment = engine_environment("secret", {**outside, "TMPDIR": "/large"}, Path("/large/fe-1"))
    assert environment == {
        "PATH": "/bin", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1", "VLLM_API_KEY": "secret",
        "TMPDIR": "/large/fe-1",
    }  # fmt: skip
    command = engine_command(release, "python", 8000)
    assert "secret" not in command
    assert "--trust-remote-code" not in command
    assert command[command.index("--host") + 1] == "127.0.0.1"


def test_the_cache_is_of_the_size_that_the_deployment_says_whatever_device_there_is(release: ServableRelease) -> None:
    larger = replace(release, engine=release.engine.model_copy(update={"kv_cache_gib": 3}))
    command = engine_command(larger, "python", 8000)
    assert command[command.index("--kv-cache-memory-bytes") + 1] == str(3 * 2**30)
    assert float(command[command.index("--gpu-memory-utilization") + 1]) < 0.05  # room for a second one beside it


def settings_in(folder: Path, keys: dict[str, str], **changes: object) -> ServeSettings:
    settings = ServeSettings(
        audit_folder=folder / "audit", status_file=folder / "status.json", log_folder=folder / "log", port=0,
        environment=keys,
    )  # fmt: skip
    return replace(settings, **changes)  # type: ignore[arg-type]


def test_the_agent_refuses_before_it_starts_anything(
    release: ServableRelease, tmp_path: Path, api_keys: dict[str, str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for changes, message in (
            ({"environment": {}}, "env:KEY_READER"),
            ({"host": "0.0.0.0"}, "not a loopback address"),
            ({"host": "example.org"}, "not a loopback address"),
            ({"port": taken.getsockname()[1]}, "cannot listen"),
            ({"audit_folder": Path("/dev/null/x")}, "audit log"),
        ):
            with pytest.raises(ServeError, match=message):
                serve(release, settings_in(tmp_path, api_keys, **changes))
    assert not (tmp_path / "status.json").exists()
    assert not (tmp_path / "log").exists()


def test_an_agent_that_is_killed_takes_its_engine_with_it(
    release: ServableRelease, tmp_path: Path, api_keys: dict[str, str]
) -> None:
    import pickle

    python = python_that(tmp_path, f"sleep 60 & echo $! $$ > {tmp_path}/pids; wait")
    settings = settings_in(tmp_path, {**os.environ, **api_keys}, python=python)
    (tmp_path / "model").mkdir()
    laid_out = replace(release, model_path=tmp_path / "model", weights_digest=manifest_of_folder(tmp_path / "model").digest)
    (tmp_path / "input").write_bytes(pickle.dumps((laid_out, settings)))
    program = f"""
import pickle
from forge.serve.agent import serve
release, settings = pickle.load(open({str(tmp_path / "input")!r}, "rb"))
serve(release, settings)
"""
    agent = subprocess.Popen([sys.executable, "-c", program])
    deadline = time.monotonic() + 20
    while not (tmp_path / "pids").exists() or len((tmp_path / "pids").read_text().split()) < 2:
        assert agent.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    family = [psutil.Process(int(pid)) for pid in (tmp_path / "pids").read_text().split()]
    agent.kill()
    agent.wait()
    assert are_gone(family)
