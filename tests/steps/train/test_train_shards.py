"""Writing slices beside the training, in a group of one: what is copied, what is seen, what a full disk leaves."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

from forge.errors import StepError
from forge.steps.train import shards
from forge.steps.train.checkpoint import CheckpointState, checkpoint_name, load_checkpoint
from forge.steps.train.distributed import World, open_world
from forge.steps.train.shards import ShardWriter, read_shards

KEY = "sha256:" + "a" * 64
NOBODY = World(0, 1, torch.device("cpu"))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with open_world("cpu", 1, tmp_path / "meeting-point") as world:
        yield world


def _state(step: int) -> CheckpointState:
    return CheckpointState(
        key=KEY, attempt=1, step=step, tokens=8 * step, sequences=step, train_loss=1.0, environment={}, layout="sharded"
    )


def _tensors(value: float) -> dict[str, torch.Tensor]:
    return {
        "model.w": torch.full((64, 64), value),
        "optimizer.step.w": torch.tensor(value),
        "rng.cpu": torch.full((8,), int(value), dtype=torch.uint8),
    }


def test_what_is_written_is_the_state_of_when_it_began(tmp_path: Path, world: World) -> None:
    writer, tensors, folder = ShardWriter(world), _tensors(3.0), tmp_path / "checkpoints"
    cleared: list[str] = []
    writer.begin(folder, _state(4), tensors, lambda: cleared.append("after"))
    for tensor in tensors.values():
        tensor.fill_(9)
    path = writer.finish()
    assert path == folder / checkpoint_name(4, 1)
    assert cleared == ["after"]
    assert load_checkpoint(path).state == _state(4)
    found = _tensors(0.0)
    read_shards(path, found, NOBODY)
    assert all(torch.equal(found[name], tensor) for name, tensor in _tensors(3.0).items())
    assert sorted(entry.name for entry in folder.iterdir()) == [checkpoint_name(4, 1)]


def test_the_memory_of_the_copy_is_kept_from_one_checkpoint_to_the_next(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    places: list[int] = []
    real = shards.DefaultStager.stage

    def stage(self: Any, state: Any, **named: Any) -> Any:
        copied = real(self, state, **named)
        places.append(copied["model.w"].data_ptr())
        return copied

    monkeypatch.setattr(shards.DefaultStager, "stage", stage)
    writer, tensors, paths = ShardWriter(world), _tensors(3.0), []
    for step in (4, 8):
        tensors["model.w"].fill_(step)
        writer.begin(tmp_path / "checkpoints", _state(step), tensors, lambda: None)
        paths.append(writer.finish())
    assert len(places) == 2
    assert len(set(places)) == 1
    assert tensors["model.w"].data_ptr() not in places
    for path, step in zip(paths, (4, 8), strict=True):
        assert path is not None
        found = {"model.w": torch.zeros(64, 64)}
        read_shards(path, found, NOBODY)
        assert torch.equal(found["model.w"], torch.full((64, 64), float(step)))


def test_the_state_of_a_device_is_copied_to_pinned_memory_before_the_next_step() -> None:
    cuda, cpu = (shards.staging_of(torch.device(name)) for name in ("cuda", "cpu"))
    assert (cuda.use_pinned_memory, cuda.use_non_blocking_copy, cuda.use_async_staging) == (True, True, False)
    assert (cpu.use_pinned_memory, cpu.use_non_blocking_copy, cpu.use_async_staging) == (False, False, False)


def test_nothing_is_visible_before_it_is_whole(tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    real = shards.publish

    def publish(temporary: Path, final: Path, state: CheckpointState) -> Path:
        seen.append([entry.name for entry in final.parent.iterdir()])
        return real(temporary, final, state)

    monkeypatch.setattr(shards, "publish", publish)
    writer = ShardWriter(world)
    writer.begin(tmp_path / "checkpoints", _state(4), _tensors(1.0), lambda: None)
    assert writer.finish() is not None
    assert seen == [[f"{checkpoint_name(4, 1)}.tmp"]]
    assert writer.finish() is None, "there is nothing more to wait for"


def test_a_full_disk_is_said_at_the_end_and_leaves_the_one_before(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, folder = ShardWriter(world), tmp_path / "checkpoints"
    writer.begin(folder, _state(4), _tensors(1.0), lambda: None)
    writer.finish()

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    writer.begin(folder, _state(8), _tensors(2.0), lambda: pytest.fail("the one before was cleared"))
    with pytest.raises(StepError, match=f"checkpoint {checkpoint_name(8, 1)} cannot be written: .*No space left") as told:
        writer.finish()
    assert isinstance(told.value.__cause__, OSError)
    assert [entry.name for entry in folder.iterdir()] == [checkpoint_name(4, 1)]


def test_files_are_those_of_torchs_own_writer_but_never_pass_through_the_interpreter(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def written(name: str) -> tuple[dict[str, str], dict[str, torch.Tensor], int]:
        writer = ShardWriter(world)
        rows_of_a_larger_one = torch.arange(64.0).view(16, 4)[4:8]
        writer.begin(tmp_path / name, _state(4), {**_tensors(3.0), "model.rows": rows_of_a_larger_one}, lambda: None)
        path = writer.finish()
        assert path is not None
        (file,) = path.glob("*.safetensors")
        with safe_open(file, framework="pt") as opened:
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 (no mapping)
            return opened.metadata(), tensors, file.stat().st_mode

    def joined(*_arguments: object, **_named: object) -> bytes:
        raise AssertionError("the file was joined in memory")

    monkeypatch.setattr(safetensors.torch, "save", joined)
    metadata, tensors, mode = written("own")
    monkeypatch.undo()
    monkeypatch.setattr(shards, "_Writer", HuggingFaceStorageWriter)
    expected = written("torchs")
    assert (metadata, mode) == (expected[0], expected[2])
    assert tensors.keys() == expected[1].keys()
    assert all(torch.equal(tensor, expected[1][name]) for name, tensor in tensors.items())


def test_what_the_disk_says_to_the_writer_of_tensors_is_said_with_its_number(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: object, **_named: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(shards, "save_file", full)
    writer = ShardWriter(world)
    writer.begin(tmp_path, _state(4), _tensors(1.0), lambda: None)
    with pytest.raises(StepError, match="No space left") as told:
        writer.finish()
    cause = told.value.__cause__
    assert isinstance(cause, OSError)
    assert cause.errno == errno.ENOSPC


def test_slices_of_another_model_are_refused(tmp_path: Path, world: World) -> None:
    writer = ShardWriter(world)
    writer.begin(tmp_path, _state(4), _tensors(1.0), lambda: None)
    path = writer.finish()
    assert path is not None
    with pytest.raises(StepError, match="does not hold this model's tensors"):
        read_shards(path, {"model.other": torch.zeros(3)}, NOBODY)
    with pytest.raises(StepError, match="does not hold this model's tensors"):
        read_shards(path, {"model.w": torch.zeros(65, 64)}, NOBODY)
