"""Is there memory for a second engine beside the first? Asked before it is started.

A machine that runs out of memory kills a process of its own choice, and that may be the engine that serves. The estimate is
coarse and meant to be: weights as they are loaded, the cache, and what vLLM's processes take by themselves.
"""

from pathlib import Path

import psutil

from forge.serve.release import ServableRelease

_GIB = 2**30
_PROCESSES_BYTES = 2 * _GIB
"""What vLLM's processes took without weights and cache when it was measured (3.2 GB with 1 GiB of cache and a tiny model)."""
_CGROUP = Path("/sys/fs/cgroup")


def needed_bytes(release: ServableRelease) -> int:
    """About what an engine for a release takes of the machine's memory."""
    weights = sum(file.stat().st_size for file in release.model_path.rglob("*.safetensors"))
    factor = 2 if release.engine.dtype == "float32" else 1  # stored as bfloat16 they double; at most too careful otherwise
    return factor * weights + release.engine.kv_cache_gib * _GIB + _PROCESSES_BYTES


def available_bytes(cgroup: Path = _CGROUP) -> int:
    """Memory that is free for new processes: the machine's, and that of the container where one sets a limit."""
    free = int(psutil.virtual_memory().available)
    try:
        limit = (cgroup / "memory.max").read_text().strip()
        used = int((cgroup / "memory.current").read_text())
        reclaimable = _inactive_files((cgroup / "memory.stat").read_text())
        return free if limit == "max" else max(0, min(free, int(limit) - used + reclaimable))
    except (OSError, ValueError):  # no cgroup v2 here: the machine's figure is all there is
        return free


def shortage(release: ServableRelease, available: int) -> str | None:
    """Why a second engine is not started; None when there is room."""
    needed = needed_bytes(release)
    if needed <= available:
        return None
    return (
        f"a second engine beside the first needs about {needed / _GIB:.1f} GiB, and {available / _GIB:.1f} GiB are free: free "
        "memory, or start the agent with --switch stop-first, which ends the old engine before it starts the new one"
    )


def _inactive_files(stat: str) -> int:
    """Page cache that the kernel gives back under pressure."""
    rows = dict(line.split(" ", 1) for line in stat.splitlines() if " " in line)
    return int(rows.get("inactive_file", 0))
