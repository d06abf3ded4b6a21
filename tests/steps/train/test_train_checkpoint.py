"""What becomes of a checkpoint that is damaged, half-written, or another run's."""

import json
from pathlib import Path

import pytest
import torch

from forge.canonical import canonical_json, digest_of_bytes
from forge.contract.manifest import Manifest, manifest_of
from forge.errors import StepError
from forge.steps.train.checkpoint import (
    Checkpoint,
    CheckpointState,
    checkpoint_name,
    find_kept,
    load_newest,
    remove_after,
    remove_before,
    save_checkpoint,
)

KEY = "sha256:" + "a" * 64
ENVIRONMENT = {"torch": "1", "threads": "2"}


def _save(folder: Path, step: int, attempt: int = 1, key: str = KEY) -> Path:
    state = CheckpointState(
        key=key, attempt=attempt, step=step, tokens=step * 8, sequences=step, train_loss=1 / 3, environment=ENVIRONMENT
    )
    tensors = {"w": torch.full((4, 4), float(step)).T, "step": torch.tensor(float(step))}
    return save_checkpoint(folder, state, {"model": tensors, "rng": {"cpu": torch.arange(5, dtype=torch.uint8)}})


def _load(folder: Path, told: list[str] | None = None) -> Checkpoint | None:
    return load_newest(folder, KEY, ENVIRONMENT, (told if told is not None else []).append)


def test_what_was_saved_is_loaded_to_the_last_bit(tmp_path: Path) -> None:
    _save(tmp_path, 5)
    loaded = _load(tmp_path)
    assert loaded is not None
    assert loaded.state.train_loss == 1 / 3
    assert torch.equal(loaded.groups["model"]["w"], torch.full((4, 4), 5.0))
    assert loaded.groups["rng"]["cpu"].tolist() == [0, 1, 2, 3, 4]


def test_the_furthest_step_is_taken_and_of_equal_steps_the_latest_attempt(tmp_path: Path) -> None:
    for step, attempt in ((9, 1), (100, 2), (100, 10), (20, 11)):
        _save(tmp_path, step, attempt)
    loaded = _load(tmp_path)
    assert loaded is not None
    assert loaded.path.name == checkpoint_name(100, 10)


def test_there_is_no_checkpoint_in_an_empty_or_absent_folder(tmp_path: Path) -> None:
    assert _load(tmp_path) is None
    assert _load(tmp_path / "absent") is None


@pytest.mark.parametrize("name", ["model.safetensors", "rng.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["truncated", "bit flipped", "removed", "emptied"])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_used(tmp_path: Path, name: str, damage: str) -> None:
    _save(tmp_path, 10)
    file = _save(tmp_path, 20) / name
    data = file.read_bytes()
    flipped = bytes([*data[:-3], data[-3] ^ 1, *data[-2:]])
    file.write_bytes({"truncated": data[:-1], "bit flipped": flipped, "removed": b"", "emptied": b""}[damage])
    if damage == "removed":
        file.unlink()
    told: list[str] = []
    loaded = _load(tmp_path, told)
    assert loaded is not None
    assert loaded.state.step == 10
    assert len(told) == 1
    assert told[0].startswith(f"checkpoint {checkpoint_name(20, 1)} is damaged")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        checkpoint_name(10, 1),
        f"{checkpoint_name(20, 1)}.damaged",
    ]


def test_that_no_sound_checkpoint_is_left_is_said(tmp_path: Path) -> None:
    for step in (10, 20):
        (_save(tmp_path, step) / "model.safetensors").write_bytes(b"")
    told: list[str] = []
    assert _load(tmp_path, told) is None
    assert [text.split("; ")[-1] for text in told] == [
        "the one before it is read",
        "no other is left, so the training begins anew",
    ]


def test_a_half_written_checkpoint_is_never_taken_and_cleared_later(tmp_path: Path) -> None:
    _save(tmp_path, 10)
    _save(tmp_path, 20).rename(tmp_path / f"{checkpoint_name(20, 1)}.tmp")
    loaded = _load(tmp_path)
    assert loaded is not None
    assert loaded.state.step == 10
    remove_before(tmp_path, 10)
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint_name(10, 1)]


