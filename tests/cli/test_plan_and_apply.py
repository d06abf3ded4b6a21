"""What `forge apply` prints on stdout is what `forge plan` printed: the same plan by the same function, byte for byte."""

from pathlib import Path

from tests.conftest import DATA, DEPLOYMENT, commit_all, run_forge
from tests.reconcile.test_apply import wait_for

from forge.plan.render import MOST_IDLE_ROWS


def both(folder: Path, config_home: Path) -> str:
    """What both print, which must be the same."""
    planned = run_forge(folder, config_home, "plan").stdout
    assert run_forge(folder, config_home, "apply").stdout == planned
    return planned


def change_engine(folder: Path) -> None:
    (folder / "models" / "deployment.yaml").write_text(DEPLOYMENT + "  engine: {max_num_seqs: 4}\n")
    commit_all(folder)


def test_a_small_plan_is_printed_alike_with_changes_and_without(copy_of_applied: Path, config_home: Path) -> None:
    assert "7 in sync" in both(copy_of_applied, config_home)
    change_engine(copy_of_applied)
    assert "~ reload      release/small-local" in both(copy_of_applied, config_home)


def test_a_first_plan_of_everything_is_printed_alike(repository: Path, config_home: Path) -> None:
    assert "6 to run, 1 to release" in both(repository, config_home)


def test_a_plan_of_which_most_is_only_counted_is_printed_alike_by_a_glance_and_in_full(
    copy_of_applied: Path, config_home: Path
) -> None:
    """Recipes that say the same make the same: so many steps, and none of them runs."""
    for number in range(MOST_IDLE_ROWS):
        recipe = DATA.replace("{name: small, ", f"{{name: copy-{number}, ")
        (copy_of_applied / "models" / f"copy-{number}.yaml").write_text(recipe)
    commit_all(copy_of_applied)

    def noted() -> list[Path]:
        return list((copy_of_applied / ".git").rglob("in-sync.json"))

    for note in noted():  # of the plans that others made of what is copied here
        note.unlink()
    in_full = both(copy_of_applied, config_home)
    assert f"{MOST_IDLE_ROWS} reused, 7 in sync" in in_full
    wait_for(lambda: bool(run_forge(copy_of_applied, config_home, "plan").stdout and noted()))
    (note,) = noted()
    before = note.stat().st_mtime_ns
    assert both(copy_of_applied, config_home) == in_full
    assert note.stat().st_mtime_ns == before, "a plan was made although a glance tells it"
    change_engine(copy_of_applied)
    assert "~ reload      release/small-local" in both(copy_of_applied, config_home)
