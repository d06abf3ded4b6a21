"""What a step's process runs on: the distributions that it could import, and the machine.

Invariant: the list of distributions is the same text wherever the same versions are installed: a line ``name==version`` each,
sorted by their bytes, names as the distributions write them. ``pip list --format=freeze | LC_ALL=C sort`` prints it too, so
whoever has the text and an environment can compare them without Forge.
"""

import os
import platform
import re
from importlib.metadata import Distribution, distributions
from pathlib import Path

import psutil

from forge.contract.messages import Hardware

_FIELD = re.compile(r"^(Name|Version):[ \t]*(\S+)[ \t]*$", re.MULTILINE)


def installed() -> str:
    """Every distribution on the path; of two with one name the first, which is the one that is imported."""
    found: dict[str, str] = {}
    for distribution in distributions():
        name, version = _named(distribution)
        found.setdefault(re.sub(r"[-_.]+", "-", name).lower(), f"{name}=={version}\n")
    return "".join(sorted(found.values()))


def hardware(proc: Path = Path("/proc")) -> Hardware:
    """The machine, as the kernel and its drivers name it; asking them starts no library and no program."""
    return Hardware(
        cpu=_cpu(proc / "cpuinfo")[:200],
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_bytes=psutil.virtual_memory().total,
        accelerators=tuple(
            sorted(_model(path, "Model") or "unknown" for path in proc.glob("driver/nvidia/gpus/*/information"))
        ),
    )


def _named(distribution: Distribution) -> tuple[str, str]:
    """Name and version from the head of the metadata: parsing all of it takes ten times as long."""
    head = (distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or "").split("\n\n", 1)[0]
    fields = dict(_FIELD.findall(head))
    if fields.keys() != {"Name", "Version"}:
        return distribution.name, distribution.version
    return fields["Name"], fields["Version"]


def _cpu(cpuinfo: Path) -> str:
    return (_model(cpuinfo, "model name") if cpuinfo.is_file() else "") or platform.processor() or platform.machine()


def _model(path: Path, field: str) -> str:
    """The value of the first line ``field : value``; the field's absence gives an empty text."""
    match = re.search(rf"^{field}[ \t]*:[ \t]*(.+?)[ \t]*$", path.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    return match[1] if match else ""
