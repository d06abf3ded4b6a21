"""Plan files on the command line: applied as shown, or refused with exit 4."""

import gzip
import json
from pathlib import Path

import pytest
from tests.conftest import DEPLOYMENT, commit_all, git, run_forge
from tests.reconcile.test_apply import snapshot_of

from forge.canonical import hex_of
from forge.cli.place import place_of
from forge.errors import RefusedError
from forge.plan.recorded import EVERYTHING
from forge.plan.saved import from_bytes
from forge.reconcile.apply import Mode, apply
from forge.reconcile.approved import Approved, plan_to_save
from forge.reconcile.stop import Stop
from forge.repo.desired import read_desired
from forge.repo.repository import Repository
from forge.repo.tree import CommitTree
from forge.ui.progress import display


def change(folder: Path, text: str = "  engine: {max_num_seqs: 4}\n") -> None:
    (folder / "models" / "deployment.yaml").write_text(DEPLOYMENT + text)
    commit_all(folder)


def test_a_saved_plan_is_applied_and_prints_what_plan_printed(copy_of_applied: Path, config_home: Path, tmp_path: Path) -> None:
    change(copy_of_applied)
    file = tmp_path / "plan.json"
    shown = run_forge(copy_of_applied, config_home, "plan", "--out", str(file)).stdout
    done = run_forge(copy_of_applied, config_home, "apply", str(file))
    assert done.stdout == shown
    assert "reload" in shown
    assert "7 in sync" in run_forge(copy_of_applied, config_home, "plan").stdout
    again = run_forge(copy_of_applied, config_home, "apply", str(file), code=4)
    assert "the plan is stale; since it was made:" in again.stderr
    assert "release/small-local: reload" in again.stderr
    assert "forge plan --out" in again.stderr


def test_a_plan_for_another_commit_or_with_other_bytes_is_refused(
    copy_of_applied: Path, config_home: Path, tmp_path: Path
) -> None:
    change(copy_of_applied)
    file = tmp_path / "plan.json"
    run_forge(copy_of_applied, config_home, "plan", "--out", str(file))
    file.write_bytes(file.read_bytes().replace(b'"currency":"USD"', b'"currency":"EUR"'))
    assert "altered" in run_forge(copy_of_applied, config_home, "apply", str(file), code=4).stderr
    run_forge(copy_of_applied, config_home, "plan", "--out", str(file))
    change(copy_of_applied, "  engine: {max_num_seqs: 5}\n")
    said = run_forge(copy_of_applied, config_home, "apply", str(file), code=4).stderr
    assert f"the commit to apply is {git(copy_of_applied, 'rev-parse', 'HEAD')}" in said
    assert snapshot_of(copy_of_applied).release("local") is not None
    commit = git(copy_of_applied, "rev-parse", "--short=12", "HEAD~1")
    assert f"`forge apply {file} --ref {commit}` applies it" in said
    assert "In sync with commit" in run_forge(copy_of_applied, config_home, "apply", str(file), "--ref", commit).stderr


def test_a_preview_cannot_be_saved(repository: Path, config_home: Path, tmp_path: Path) -> None:
    for flags in (["--worktree"], ["--base", "HEAD"]):
        said = run_forge(repository, config_home, "plan", *flags, "--out", str(tmp_path / "plan"), code=2).stderr
        assert "only the whole plan of a commit can be saved" in said
    assert not (tmp_path / "plan").exists()


def test_a_plan_beyond_the_budget_is_refused(repository: Path, config_home: Path) -> None:
    with (repository / "forge.toml").open("a") as settings:
        settings.write("[budgets]\nmax_cost_per_plan = 0.00000001\n")
    commit_all(repository)
    assert "REFUSED: the plan may cost" in run_forge(repository, config_home, "plan").stdout
    run_forge(repository, config_home, "plan", "--exit-code", code=4)
    said = run_forge(repository, config_home, "apply", code=4).stderr
    assert "budgets.max_cost_per_plan" in said
    assert snapshot_of(repository).head == (0, None)


def test_explain_and_base_and_force_on_the_command_line(copy_of_applied: Path, config_home: Path) -> None:
    change(copy_of_applied)
    commit = git(copy_of_applied, "rev-parse", "--short=12", "HEAD")
    said = run_forge(copy_of_applied, config_home, "plan", "--explain", "release/small-local").stdout
    assert f"because `engine.max_num_seqs` was default and is 4, by commit {commit}; a change of it means reload" in said
    out = copy_of_applied.parent / "explained.json"
    flags = ("--explain", "release/small-local", "--out", str(out), "--exit-code", "--format", "json")
    data = json.loads(run_forge(copy_of_applied, config_home, "plan", *flags, code=3).stdout)
    assert data["chains"][0]["told"][0]["action"] == "reload"
    assert from_bytes(out.read_bytes(), "explained").plan.commit == git(copy_of_applied, "rev-parse", "HEAD")
    for refused in (("--base", "HEAD~1"), ("--format", "markdown")):
        said = run_forge(copy_of_applied, config_home, "plan", "--explain", "gate/small-local", *refused, code=2).stderr
        assert "leave out --base and --format markdown" in said
    assert "1 to reload" in run_forge(copy_of_applied, config_home, "plan", "--base", "HEAD~1").stdout
    (copy_of_applied / "README").write_text("unrelated")
    commit_all(copy_of_applied)
    only_this = run_forge(copy_of_applied, config_home, "plan", "--base", "HEAD~1").stdout
    assert "to reload" not in only_this
    forced = run_forge(copy_of_applied, config_home, "plan", "--force", "gate/small-local").stdout
    assert "* re-evaluate gate/small-local      forced" in forced
    said = run_forge(copy_of_applied, config_home, "plan", "--force", "gate/smal-local", code=2).stderr
    assert "did you mean `gate/small-local`" in said


