"""A step by nanotron with flash-attn's attention, on a CPU: ``python -m tests.steps.nanotron.with_flash_attention REQUEST``.

flash-attn is the one that PYTHONPATH holds. Of the published package the Triton kernels (rotary embedding, normalisation) are
interpreted, and the attention is the reference in torch that it brings along for AMD's devices, behind the same function; what
only a device has, its CUDA kernels, is all that does not run. What is changed of torch and of Triton asks for a device.
"""

import os
import sys
from contextlib import nullcontext
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

os.environ |= {
    "TRITON_INTERPRET": "1",
    "FLASH_ATTENTION_TRITON_AMD_ENABLE": "TRUE",
    "FLASH_ATTENTION_TRITON_AMD_REF": "1",
}

import torch

from forge.steps.interruption import StopRequest
from forge.steps.nanotron import worker
from forge.steps.nanotron.loader import Machine
from forge.steps.process import process_request


def patch() -> None:
    """Let flash-attn's kernels be asked for on a CPU."""
    worker.machine_for = lambda _accelerator, _precision: Machine(cuda=False, flash_attention=True)  # type: ignore[assignment]
    cuda: Any = torch.cuda
    cuda.device = lambda _index: nullcontext()
    cuda.current_device = lambda: 0
    cuda.get_device_properties = lambda _device: SimpleNamespace(
        warp_size=32, max_threads_per_block=1024, multi_processor_count=2
    )
    registered: Any = torch.library.custom_op

    def custom_op(*positional: Any, device_types: object = None, **named: Any) -> Any:
        return registered(*positional, **named)

    torch.library.custom_op = custom_op  # type: ignore[assignment]
    if find_spec("triton") is not None:
        from triton.runtime.autotuner import Autotuner

        Autotuner._bench = lambda *_arguments, **_named: [1.0, 1.0, 1.0]  # any of its settings will do


if __name__ == "__main__":
    patch()
    sys.exit(process_request(sys.argv[1:], StopRequest()))
