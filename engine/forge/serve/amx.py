"""A plugin of vLLM: asks Linux for AMX's tile registers, which vLLM's attention uses without having asked.

The kernel grants them to a process on request only (``arch_prctl(ARCH_REQ_XCOMP_PERM, XTILEDATA)``,
Documentation/arch/x86/xstate.rst), and the grant does not outlive ``exec``. vLLM 0.32 on a CPU takes its AMX attention for
bfloat16 wherever CPUID has ``amx_tile``; unless oneDNN happened to ask before, the first token ends the worker with SIGILL.
vLLM calls the plugin in each of its processes (entry point ``vllm.general_plugins`` in pyproject.toml).
"""

import ctypes
import platform
import sys

_SYS_ARCH_PRCTL = 158
_ARCH_REQ_XCOMP_PERM = 0x1023
_XTILEDATA = 18


def request_tiles() -> None:
    """Ask for this process and its threads. Where there is no AMX the kernel refuses, and vLLM does not use it."""
    if sys.platform == "linux" and platform.machine() == "x86_64":
        ctypes.CDLL(None, use_errno=True).syscall(_SYS_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XTILEDATA)
