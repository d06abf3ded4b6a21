"""A withdrawal that comes while its descendants are being made."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.admission.test_withdrawals import append, body_of, lift, withdraw, withdrawals_of
from tests.conftest import MODEL, commit_all, run_forge
from tests.reconcile.test_apply import snapshot_of, step_processes, training_under_way, wait_for
from tests.reconcile.test_controller import watching

from forge.cli.place import place_of
from forge.ledger.entry import Entry
from forge.ledger.ledger import Snapshot
from forge.reconcile import withdrawals
from forge.reconcile.place import Place, look
from forge.reconcile.withdrawals import why_unheld
from forge.repo.desired import read_desired
from forge.repo.repository import Repository
from forge.repo.tree import CommitTree


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


def test_a_withdrawal_that_holds_is_judged_once(
    copy_of_applied: Path, config_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Judging a lift reads the commit that it stands at: in a large repository each plan would take seconds longer."""
    withdraw(copy_of_applied, "DataRecipe/elsewhere")
    run_forge(copy_of_applied, config_home, "apply")
    lift(copy_of_applied)
    run_forge(copy_of_applied, config_home, "apply")
    judged: list[str] = []

    def counted(place: Place, snapshot: Snapshot, entries: Sequence[Entry]) -> str | None:
        judged.append(entries[-1].digest)
        return why_unheld(place, snapshot, entries)

    monkeypatch.setattr(withdrawals, "why_unheld", counted)
    monkeypatch.setenv("FORGE_CONFIG_HOME", str(config_home))
    with Repository(copy_of_applied) as repository:
        place = place_of(repository, read_desired(CommitTree(repository, repository.resolve_commit("HEAD"))))
        (repository.state_folder / "withdrawals-held").unlink()
        for _ in range(3):
            assert look(place).plan.changes == ()
        assert len(judged) == 1
        append(copy_of_applied, config_home, body_of(copy_of_applied, "DataRecipe/elsewhere"), None)
        for _ in range(2):  # what does not hold is asked again: its commit may be fetched later
            assert [action.id for action in look(place).plan.changes] == ["withdraw/DataRecipe/elsewhere"]
        assert len(judged) == 3
