"""A release whose plan people approved, judged without Forge: who approved it, and that it is the plan of what was done."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import new_repository, run_forge, write_small
from tests.governed import Governed, apply_approved, commit_as, govern
from tests.made import lay_made
from tests.outside.desk import Desk, judged_by_script


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory, governed: Governed, applied: Path) -> Path:
    folder = new_repository(tmp_path_factory.mktemp("planned") / "repository")
    write_small(folder)
    lay_made(applied, folder)
    govern(folder, governed.supply_chain(plans={"approvals": 1}, release={}), governed.people())
    commit_as(folder, governed, "cleo", "the small example, whose plans are approved")
    run_forge(folder, governed.config, "keys", "delegate")
    apply_approved(folder, governed, "ana")
    return folder


def taken_out(bundle: Path) -> None:
    for path in bundle.glob("approvals/ana-*"):
        path.unlink()


def another_plan(bundle: Path) -> None:
    (path,) = bundle.glob("approvals/ana-*.plan")
    path.write_text(path.read_text().replace("train/small", "train/other"))


def test_a_plan_that_was_approved_is_judged_by_the_bundles_script(planned: Path, governed: Governed, tmp_path: Path) -> None:
    done = judged_by_script(planned, governed.config, "local", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 steps and moves were made under plans that people approved" in done.stdout, done.stdout
    assert 'Good "forge-approval" signature for ana' in done.stdout


@pytest.mark.parametrize(
    ("attack", "said"),
    [(taken_out, "names is absent"), (another_plan, "is not the plan that ana approved")],
)
def test_the_script_refuses(
    planned: Path, governed: Governed, tmp_path: Path, attack: Callable[[Path], None], said: str
) -> None:
    judged_by_script(planned, governed.config, "local", tmp_path)
    bundle = tmp_path / "received" / "bundle"
    attack(bundle)
    done = Desk(tmp_path / "second")(bundle, "node check.mjs verdict")
    assert done.returncode != 0
    assert said in done.stdout
    assert "VERDICT the chain DOES NOT HOLD" in done.stdout
