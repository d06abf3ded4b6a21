"""Checkpoints: everything that the next step depends on, in a folder per step and attempt.

Rules:
1. ``step-<8 digits>-attempt-<n>/`` appears whole: it is written under a temporary name, flushed to disk, then renamed.
2. Tensors are safetensors, the rest is JSON; nothing is unpickled. ``manifest.json`` lists size and sha256 of every file.
3. A checkpoint is loaded only if its bytes are those of its manifest. A damaged one is set aside under the suffix
   ``.damaged``, an event says so, and the one before it is used; where none is left the training begins anew.
4. A sound checkpoint of another step key, or of a run whose environment would compute other bits (threads, torch,
   processor), is refused: training on from it would not equal an uninterrupted run. One of another topology (how many
   processes, and how the model is cut) is taken, because only a changed spec asks for that; the state remembers it, and what
   would claim to be exact (a run that continues another) refuses it.
5. The two newest of a lineage are kept, and the newest that is known to be good (``rise``), which is one of the two unless the
   loss rises: after writing one, the others before its predecessor are removed. Where a training ends because its loss has
   risen, those after the good one are removed: the next attempt goes on from that one. Checkpoints that an
   attempt neither read nor wrote and that are further on are not touched: they may be a stale attempt's.
6. The names of folders and files, and which checkpoint is the newest, are the contract's (``contract.checkpoints``): the
   control plane finds a checkpoint by them without loading torch.
"""

import errno
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as bytes_from_tensors

from forge.canonical import Digest, canonical_json, digest_of_bytes, digest_of_chunks
from forge.contract.checkpoints import checkpoint_name, position_of
from forge.contract.manifest import Manifest, manifest_of
from forge.contract.messages import Continued
from forge.errors import StepError

MANIFEST_FILE = "manifest.json"
STATE_FILE = "state.json"
TOPOLOGY = ("processes", "topology")
"""What an environment says of how a training is spread."""
_DAMAGED = ".damaged"
TEMPORARY = ".tmp"
_CHUNK = 1 << 20


class CheckpointState(BaseModel):
    """``state.json``: where the training stands, and whose it is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    key: str
    """The step key: it covers parameters, data and tokenizer."""
    attempt: int
    step: int
    """Optimiser steps done."""
    tokens: int
    sequences: int
    """Position in the data order: windows consumed over all processes."""
    train_loss: float
    """Nats per token of the last step."""
    environment: dict[str, str]
    """What else the bits depend on."""
    lineage: str | None = None
    """What a run that continues this one has to share (``contract.checkpoints.lineage_of``); None in a checkpoint of an
    engine that could not continue one under another key."""
    training_tokens: int | None = None
    """``training.tokens`` of the run, which says where its decay began."""
    continued: Continued | None = None
    """The run that this one continued."""
    layout: Literal["whole", "sharded"] = "whole"
    """Whole tensors in one file a group, or slices as ``shards`` writes them."""
    earlier_topologies: tuple[str, ...] = ()
    """How the training was spread before, where that changed: the bits are then not those of an uninterrupted run."""
    lowest_mean_loss: float | None = None
    """The lowest mean of losses so far: what a rise of the loss is held against."""
    recent_losses: tuple[float, ...] = ()
    """Of the last steps (``rise.Losses``); none in a checkpoint of an engine that forgot them."""
    good_checkpoint: int | None = None
    """The step of the newest checkpoint before this one that later losses spoke well of."""
    inputs: dict[str, str] | None = None
    """Digests of what the run reads, by the names of its inputs: with them a refusal says what is another."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose bytes were verified."""

    path: Path
    state: CheckpointState
    groups: dict[str, dict[str, torch.Tensor]]
    """File stem (model, optimizer, rng) -> tensors by name; empty where the layout is sharded: ``shards`` reads those."""


def save_checkpoint(folder: Path, state: CheckpointState, groups: dict[str, dict[str, torch.Tensor]]) -> Path:
    """Write a checkpoint and make it visible at once; raises ``OSError`` where the disk does not take it."""
    final = folder / checkpoint_name(state.step, state.attempt)
    temporary = final.with_name(final.name + TEMPORARY)
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        files = {
            f"{stem}.safetensors": _write(temporary, f"{stem}.safetensors", bytes_from_tensors(_plain(tensors)))
            for stem, tensors in groups.items()
        }
        return _publish(temporary, final, state, files)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)  # a full disk has no room for halves
        raise


