"""The engine's guard: a small process between the agent and vLLM, so that vLLM never outlives the agent.

Run as ``python -I engine_guard.py SCRATCH COMMAND..`` in a session of its own, with a pipe from the agent as standard input.
Invariant: when the agent is gone, however it went, the pipe closes and the guard's whole process group is killed: vLLM's
workers too, which no signal at a parent's death would reach; then SCRATCH, the folder of their temporary files, is removed.
When the guard itself is killed, the kernel kills vLLM.
The guard ends when vLLM ends, with its exit status (128 + N for signal N). Standard library only: it starts in 20 ms.
"""

import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress

_PR_SET_PDEATHSIG = 1
_GONE_SECONDS = 10.0
"""How long what was killed may take to be gone: longer where nobody reaps it, and it writes nothing by then."""


def main(scratch: str, command: list[str]) -> int:
    """Run the command until it ends or the agent does; returns the exit status."""
    # The agent ends vLLM by a signal to the group, which reaches the guard as well: it stays, to see vLLM's end.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    guard = os.getpid()
    agent_gone = sys.stdin.fileno()
    ended, at_end = os.pipe()
    os.set_blocking(at_end, False)
    signal.set_wakeup_fd(at_end)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    engine = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        preexec_fn=lambda: _prepare(guard),  # noqa: PLW1509 (the guard has one thread)
    )
    while engine.poll() is None:
        readable, _, _ = select.select([agent_gone, ended], [], [])
        if ended in readable:
            os.read(ended, 4096)
        if agent_gone in readable and not os.read(agent_gone, 4096):
            _end_all(scratch)
    return engine.returncode if engine.returncode >= 0 else 128 - engine.returncode


def _end_all(scratch: str) -> None:
    """Kill the group, of which the guard is one, by a process outside of it, which then removes the folder."""
    group = os.getpgrp()
    if os.fork():
        while True:
            signal.pause()  # until it is killed with the others
    os.setsid()
    os.killpg(group, signal.SIGKILL)
    deadline = time.monotonic() + _GONE_SECONDS
    with suppress(ProcessLookupError):
        while time.monotonic() < deadline:
            os.killpg(group, 0)
            time.sleep(0.02)
    shutil.rmtree(scratch, ignore_errors=True)
    os._exit(0)


def _prepare(guard: int) -> None:
    """In the child, before vLLM: die when the guard dies, and take signals as usual again."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != guard:  # it died before the line above
            os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
