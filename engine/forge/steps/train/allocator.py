"""Memory: what is freed stays with the process, and what cannot be had is said in one sentence.

A training step asks for the same sizes again a moment later. glibc gives a large block back to the kernel when it is freed, and
the kernel hands out and clears every page of the next one: some thousand page faults a step. With the two settings below large
blocks come from the heap and the heap is not trimmed. It changes no bit of a result. Where the C library is another one, or
memory is an accelerator's, nothing is set.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from forge.errors import StepError

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""``M_TRIM_THRESHOLD`` and ``M_MMAP_THRESHOLD`` of ``mallopt(3)``."""
_LARGEST_BLOCK = 1 << 25
"""32 MiB, the most that glibc accepts; larger blocks are mapped and given back as before."""
_NEVER = (1 << 31) - 1
_WORDS = (
    "DefaultCPUAllocator",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "Registering memory failed with cudaError: 2.",
)
"""What else says so: CUDA itself, where it begins or pins memory; cuBLAS, for its workspace; a checkpoint that is pinned."""


def keep_freed_memory() -> bool:
    """Tell the C library; returns whether it has such settings and took them."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST_BLOCK)) and bool(mallopt(_TRIM_THRESHOLD, _NEVER))


@contextmanager
def memory_named(subject: str, instead: str) -> Iterator[None]:
    """Turn the ways in which memory runs out into a ``StepError`` whose cause is a ``MemoryError``.

    ``instead`` ends the message: what may be done beside smaller micro-batches, which give other weights.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        raise StepError(
            f"{subject}: out of memory: {str(error).splitlines()[0] if str(error) else type(error).__name__}. The last "
            "checkpoint is kept, and the next attempt goes on from there; lower training.micro_batch_sequences (another "
            f"identity), or {instead}"
        ) from MemoryError(str(error))


def _is_out_of_memory(error: Exception) -> bool:
    """The allocator for CUDA has a class for it; that for the CPU, and CUDA itself, only words."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(words in str(error) for words in _WORDS)
