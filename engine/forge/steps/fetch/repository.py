"""A bare repository of an attempt's own, and the one way in which Git is run in it.

Invariant: Git runs without anybody's configuration, hooks, helpers or prompts, with an environment made here; what it started
ends with it, however the step ends; no file that it writes gets larger than was allowed, and all of it together takes no
longer. What it says leaves without addresses. Who uses it decides what a fault means.
"""

import os
import resource
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from forge.errors import StepError
from forge.steps.fetch.address import without_addresses

MAX_SECONDS = 3600.0
_SLACK_BYTES = 64 * 1024 * 1024
_CREDENTIALS = "FORGE_GIT_CREDENTIALS"
"""A file as ``git credential-store`` keeps it; it is only read: no host can have an entry of it erased by refusing it."""
_HELPER = f'!f() {{ test "$1" = get && git credential-store --file "${_CREDENTIALS}" get; }}; f'
_PASSED_ON = (
    _CREDENTIALS,
    "PATH",
    "LD_LIBRARY_PATH",
    "TMPDIR",
    "HTTPS_PROXY",
    "https_proxy",
    "ALL_PROXY",
    "all_proxy",
    "NO_PROXY",
    "no_proxy",
)
_SSH = "ssh -o BatchMode=yes -o StrictHostKeyChecking=yes -o ConnectTimeout=30 -o ServerAliveInterval=15 -o ForwardAgent=no"


class Repository:
    """A bare repository of this attempt's own, and the one way in which Git is run."""

    def __init__(self, scratch: Path, what: str, max_bytes: int) -> None:
        self.folder, self.what = scratch / "repository.git", what
        self.packs = self.folder / "objects" / "pack"
        self._home = scratch / "home"
        self._began = time.monotonic()
        self._most = max_bytes + _SLACK_BYTES

    def prepare(self, commit: str) -> None:
        """Make the repository anew, for the kind of object names that the commit has."""
        self._home.mkdir(parents=True)
        names = "sha256" if len(commit) == 64 else "sha1"
        self.run("init", "--quiet", "--bare", "--template=", f"--object-format={names}", str(self.folder), at=None)

    def run(
        self, *command: str, watch: Callable[[], None] = lambda: None, data: Path | None = None, at: Path | None = Path()
    ) -> str:
        """What Git prints; raises StepError with what it says is wrong. ``data`` is a file that it reads."""
        with self.started(command, data, at) as process:
            while True:
                try:
                    output, errors = process.communicate(timeout=0.2)
                    break
                except subprocess.TimeoutExpired:
                    watch()
                    self.check_time()
        if process.returncode:
            raise GitError(without_addresses(errors.decode(errors="replace")))
        return output.decode(errors="replace").strip()

    def check_time(self) -> None:
        """Raise StepError when all of this takes too long."""
        if time.monotonic() - self._began > MAX_SECONDS:
            raise StepError(f"{self.what}: not there after {MAX_SECONDS:.0f} seconds; fetch less of it, or mirror it nearby")

    @contextmanager
    def started(
        self, command: Sequence[str], data: Path | None = None, at: Path | None = Path()
    ) -> Iterator[subprocess.Popen[bytes]]:
        """A Git process that ends with the block, however that ends."""
        where = [] if at is None else [f"--git-dir={self.folder}"]
        settings = (
            "core.hooksPath=/dev/null", "credential.helper=", "core.askPass=", "fetch.unpackLimit=1", "gc.auto=0",
            "maintenance.auto=false", "http.followRedirects=false", "http.lowSpeedLimit=1000", "http.lowSpeedTime=60",
            "core.bigFileThreshold=16m", "submodule.recurse=false", "protocol.version=2", "transfer.bundleURI=false",
        )  # fmt: skip
        helper = (f"credential.helper={_HELPER}",) if _CREDENTIALS in os.environ else ()
        options = [part for setting in (*settings, *helper) for part in ("-c", setting)]
        with open(os.devnull if data is None else data, "rb") as given:  # noqa: PTH123 (devnull is no path of ours)
            try:
                process = subprocess.Popen(
                    ["git", *options, *where, *command],
                    stdin=subprocess.PIPE if data is None and "--batch" in command else given,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE if "--batch" not in command else subprocess.DEVNULL,
                    env=self._environment(),
                    cwd=self._home,
                )
            except FileNotFoundError as error:
                raise StepError(f"{self.what}: Git is not installed where steps run: install it, and apply again") from error
        if hasattr(resource, "prlimit"):  # Linux's: no file that it writes gets larger, however fast it comes
            with suppress(ProcessLookupError):
                resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (self._most, self._most))
        with process:
            try:
                yield process
            finally:
                if process.poll() is None:
                    _kill(process.pid)

    def _environment(self) -> dict[str, str]:
        certificates = os.environ.get("SSL_CERT_FILE")
        return {
            **{name: os.environ[name] for name in _PASSED_ON if name in os.environ},
            **({"GIT_SSL_CAINFO": certificates} if certificates else {}),
            "HOME": str(self._home),
            "LC_ALL": "C",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ALLOW_PROTOCOL": "https:ssh:file",
            "GIT_SSH_COMMAND": _SSH,
            "GIT_SSH_VARIANT": "ssh",
        }


def _kill(pid: int) -> None:
    """End a Git process and those that it started, which would wait for a host on their own."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for each in (*process.children(recursive=True), process):
            with suppress(psutil.NoSuchProcess):
                each.kill()


class GitError(StepError):
    """Git ended with a fault; whoever ran it says what that means."""