def test_a_checkpoint_of_another_step_key_is_refused_and_kept(tmp_path: Path) -> None:
    other = "sha256:" + "b" * 64
    path = _save(tmp_path, 10, key=other)
    with pytest.raises(StepError, match=f"belongs to step key {other}, this step is {KEY}"):
        _load(tmp_path)
    assert path.is_dir()


def test_a_checkpoint_of_another_environment_is_refused_with_the_difference(tmp_path: Path) -> None:
    _save(tmp_path, 10)
    with pytest.raises(StepError, match=r"another environment \(threads was 2, is 4\)"):
        load_newest(tmp_path, KEY, {**ENVIRONMENT, "threads": "4"}, lambda _: None)


def test_removal_leaves_what_is_not_earlier(tmp_path: Path) -> None:
    for step, attempt in ((10, 1), (20, 1), (30, 2), (90, 1)):
        _save(tmp_path, step, attempt)
    remove_before(tmp_path, 20)
    assert [int(path.name[5:13]) for path in sorted(tmp_path.iterdir())] == [20, 30, 90]


def test_removal_leaves_the_good_one_and_what_is_not_earlier(tmp_path: Path) -> None:
    for step in (10, 20, 30, 40):
        _save(tmp_path, step)
    remove_before(tmp_path, 30, good=10)
    assert [int(path.name[5:13]) for path in sorted(tmp_path.iterdir())] == [10, 30, 40]
    remove_after(tmp_path, 10, 30)
    assert [int(path.name[5:13]) for path in sorted(tmp_path.iterdir())] == [10, 40]


def test_a_leftover_of_the_same_attempt_is_replaced(tmp_path: Path) -> None:
    (_save(tmp_path, 10) / "model.safetensors").write_bytes(b"")
    _save(tmp_path, 10)
    told: list[str] = []
    assert _load(tmp_path, told) is not None
    assert told == []


def test_a_checkpoint_of_an_engine_without_topologies_is_read_as_whole(tmp_path: Path) -> None:
    path = _save(tmp_path, 10)
    state = json.loads((path / "state.json").read_text())
    for later in ("layout", "earlier_topologies", "lowest_mean_loss", "recent_losses", "good_checkpoint"):
        del state[later]
    data = canonical_json(state)
    (path / "state.json").write_bytes(data)
    manifest = Manifest.model_validate_json((path / "manifest.json").read_bytes())
    files = {file.path: (file.size, file.sha256) for file in manifest.files}
    files["state.json"] = (len(data), digest_of_bytes(data))
    (path / "manifest.json").write_bytes(manifest_of(files).to_bytes())
    told: list[str] = []
    loaded = _load(tmp_path, told)
    assert loaded is not None
    assert (loaded.state.layout, loaded.state.earlier_topologies, told) == ("whole", (), [])
    assert torch.equal(loaded.groups["model"]["w"], torch.full((4, 4), 10.0))


def test_another_topology_is_taken_but_is_no_exact_prefix(tmp_path: Path) -> None:
    _save(tmp_path, 10)
    other = {**ENVIRONMENT, "processes": "2", "topology": "2 processes (2 x ddp)"}
    told: list[str] = []
    assert load_newest(tmp_path, KEY, other, told.append) is not None
    assert find_kept(tmp_path, 10, KEY, other, told.append) is None
    assert "made in another topology (processes was None, is 2" in told[0]
    assert find_kept(tmp_path, 10, KEY, ENVIRONMENT, told.append) is not None


def test_a_state_that_is_cut_short_is_damage_whatever_the_layout(tmp_path: Path) -> None:
    _save(tmp_path, 10)
    path = _save(tmp_path, 20)
    (path / "state.json").write_text('{"layout": "sharded"')
    told: list[str] = []
    loaded = _load(tmp_path, told)
    assert loaded is not None
    assert loaded.state.step == 10
    assert "is damaged" in told[0]
