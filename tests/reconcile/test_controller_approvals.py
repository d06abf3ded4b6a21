"""A plan that comes to need approvals while a controller applies an earlier one."""

import re
from pathlib import Path

from tests.conftest import new_repository, run_forge, write_small
from tests.governed import commit_as, govern, make_governed
from tests.reconcile.test_apply import snapshot_of, training_under_way, wait_for
from tests.reconcile.test_controller import watching

LIMIT = 0.0004
"""USD: a training of 2 M tokens is below, one of 20 M above."""


def test_a_newer_commit_that_costs_more_waits_for_its_approval(tmp_path: Path) -> None:
    """The first commit's plan needs none; the branch moves while its training runs."""
    folder, governed = new_repository(tmp_path / "repository"), make_governed(tmp_path / "governed")
    write_small(folder)
    model = folder / "models" / "model.yaml"
    model.write_text(model.read_text().replace("tokens: 40k", "tokens: 2M"))
    rules = {"plans": {"approvals": 1, "above_cost": LIMIT}, "release": {}}
    govern(folder, governed.supply_chain(**rules), governed.people())
    commit_as(folder, governed, "cleo", "a cheap training")
    run_forge(folder, governed.config, "keys", "delegate")
    assert "Needs the approval" not in run_forge(folder, governed.config, "plan").stdout
    with watching(folder, governed.config) as log:
        wait_for(lambda: training_under_way(folder))
        model.write_text(model.read_text().replace("tokens: 2M", "tokens: 20M").replace("seed: 5", "seed: 6"))
        dear = commit_as(folder, governed, "cleo", "a dear one")
        assert "Needs the approval of 1" in run_forge(folder, governed.config, "plan").stdout
        wait_for(lambda: "this plan needs the approval of 1" in log.read_text())
    requests = [path.read_text() for path in (folder / ".forge" / "work").glob("*/*/request.json")]
    tokens = {found for text in requests for found in re.findall(r'"tokens": ?(\d+)', text)}
    assert tokens == {"2000000"}, "the cheap one was begun, and the dear one was not"
    record = snapshot_of(folder).latest("train/small")
    assert record is None or record.commit != dear
