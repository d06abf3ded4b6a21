"""The engine: one vLLM process, started from a release, watched, restarted with back-off, ended without orphans.

Invariant: the gateway is given an address only while that very process is alive and its ``/health`` says so, and after it
has answered once: there are models for which vLLM comes up healthy and dies of its first request. It is started, each time,
from files that were hashed just before. vLLM listens
on loopback with a secret key, which it gets by its environment (a command line is public). That environment is an
allow-list: the callers' API keys are not in it.
"""

import asyncio
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from forge.errors import ServeError
from forge.serve import engine_guard
from forge.serve.release import ServableRelease
from forge.serve.upstream import EngineAddress

FIRST_DELAY_SECONDS = 1.0
LONGEST_DELAY_SECONDS = 60.0
STEADY_SECONDS = 300.0
"""An engine that was healthy for as long starts its back-off anew."""
_GRACE_SECONDS = 10.0
"""From SIGTERM to SIGKILL."""
_POLL_SECONDS = 0.5
_WATCH_SECONDS = 2.0
_MOST_FAILED_CHECKS = 15
"""Health checks in a row that may fail before a running engine counts as hung; each waits up to 2 s."""
_LOG_LINES = 15
_LOG_BYTES = 16_384
_PASSED_ON = (
    "PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "LD_PRELOAD", "XDG_CACHE_HOME", "HF_HOME",
    "CUDA_HOME", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "NVIDIA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "VLLM_CACHE_ROOT",
    "VLLM_CPU_OMP_THREADS_BIND",
)  # fmt: skip
_LEAST_SHARE = "0.01"
"""Of a device's memory, which has to be free when vLLM starts. It is what the cache would be sized by, had the release no size
for it; vLLM's own default, nearly all, would leave a second engine no room beside the first."""
_OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}


@dataclass(frozen=True)
class EngineSettings:
    """Where and how to run vLLM on this machine."""

    python: str
    log_folder: Path
    environment: Mapping[str, str]
    check: Callable[[ServableRelease], None]
    """Raises ServeError when the files that an engine would read are not the release's; asked before each start."""
    port: int | None = None
    """None: a free one, chosen at every start."""
    key: str | None = None
    """None: a random secret, made at every start."""
    start_seconds: float = 300.0
    """Longest wait until it is healthy."""
    log_name: str = "engine"
    """``NAME.log`` holds what it writes, ``NAME.previous.log`` what the start before it wrote; one running engine each."""


def engine_command(release: ServableRelease, python: str, port: int) -> list[str]:
    """The command line of vLLM. ``-P``: the working directory holds no modules; defaults are vLLM's, not the model's."""
    engine = release.engine
    length = [] if engine.max_model_len is None else ["--max-model-len", str(engine.max_model_len)]
    return [
        python, "-P", "-m", "vllm.entrypoints.openai.api_server",
        "--model", str(release.model_path), "--served-model-name", release.model,
        "--host", "127.0.0.1", "--port", str(port),
        "--dtype", engine.dtype, *length, "--max-num-seqs", str(engine.max_num_seqs),
        "--kv-cache-memory-bytes", str(engine.kv_cache_gib << 30), "--gpu-memory-utilization", _LEAST_SHARE,
        "--generation-config", "vllm", "--enforce-eager", "--disable-uvicorn-access-log",
        "--structured-outputs-config", '{"backend":"xgrammar","disable_any_whitespace":true}',
    ]  # fmt: skip


def engine_environment(key: str, environment: Mapping[str, str], scratch: Path) -> dict[str, str]:
    """Everything that vLLM gets to know of the agent's environment, its key, and a folder for what it leaves behind."""
    passed_on = {name: environment[name] for name in _PASSED_ON if name in environment}
    return {**passed_on, **_OFFLINE, "VLLM_API_KEY": key, "TMPDIR": str(scratch)}


def next_delay(previous: float | None, healthy_seconds: float) -> float:
    """Seconds to wait before the next start: 1, 2, 4 .. 60; from 1 again after an engine that was steady."""
    if previous is None or healthy_seconds >= STEADY_SECONDS:
        return FIRST_DELAY_SECONDS
    return min(2 * previous, LONGEST_DELAY_SECONDS)


