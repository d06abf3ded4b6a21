"""What a training left is looked at before it is stored."""

import pickle
from pathlib import Path

import pytest

from forge.contract.kinds import StepKind
from forge.errors import RefusedError
from forge.plan.step import Step
from forge.reconcile.recording import _check_formats

TRAIN = Step("train/small", StepKind.TRAIN, "small", "Model/small", "{}", {})


@pytest.mark.parametrize("name", ["optimizer.pt", "shards/rank-0.bin", "state.json"])
def test_a_pickle_is_refused_and_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    _check_formats(TRAIN, tmp_path)
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(pickle.dumps({"step": 1}))
    with pytest.raises(RefusedError, match=f"train/small: {name} is .*nothing of this run is recorded"):
        _check_formats(TRAIN, tmp_path)
