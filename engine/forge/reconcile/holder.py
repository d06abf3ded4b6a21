"""Who holds a lease, and whether that runner may still live.

On the same machine the kernel is asked. Elsewhere only time tells: a lease that stands still for its time to live, on
this observer's own monotonic clock, is a dead holder's. In doubt a holder lives: the price is waiting, not a step twice.
Where there is no lease nobody is asked, and nothing is loaded that asks.
"""

import os
import socket
from collections.abc import Callable
from pathlib import Path

from forge.executors.workspace import Workspace, step_lock
from forge.ledger.lease import Holder, Lease
from forge.ledger.leases import Watch


def this_holder() -> Holder:
    """This process, as others will see it."""
    import psutil

    started = psutil.Process().create_time()
    return Holder(id=f"{_machine()}/{os.getpid()}/{started:.2f}", host=socket.gethostname(), pid=os.getpid())


class Holders:
    """What this process knows of the life of others."""

    def __init__(self, time_to_live_seconds: float, monotonic: Callable[[], float]) -> None:
        self._watch = Watch(time_to_live_seconds, monotonic)

    def may_live(self, lease: Lease, work: Path) -> bool:
        """Whether the holder, or the step that it launched on this machine, may still be at work."""
        return self.holder_may_live(lease) or self.step_lives(lease, work)

    def holder_may_live(self, lease: Lease) -> bool:
        """Whether the runner itself may still be at work."""
        machine, _, process = lease.holder.id.rpartition("/")
        machine, _, pid = machine.rpartition("/")
        if machine == _machine():
            return _is_alive(pid, process)
        return not self._watch.is_dead(lease)

    @staticmethod
    def step_lives(lease: Lease, work: Path) -> bool:
        """Whether a step process of this clone holds the lock of the lease's key."""
        folder = work / lease.key.removeprefix("sha256:")
        if not folder.is_dir():
            return False
        with step_lock(Workspace(folder)) as lock:
            return lock is None


def _is_alive(pid: str, started: str) -> bool:
    import psutil

    try:
        return bool(abs(psutil.Process(int(pid)).create_time() - float(started)) < 1)
    except (psutil.NoSuchProcess, ValueError):
        return False


def _machine() -> str:
    """One boot of one kernel, seen from one process namespace: only there a pid means the same process."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