def save_named(subject: str, folder: Path, state: CheckpointState, groups: dict[str, dict[str, torch.Tensor]]) -> Path:
    """As ``save_checkpoint``; raises ``StepError``, caused by the ``OSError``, where the disk does not take it."""
    try:
        return save_checkpoint(folder, state, groups)
    except OSError as error:
        raise StepError(
            f"{subject}: the checkpoint of step {state.step} cannot be written to {folder}: {error}; the one before it is "
            "kept, and the next attempt goes on from there"
        ) from error


def publish(temporary: Path, final: Path, state: CheckpointState) -> Path:
    """Make a folder of tensors that others wrote, and flushed to disk, a checkpoint."""
    paths = [path for path in temporary.iterdir() if path.is_file()]
    return _publish(temporary, final, state, {path.name: (path.stat().st_size, _digest_of_file(path)) for path in paths})


def _publish(temporary: Path, final: Path, state: CheckpointState, files: dict[str, tuple[int, str]]) -> Path:
    files[STATE_FILE] = _write(temporary, STATE_FILE, canonical_json(state.model_dump(mode="json")))
    _write(temporary, MANIFEST_FILE, manifest_of(files).to_bytes())
    _flush_folder(temporary)
    if final.exists():  # only a leftover of this very attempt can bear the name
        shutil.rmtree(final)
    temporary.replace(final)
    _flush_folder(final.parent)
    return final


def remove_before(folder: Path, step: int, good: int | None = None) -> None:
    """Remove every checkpoint of an earlier step than ``step`` but for that of the step ``good``.

    What attempts before left half-written goes too.
    """
    for path, found_step, _attempt in _listed(folder):
        if found_step < step and found_step != good:
            shutil.rmtree(path)
    for path in folder.glob(f"*{TEMPORARY}"):
        shutil.rmtree(path)


def remove_after(folder: Path, good: int, last: int) -> None:
    """Remove the checkpoints of the steps after ``good``, up to ``last``: they were made while the loss rose."""
    for path, found_step, _attempt in _listed(folder):
        if good < found_step <= last:
            shutil.rmtree(path)


def loss_at(folder: Path, step: int) -> float | None:
    """The loss that the checkpoint of a step tells, its bytes not verified; None where there is none."""
    for path, found_step, _attempt in _listed(folder):
        if found_step == step:
            with suppress(DamagedCheckpointError):
                return read_state(path).train_loss
    return None


def load_newest(
    folder: Path,
    key: str,
    environment: dict[str, str],
    report: Callable[[str], None],
    inputs: Mapping[str, str] | None = None,
) -> Checkpoint | None:
    """The newest sound checkpoint, or None; ``report`` is told of each damaged one.

    Raises ``StepError`` where the newest sound one belongs to another key or environment; with ``inputs``, the digests of
    what this run reads, it says which of them is another.
    """
    paths = [path for path, _step, _attempt in sorted(_listed(folder), key=lambda entry: entry[1:], reverse=True)]
    for path in paths:
        try:
            checkpoint = load_checkpoint(path)
        except DamagedCheckpointError as error:
            aside = path.with_name(path.name + _DAMAGED)
            shutil.rmtree(aside, ignore_errors=True)
            path.replace(aside)
            then = "no other is left, so the training begins anew" if path == paths[-1] else "the one before it is read"
            report(f"{error}; set aside as {aside.name}; {then}")
            continue
        _check_identity(path, checkpoint.state, key, environment, inputs)
        return checkpoint
    return None


def find_kept(folder: Path, step: int, key: str, environment: dict[str, str], report: Callable[[str], None]) -> Path | None:
    """A sound checkpoint of exactly this step, key and environment; ``report`` is told why one is not taken."""
    for path, found_step, _attempt in sorted(_listed(folder), key=lambda entry: entry[1:], reverse=True):
        if found_step != step:
            continue
        try:
            state = verify_checkpoint(path)
            _check_identity(path, state, key, environment)
            _check_one_topology(path, state, environment)
        except StepError as error:
            report(str(error))
        else:
            return path
    return None


def copy_checkpoint(source: Path, target: Path) -> None:
    """Make a checkpoint appear a second time, whole, and without a second copy of its bytes where the disk can link."""
    temporary = target.with_name(target.name + TEMPORARY)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for file in source.iterdir():
        try:
            (temporary / file.name).hardlink_to(file)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP):
                raise
            shutil.copyfile(file, temporary / file.name)
    _flush_folder(temporary)
    temporary.replace(target)
    _flush_folder(target.parent)


class DamagedCheckpointError(StepError):
    """A checkpoint's bytes are not those of its manifest."""


