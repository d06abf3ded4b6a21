"""Steps that do not wait for each other run at once, as many as there are slots; a failure stops no other's work."""

import re
from pathlib import Path

import pytest
from tests.conftest import MODEL, SETTINGS, commit_all, run_forge
from tests.reconcile.test_apply import snapshot_of


def overlap(folder: Path) -> bool:
    """Whether the trainings of the two models were under way at one time."""
    snapshot = snapshot_of(folder)
    first, second = (snapshot.latest(f"train/{name}") for name in ("one", "two"))
    assert first is not None
    assert second is not None
    return first.started < second.finished and second.started < first.finished


def two_models(folder: Path, slots: int, processes: int = 1) -> None:
    (folder / "forge.toml").write_text(SETTINGS.replace("[executor]", f"[executor]\nslots = {slots}"))
    for number, name in enumerate(("one", "two")):
        text = MODEL.replace("name: small}", f"name: {name}}}").replace("seed: 5", f"seed: {number + 20}")
        resources = f"  resources: {{accelerator: cpu, count: {processes}}}\n"
        (folder / "models" / f"{name}.yaml").write_text(text.replace("tokens: 40k", "tokens: 100k") + resources)
    commit_all(folder)


def test_two_slots_train_two_models_at_once(copy_of_applied: Path, config_home: Path) -> None:
    two_models(copy_of_applied, 2)
    run_forge(copy_of_applied, config_home, "apply")
    assert overlap(copy_of_applied)


def test_one_slot_trains_one_after_the_other(copy_of_applied: Path, config_home: Path) -> None:
    two_models(copy_of_applied, 1)
    run_forge(copy_of_applied, config_home, "apply")
    assert not overlap(copy_of_applied)


@pytest.mark.parametrize("slots", [1, 2])
def test_a_slot_is_a_process_and_a_step_that_needs_more_than_there_are_runs_alone(
    copy_of_applied: Path, config_home: Path, slots: int
) -> None:
    two_models(copy_of_applied, slots, processes=2)
    run_forge(copy_of_applied, config_home, "apply")
    assert not overlap(copy_of_applied)


def test_a_failure_is_raised_at_the_end_and_keep_going_does_the_rest(copy_of_applied: Path, config_home: Path) -> None:
    two_models(copy_of_applied, 1)
    path = copy_of_applied / "models" / "one.yaml"
    path.write_text(re.sub(r"lr: [0-9.e-]+", "lr: 1.0e+30", path.read_text()))
    commit_all(copy_of_applied)
    done = run_forge(copy_of_applied, config_home, "apply", code=1)
    assert "train/one failed" in done.stderr
    assert snapshot_of(copy_of_applied).latest("train/two") is None
    done = run_forge(copy_of_applied, config_home, "apply", "--keep-going", code=1)
    assert "train/one failed" in done.stderr
    assert snapshot_of(copy_of_applied).latest("train/two") is not None