def test_explain_names_the_file_that_changed_although_the_curation_is_recorded(
    copy_of_applied: Path, config_home: Path
) -> None:
    part = copy_of_applied / "corpus" / "part.jsonl.gz"
    lines = gzip.decompress(part.read_bytes()).splitlines(keepends=True)
    part.write_bytes(gzip.compress(b"".join(lines[:-1]), mtime=0))
    commit_all(copy_of_applied, "one document less")
    commit = git(copy_of_applied, "rev-parse", "--short=12", "HEAD")
    run_forge(copy_of_applied, config_home, "apply", "--target", "DataRecipe/small")
    (copy_of_applied / "README").write_text("unrelated")
    commit_all(copy_of_applied)
    said = run_forge(copy_of_applied, config_home, "plan", "--explain", "tokenizer/small").stdout
    assert said.startswith("tokenizer/small: run\n  because its input documents (curate/small) was sha256:")
    assert "it is another because its input source-0 (DataRecipe/small) was sha256:" in said
    assert f"corpus/part.jsonl.gz has other bytes, by commit {commit}\n" in said


def test_a_changed_policy_is_named_by_its_fields_as_long_as_the_store_holds_the_one_that_was_released(
    copy_of_applied: Path, config_home: Path
) -> None:
    policy = copy_of_applied / "policies" / "small.yaml"
    policy.write_text(policy.read_text().replace("max_tokens: 32", "max_tokens: 64"))
    commit_all(copy_of_applied)
    named = "field changed: roles[reader].limits.max_tokens: 32 -> 64 (reload)"
    said = run_forge(copy_of_applied, config_home, "plan").stdout
    assert "~ reload      release/small-local" in said
    assert named in said
    release = snapshot_of(copy_of_applied).latest("release/small-local")
    assert release is not None
    name = release.inputs["policy"].removeprefix("sha256:")
    (copy_of_applied / ".forge" / "store" / "manifests" / name[:2] / f"{name}.json").unlink()
    said = run_forge(copy_of_applied, config_home, "plan").stdout
    assert "input changed: policy (InferencePolicy/small)" in said
    assert named not in said


def test_explain_says_that_a_renaming_changed_the_order_of_files(copy_of_applied: Path, config_home: Path) -> None:
    corpus = copy_of_applied / "corpus"
    (corpus / "second.jsonl.gz").write_bytes(gzip.compress(b"", mtime=0))
    commit_all(copy_of_applied)
    run_forge(copy_of_applied, config_home, "apply", "--target", "DataRecipe/small")
    git(copy_of_applied, "mv", "corpus/part.jsonl.gz", "corpus/other.jsonl.gz")
    commit_all(copy_of_applied, "as before: other, second")
    assert (
        "= nothing     curate/small" in run_forge(copy_of_applied, config_home, "plan", "--target", "DataRecipe/small").stdout
    )
    git(copy_of_applied, "mv", "corpus/other.jsonl.gz", "corpus/third.jsonl.gz")
    commit = commit_all(copy_of_applied, "second, third")
    said = run_forge(copy_of_applied, config_home, "plan", "--explain", "curate/small").stdout
    renamed = "corpus/part.jsonl.gz -> corpus/third.jsonl.gz"
    assert f"    file order changed by renaming: {renamed}, by commit {commit[:12]}\n" in said


def test_what_the_store_loses_between_the_comparison_and_the_first_step_is_beyond_what_was_approved(
    copy_of_applied: Path, config_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORGE_CONFIG_HOME", str(config_home))
    change(copy_of_applied)
    with Repository(copy_of_applied) as repository:
        place = place_of(repository, read_desired(CommitTree(repository, repository.resolve_commit("HEAD"))))
        allowed = Approved(plan_to_save(place, EVERYTHING), ())
        before = git(copy_of_applied, "rev-parse", "refs/forge/ledger")
        weights = snapshot_of(copy_of_applied).latest("train/small")
        assert weights is not None
        lost = hex_of(weights.products["weights"])
        (copy_of_applied / ".forge" / "store" / "manifests" / lost[:2] / f"{lost}.json").unlink()
        with pytest.raises(RefusedError, match="train/small was not to be done, and now is to run"):
            apply(place, display(), Stop(), Mode(allowed=allowed))
    assert git(copy_of_applied, "rev-parse", "refs/forge/ledger") == before
