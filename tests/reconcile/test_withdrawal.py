"""A withdrawal that comes while its descendants are being made."""

from pathlib import Path

from tests.admission.test_withdrawals import withdraw, withdrawals_of
from tests.conftest import MODEL, commit_all
from tests.reconcile.test_apply import snapshot_of, step_processes, training_under_way, wait_for
from tests.reconcile.test_controller import watching


def test_a_run_that_descends_from_what_is_withdrawn_meanwhile_is_stopped(copy_of_applied: Path, config_home: Path) -> None:
    model = copy_of_applied / "models" / "model.yaml"
    model.write_text(MODEL.replace("tokens: 40k", "tokens: 1600k").replace("seed: 5", "seed: 6"))
    commit_all(copy_of_applied)
    with watching(copy_of_applied, config_home) as log:
        wait_for(lambda: training_under_way(copy_of_applied))
        withdraw(copy_of_applied, "DataRecipe/small")
        wait_for(lambda: "train/small: no longer wanted" in log.read_text())
        wait_for(lambda: step_processes(copy_of_applied) == [])
        wait_for(lambda: "degraded    Model/small" in log.read_text())
    assert [each.subject for each in withdrawals_of(copy_of_applied)] == ["DataRecipe/small"]
    record = snapshot_of(copy_of_applied).latest("train/small")
    assert record is not None
    assert record.parameters["training"].get("seed") == 5
