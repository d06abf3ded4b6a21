"""AMX's registers are asked for in each process of vLLM (tests/e2e/test_reload.py serves a model in bfloat16)."""

import ctypes
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from forge.serve.amx import request_tiles

_PERMITTED = """
import ctypes
from forge.serve.amx import request_tiles
permitted = ctypes.c_uint64()
for ask in (lambda: None, request_tiles, request_tiles):
    ask()
    assert ctypes.CDLL(None).syscall(158, 0x1022, ctypes.byref(permitted)) == 0
    print(permitted.value >> 18 & 1)
"""


def test_vllm_finds_the_plugin() -> None:
    found = [point.load() for point in entry_points(group="vllm.general_plugins") if point.module.startswith("forge.")]
    assert found == [request_tiles]


@pytest.mark.skipif("amx_tile" not in Path("/proc/cpuinfo").read_text(), reason="this processor has no AMX")
def test_a_process_has_the_registers_once_it_asked() -> None:
    done = subprocess.run([sys.executable, "-c", _PERMITTED], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "1", "1"]


def test_elsewhere_nothing_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    monkeypatch.setattr(ctypes, "CDLL", None)  # calling it would fail
    request_tiles()
