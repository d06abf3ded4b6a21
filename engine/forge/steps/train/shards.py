"""Checkpoints of a training that is spread over processes: each writes its own slices, while the training goes on.

Rules:
1. torch.distributed.checkpoint (DCP) writes and reads the tensors, in safetensors; nothing is pickled. Every slice says where
   in its tensor it belongs, so a training with another number of processes, or cut in another direction, reads what it needs.
2. The training waits until the state is copied, and no longer; a thread writes the files, over a process group of its own.
   The copy lies in memory that is kept from one checkpoint to the next, pinned where the state is on a CUDA device: fresh
   memory costs a page fault for each page, and unpinned memory is copied to at a fraction of the bus's speed.
3. A file is written from that copy without the interpreter's lock. torch's own writer first joins its tensors in memory, twice,
   and holds the lock for the second time: seconds for a large model, in which the training begins no kernel. On CUDA it would
   also wait for a stream of device 0, on which every other rank would take memory for that.
4. What becomes visible is whole: rank 0 hashes every file, writes the manifest and renames the folder once all ranks have
   written theirs (``checkpoint``, rules 1 to 3). A rank that cannot write fails the checkpoint of all.
"""

import errno
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import distributed
from torch.distributed.checkpoint._hf_utils import (
    CUSTOM_METADATA_KEY,
    DCP_VERSION_KEY,
    FORMAT_KEY,
    FORMAT_VALUE,
    HF_DCP_VERSION,
    SAVED_OFFSETS_KEY,
    _gen_file_name,
)
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, TensorWriteData
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save
from torch.distributed.checkpoint.storage import WriteResult

from forge.contract.checkpoints import checkpoint_name
from forge.errors import StepError
from forge.steps.train.checkpoint import TEMPORARY, CheckpointState, publish
from forge.steps.train.distributed import World


class ShardWriter:
    """Writes one checkpoint at a time beside the training."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._group: Any = distributed.new_group(backend="gloo")
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="forge-checkpoint")
        self._pending: Future[Path | None] | None = None
        self._stager = DefaultStager(staging_of(world.device))

    def begin(
        self, folder: Path, state: CheckpointState, tensors: Mapping[str, torch.Tensor], then: Callable[[], None]
    ) -> None:
        """Copy the state and go on; ``then`` runs on rank 0 in the thread, once the checkpoint is in place.

        The checkpoint before has to be finished, for its copy is overwritten: ask ``finish`` first.
        """
        final = folder / checkpoint_name(state.step, state.attempt)
        temporary = final.with_name(final.name + TEMPORARY)
        if self._world.is_main:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        distributed.barrier(group=self._group)
        writer = _Writer(str(temporary), save_distributed=True)
        copied = async_save(dict(tensors), storage_writer=writer, process_group=self._group, async_stager=self._stager)
        self._pending = self._thread.submit(self._complete, cast("Future[Any]", copied), temporary, final, state, then)

    def is_done(self) -> bool:
        """Whether a checkpoint was begun and its writing has come to an end, good or bad."""
        return self._pending is not None and self._pending.done()

    def finish(self) -> Path | None:
        """Wait for the checkpoint that was begun; its folder on rank 0, None elsewhere or where none was begun.

        Raises ``StepError`` where a rank could not write.
        """
        pending, self._pending = self._pending, None
        return None if pending is None else pending.result()

    def _complete(
        self, copied: "Future[Any]", temporary: Path, final: Path, state: CheckpointState, then: Callable[[], None]
    ) -> Path | None:
        try:
            copied.result()
            if not self._world.is_main:
                return None
            path = publish(temporary, final, state)
            then()
        except (CheckpointException, OSError) as error:
            if self._world.is_main:
                shutil.rmtree(temporary, ignore_errors=True)
            raise _in_words(error, final) from _first_cause(error)
        return path


class _Writer(HuggingFaceStorageWriter):
    """torch's, but for how the files of a rank get their bytes (rule 3), which are the same."""

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> torch.futures.Future[list[WriteResult]]:
        """The slices of a rank in one file, on the disk when this returns."""
        name = _gen_file_name(1, 1, plan.storage_data["shard_index"])
        tensors = {item.index.fqn: _by_itself(cast("torch.Tensor", planner.resolve_data(item))) for item in plan.items}
        places = {
            item.index.fqn: {SAVED_OFFSETS_KEY: cast("TensorWriteData", item.tensor_data).chunk.offsets} for item in plan.items
        }
        if tensors:
            described = {
                CUSTOM_METADATA_KEY: json.dumps(places),
                DCP_VERSION_KEY: str(HF_DCP_VERSION),
                FORMAT_KEY: FORMAT_VALUE,
            }
            _write(Path(self.path, name), tensors, described)
        written: torch.futures.Future[list[WriteResult]] = torch.futures.Future()
        written.set_result([WriteResult(item.index, tensors[item.index.fqn].nbytes, name) for item in plan.items])
        return written


def _by_itself(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, or a copy of it where its memory holds more."""
    tensor = tensor.detach()
    return tensor if tensor.untyped_storage().size() == tensor.nbytes else tensor.clone()


def _write(path: Path, tensors: dict[str, torch.Tensor], described: dict[str, str]) -> None:
    """Write a file of tensors to the disk; raises ``OSError`` where it does not take it."""
    path.touch()
    mode = path.stat().st_mode  # what else is written here has the umask's; safetensors' file is the owner's alone
    try:
        save_file(tensors, path, metadata=described)
    except SafetensorError as error:
        said = re.search(r"os error (\d+)", str(error))
        raise OSError(int(said[1]) if said else errno.EIO, str(error), str(path)) from error
    path.chmod(mode)
    with path.open("rb") as file:
        os.fsync(file.fileno())


def staging_of(device: torch.device) -> StagingOptions:
    """How the state of a device is copied: at once, because the next step changes it."""
    on_cuda = device.type == "cuda"
    return StagingOptions(
        use_pinned_memory=on_cuda, use_shared_memory=False, use_async_staging=False, use_non_blocking_copy=on_cuda
    )


def read_shards(path: Path, tensors: dict[str, torch.Tensor], world: World) -> None:
    """Fill tensors, or this rank's slices of them, from a checkpoint whose bytes were verified; all ranks read together.

    Raises ``StepError`` for a checkpoint that holds other tensors.
    """
    try:
        with warnings.catch_warnings():  # that a single process reads alone is what is meant
            warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
            load(tensors, storage_reader=HuggingFaceStorageReader(str(path)), no_dist=world.mesh is None)
    except (CheckpointException, RuntimeError, KeyError, ValueError) as error:
        raise StepError(
            f"checkpoint {path} does not hold this model's tensors ({error}); it was made of another model: remove it"
        ) from error


def _first_cause(error: BaseException) -> BaseException:
    """Of several ranks' failures, the first one of the machine's; else the first."""
    if not isinstance(error, CheckpointException):
        return error
    causes = [failure[0] for failure in error.failures.values()]
    return next((cause for cause in causes if isinstance(cause, OSError)), causes[0] if causes else error)


def _in_words(error: BaseException, final: Path) -> StepError:
    return StepError(
        f"checkpoint {final.name} cannot be written: {_first_cause(error)}; the one before it is kept, and the next attempt "
        "goes on from there"
    )
