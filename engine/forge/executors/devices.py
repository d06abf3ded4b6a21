"""Which accelerators a step's process is given, so that two trainings at once do not meet on device 0.

Invariant: a device is lent to one live step process at a time, whoever launched it. Each has a lock file, which the process
inherits and holds for as long as it lives, as it does its key's (``workspace.step_lock``); a runner that is killed lends
nothing twice. What is lent is told by ``CUDA_VISIBLE_DEVICES``, in which a step counts from 0.
"""

import fcntl
import os
import subprocess
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from forge.canonical import digest_of_bytes, hex_of
from forge.contract.messages import Resources

VISIBLE = "CUDA_VISIBLE_DEVICES"
_LISTING = ("nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader")
_LISTING_SECONDS = 60


@dataclass(frozen=True)
class Lent:
    """Devices for one process, with the open files whose locks it inherits; or why there are none."""

    names: tuple[str, ...] = ()
    locks: tuple[int, ...] = ()
    refusal: str | None = None


def visible_devices(environment: Mapping[str, str], listed: Sequence[str]) -> tuple[str, ...]:
    """The devices that may be lent: those the runner itself is shown, else all that the driver lists."""
    if VISIBLE not in environment:
        return tuple(listed)
    names = [name.strip() for name in environment[VISIBLE].split(",")]
    # As CUDA reads it: what stands after the first name that is none is not seen.
    end = next((place for place, name in enumerate(names) if name in ("", "-1")), len(names))
    return tuple(dict.fromkeys(names[:end]))


def chosen(devices: Sequence[str], taken: Collection[str], wanted: int) -> tuple[str, ...] | None:
    """The first so many devices that are not taken; None where there are not so many."""
    free = [name for name in devices if name not in taken]
    return tuple(free[:wanted]) if len(free) >= wanted else None


@contextmanager
def lend(resources: Resources, folder: Path) -> Iterator[Lent]:
    """Devices for a process of these resources, their locks in ``folder``; the caller's copies are closed afterwards.

    Nothing is lent to what runs on a CPU, nor where there are too few devices: the step itself says so.
    """
    devices = () if resources.accelerator == "cpu" else visible_devices(os.environ, _listed())
    if len(devices) < resources.processes:
        yield Lent()
        return
    held = {name: lock for name in devices if (lock := _lock(folder, name)) is not None}
    try:
        names = chosen(devices, set(devices) - held.keys(), resources.processes)
        if names is None:
            yield Lent(
                refusal=f"{resources.processes} devices are asked for, and {len(held)} of {len(devices)} are free: other steps "
                "hold the rest until they end. Should it stay so, lower executor.slots in forge.toml to the number of devices"
            )
            return
        for name in held.keys() - set(names):
            os.close(held.pop(name))
        yield Lent(names, tuple(held.values()))
    finally:
        for lock in held.values():
            os.close(lock)


def _listed() -> tuple[str, ...]:
    """The names of all devices by the driver's own tool; empty where there is none."""
    if VISIBLE in os.environ:
        return ()  # it says enough
    try:
        found = subprocess.run(_LISTING, capture_output=True, text=True, check=True, timeout=_LISTING_SECONDS)
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(line.strip() for line in found.stdout.splitlines() if line.strip())


def _lock(folder: Path, name: str) -> int | None:
    """The device's lock as an open file to hand to a child; None while a live process holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / hex_of(digest_of_bytes(name.encode()))  # a name is whatever an environment says
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