class EngineSupervisor:
    """Keeps one engine alive; ``run`` is its loop, ``address`` what the gateway asks."""

    def __init__(
        self, release: ServableRelease, settings: EngineSettings, on_change: Callable[[str | None, int], None]
    ) -> None:
        self._release = release
        self._settings = settings
        self._on_change = on_change
        """Called with None when the engine is healthy, with the reason when it is not; and with the number of restarts."""
        self._address: EngineAddress | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._scratch: Path | None = None
        """The running engine's TMPDIR: vLLM removes neither its sockets nor the file by which its processes meet. Its
        name is short, because the path of a socket has at most 107 bytes."""
        self.restarts = 0
        self.refuses: str | None = None
        """Why the engine is not started again when it ends; what runs goes on. May be set, and taken back, at any time."""

    @property
    def _log(self) -> Path:
        return self._settings.log_folder / f"{self._settings.log_name}.log"

    def address(self) -> EngineAddress | None:
        """Where the engine is, while it is healthy."""
        return self._address

    async def run(self) -> None:
        """Start, watch, restart; until cancelled, which ends the engine and returns when it is gone."""
        delay: float | None = None
        while True:
            healthy_since: float | None = None
            try:
                address = await self._start()
                healthy_since = time.monotonic()
                self._address = address
                self._on_change(None, self.restarts)
                reason = await self._watch(address)
            except ServeError as error:
                reason = str(error)
            finally:
                self._address = None
                await self._end()
            delay = next_delay(delay, 0.0 if healthy_since is None else time.monotonic() - healthy_since)
            self._on_change(f"{reason}; next start in {delay:g} s", self.restarts)
            await asyncio.sleep(delay)
            if self.refuses is not None:
                self._on_change(f"{reason}; not started again: {self.refuses}", self.restarts)
            while self.refuses is not None:
                await asyncio.sleep(_POLL_SECONDS)
            self.restarts += 1

    async def _start(self) -> EngineAddress:
        settings = self._settings
        await asyncio.to_thread(settings.check, self._release)
        port = settings.port or _free_port()
        address = EngineAddress(f"http://127.0.0.1:{port}", settings.key or secrets.token_urlsafe(32))
        settings.log_folder.mkdir(parents=True, exist_ok=True)
        log = self._log
        if log.exists():
            log.replace(log.with_suffix(".previous.log"))
        with log.open("xb") as output:
            try:
                self._scratch = Path(tempfile.mkdtemp(prefix="fe-", dir=settings.environment.get("TMPDIR") or None)).resolve()
                environment = engine_environment(address.key, settings.environment, self._scratch)
                self._process = await asyncio.create_subprocess_exec(
                    settings.python, "-I", str(Path(engine_guard.__file__).resolve()), str(self._scratch),
                    *engine_command(self._release, settings.python, port),
                    stdin=asyncio.subprocess.PIPE, stdout=output, stderr=output, start_new_session=True,
                    cwd=settings.log_folder, env=environment,
                )  # fmt: skip
            except OSError as error:
                raise ServeError(f"vLLM cannot be started with {settings.python}: {error}") from error
        deadline = time.monotonic() + settings.start_seconds
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session:
            while not await _is_healthy(session, address, self._release.model):
                if self._process.returncode is not None:
                    raise ServeError(self._death("vLLM did not come up"))
                if time.monotonic() > deadline:
                    raise ServeError(f"vLLM was not healthy after {settings.start_seconds:g} s; {self._last_lines()}")
                await asyncio.sleep(_POLL_SECONDS)
            if not await _answers(session, address, self._release.model, max(10.0, deadline - time.monotonic())):
                raise ServeError(
                    f"vLLM came up healthy but cannot answer: it failed a request for one token; {self._last_lines()}"
                )
        return address

    async def _watch(self, address: EngineAddress) -> str:
        """Return when the engine is no longer of use, with the reason."""
        process, failed = self._process, 0
        if process is None:
            raise RuntimeError("there is no engine to watch")
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session:
            while failed < _MOST_FAILED_CHECKS:
                try:
                    await asyncio.wait_for(asyncio.shield(process.wait()), _WATCH_SECONDS)
                except TimeoutError:
                    failed = 0 if await _is_healthy(session, address, self._release.model) else failed + 1
                else:
                    return self._death("vLLM died")
        return f"vLLM hung: {failed} health checks in a row failed; {self._last_lines()}"

    async def _end(self) -> None:
        """End the process group: SIGTERM, then SIGKILL for whatever is left of it; then what it left in its folder."""
        process, self._process = self._process, None
        try:
            if process is not None:
                await _end_group(process)
        finally:
            scratch, self._scratch = self._scratch, None
            if scratch is not None:
                shutil.rmtree(scratch, ignore_errors=True)

    def _death(self, what: str) -> str:
        status = self._process.returncode if self._process else None
        how = f"exit status {status}"
        if status is not None and (status < 0 or status > 128):
            how = f"killed by {signal.Signals(-status if status < 0 else status - 128).name}"
        return f"{what} ({how}); {self._last_lines()}"

    def _last_lines(self) -> str:
        log = self._log
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _LOG_BYTES))
            lines = [line for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
        return f"last lines of {log}:\n  " + "\n  ".join(lines[-_LOG_LINES:]) if lines else f"{log} is empty"


async def _is_healthy(session: aiohttp.ClientSession, address: EngineAddress, model: str) -> bool:
    """Whether our engine answers at this address: healthy, behind our key, with our model."""
    headers = {"authorization": f"Bearer {address.key}"}
    try:
        async with session.get(f"{address.url}/health") as response:
            if response.status != 200:
                return False
        async with session.get(f"{address.url}/v1/models") as response:
            if response.status != 401:
                return False
        async with session.get(f"{address.url}/v1/models", headers=headers) as response:
            answer = await response.json(content_type=None) if response.status == 200 else {}
            return [item.get("id") for item in answer.get("data", [])] == [model]
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
        return False


async def _answers(session: aiohttp.ClientSession, address: EngineAddress, model: str, seconds: float) -> bool:
    """Whether the engine can generate one token; a request that it refuses (4xx) is answered as well."""
    headers = {"authorization": f"Bearer {address.key}"}
    body = {"model": model, "prompt": [0], "max_tokens": 1}
    timeout = aiohttp.ClientTimeout(total=seconds)
    try:
        async with session.post(f"{address.url}/v1/completions", json=body, headers=headers, timeout=timeout) as response:
            return response.status < 500
    except (aiohttp.ClientError, OSError, TimeoutError):
        return False


async def _end_group(process: asyncio.subprocess.Process) -> None:
    _signal_group(process.pid, signal.SIGTERM)
    try:
        with suppress(TimeoutError):  # what does not listen to SIGTERM is killed with the rest of the group
            await asyncio.wait_for(process.wait(), _GRACE_SECONDS)
    finally:
        # Workers may outlive their parent; a group's id is not used again while it has members.
        _signal_group(process.pid, signal.SIGKILL)
        await process.wait()


def _signal_group(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return  # the whole group is gone already


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def say(message: str) -> None:
    """One line to whoever runs the agent."""
    print(f"forge serve: {message}", file=sys.stderr, flush=True)