def load_checkpoint(path: Path) -> Checkpoint:
    """Read and verify one checkpoint; raises ``DamagedCheckpointError``. Slices are verified, and read by ``shards``."""
    state = read_state(path)
    if state.layout == "sharded":
        return Checkpoint(path, verify_checkpoint(path), {})
    try:
        manifest = Manifest.model_validate_json((path / MANIFEST_FILE).read_bytes())
        contents: dict[str, bytes] = {}
        for file in manifest.files:
            contents[file.path] = (path / file.path).read_bytes()
            found = digest_of_bytes(contents[file.path])
            if found != file.sha256:
                raise DamagedCheckpointError(
                    f"checkpoint {path.name} is damaged: {file.path} has {found}, its manifest says {file.sha256}"
                )
        state = CheckpointState.model_validate_json(contents.pop(STATE_FILE))
    except (FileNotFoundError, NotADirectoryError, KeyError, ValidationError) as error:
        raise DamagedCheckpointError(f"checkpoint {path.name} is damaged: {error}") from error
    groups = {name.removesuffix(".safetensors"): tensors_from_bytes(data) for name, data in contents.items()}
    return Checkpoint(path, state, groups)


def read_state(path: Path) -> CheckpointState:
    """What a checkpoint says of itself, its bytes not verified; raises ``DamagedCheckpointError`` where it says nothing."""
    try:
        return CheckpointState.model_validate_json((path / STATE_FILE).read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValidationError) as error:
        raise DamagedCheckpointError(f"checkpoint {path.name} is damaged: {error}") from error


def verify_checkpoint(path: Path) -> CheckpointState:
    """Hash one checkpoint without keeping its bytes; raises ``DamagedCheckpointError``."""
    try:
        for file in Manifest.model_validate_json((path / MANIFEST_FILE).read_bytes()).files:
            found = _digest_of_file(path / file.path)
            if found != file.sha256:
                raise DamagedCheckpointError(
                    f"checkpoint {path.name} is damaged: {file.path} has {found}, its manifest says {file.sha256}"
                )
        return CheckpointState.model_validate_json((path / STATE_FILE).read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValidationError) as error:
        raise DamagedCheckpointError(f"checkpoint {path.name} is damaged: {error}") from error


def artifact_of(folder: Path) -> Digest:
    """The name that the store gives a folder: every file in it counts, the checkpoint's own manifest too."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return manifest_of(
        {path.relative_to(folder).as_posix(): (path.stat().st_size, _digest_of_file(path)) for path in files}
    ).digest


def differences_of(before: dict[str, str], now: dict[str, str]) -> str:
    """In words, what is not the same in two environments; empty where they are equal."""
    return ", ".join(
        f"{name} was {before.get(name)}, is {now.get(name)}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    )


def _check_identity(
    path: Path, state: CheckpointState, key: str, environment: dict[str, str], inputs: Mapping[str, str] | None = None
) -> None:
    if state.key != key:
        others = differences_of(state.inputs, dict(inputs)) if state.inputs is not None and inputs is not None else ""
        raise StepError(
            f"checkpoint {path} belongs to step key {state.key}, this step is {key}{f' (inputs: {others})' if others else ''}; "
            "it was copied or the scratch folder is shared by mistake: remove it"
        )
    differences = differences_of(*(_without_topology(each) for each in (state.environment, environment)))
    if differences:
        raise StepError(
            f"checkpoint {path} was made in another environment ({differences}): training on from it would "
            "not give what an uninterrupted run gives; restore the environment, or remove the folder to start again"
        )


def _check_one_topology(path: Path, state: CheckpointState, environment: dict[str, str]) -> None:
    differences = differences_of(state.environment, environment)
    if differences or state.earlier_topologies:
        how = differences or f"first {', '.join(state.earlier_topologies)}"
        raise StepError(f"checkpoint {path} was made in another topology ({how}): nothing can be its exact continuation")


def _without_topology(environment: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name not in TOPOLOGY}


def _plain(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}


def _write(folder: Path, name: str, data: bytes) -> tuple[int, str]:
    with (folder / name).open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return len(data), digest_of_bytes(data)


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _listed(folder: Path) -> list[tuple[Path, int, int]]:
    if not folder.is_dir():
        return []
    named = ((path, position_of(path.name)) for path in folder.iterdir())
    return [(path, *position) for path, position in named if position]


def _digest_of_file(path: Path) -> Digest:
    with path.open("rb") as file:
        return digest_of_chunks(iter(lambda: file.read(_CHUNK), b""))
