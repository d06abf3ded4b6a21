"""A model that branches from another, by the command line: trained from the checkpoint, explained, verified, refused."""

from pathlib import Path

from tests.conftest import DEPLOYMENT, MODEL, commit_all, git, run_forge
from tests.reconcile.test_apply import snapshot_of

from forge.cli.place import place_of
from forge.ledger.ledger import Draft
from forge.repo.desired import read_desired
from forge.repo.repository import Repository
from forge.repo.tree import CommitTree

LEFT = 10
BRANCH = (
    MODEL.replace("{name: small}", "{name: branch}")
    .replace("  training:", f"  from: {{model: Model/small, step: {LEFT}}}\n  training:")
    .replace("tokens: 40k", "tokens: 30k")
    .replace("{name: wsd, warmup_tokens: 2k, decay_tokens: 10k}", "{name: cosine, warmup_tokens: 0}")
)


def test_a_branch_is_trained_from_a_kept_checkpoint_and_its_chain_holds(
    copy_of_applied: Path, config_home: Path, tmp_path: Path
) -> None:
    """The model was trained before anybody asked for a branch: its first steps are trained again, once."""
    specs = copy_of_applied / "models"
    (specs / "branch.yaml").write_text(BRANCH)
    (specs / "deployment.yaml").write_text(DEPLOYMENT.replace("Model/small", "Model/branch"))
    first = commit_all(copy_of_applied)
    told = run_forge(copy_of_applied, config_home, "plan", "--explain", "train/branch").stdout
    assert f"train/small, which it branches from: the earlier run kept no checkpoint of its first {LEFT} steps" in told
    run_forge(copy_of_applied, config_home, "apply")
    whole = snapshot_of(copy_of_applied).latest("train/branch")
    assert whole is not None
    assert (whole.commit, whole.continued, whole.metrics["resumed_from_step"]) == (first, None, 0)

    forced = run_forge(copy_of_applied, config_home, "apply", "--force", "train/small")
    assert "train/small: done" in forced.stderr
    snapshot = snapshot_of(copy_of_applied)
    small = snapshot.latest("train/small")
    assert small is not None
    assert set(small.byproducts) == {"checkpoint", f"checkpoint-{LEFT}"}

    (specs / "branch.yaml").write_text(BRANCH.replace("tokens: 30k", "tokens: 24k"))
    second = commit_all(copy_of_applied)
    told = run_forge(copy_of_applied, config_home, "plan").stdout
    assert "extend" in next(line for line in told.splitlines() if "train/branch" in line)
    run_forge(copy_of_applied, config_home, "apply")
    record = snapshot_of(copy_of_applied).latest("train/branch")
    assert record is not None
    assert record.commit == second
    assert record.metrics["resumed_from_step"] == LEFT
    assert record.continued is not None
    assert record.continued.model_dump() == {
        "key": small.key,
        "checkpoint": small.byproducts[f"checkpoint-{LEFT}"],
        "tokens": 40_000,
        "byproduct": f"checkpoint-{LEFT}",
    }
    assert "the chain holds" in run_forge(copy_of_applied, config_home, "verify", "release/local").stdout
    run_forge(copy_of_applied, config_home, "report", "release/local", "--out", str(tmp_path / "report"))
    page = (tmp_path / "report" / "index.html").read_text()
    assert f"steps 1 to {LEFT} with optimizer (lr 0.005), schedule (decay_tokens 10,000, name wsd" in page
    before = git(copy_of_applied, "rev-parse", "refs/forge/ledger")
    (specs / "model.yaml").write_text(MODEL.replace("tokens: 40k", "tokens: 60k"))  # it does not reach the shared steps
    commit_all(copy_of_applied)
    run_forge(copy_of_applied, config_home, "apply")
    assert git(copy_of_applied, "rev-parse", "refs/forge/ledger") != before
    again = snapshot_of(copy_of_applied).latest("train/branch")
    assert again is not None
    assert again.key == record.key
    assert again.commit == second

    with Repository(copy_of_applied) as repository:  # the same weights, said to go on from what is no run of the trunk
        place = place_of(repository, read_desired(CommitTree(repository, repository.resolve_commit("HEAD"))))
        told_of = place.ledger.snapshot().record_entry(record.key)
        assert told_of is not None
        other = record.continued.model_copy(update={"tokens": 39_000})
        more = {"checkpoint-7": small.byproducts["checkpoint"]}  # else the ledger takes it for what it knows
        lie = {"continued": other, "supersedes": told_of.digest, "byproducts": more}
        place.ledger.append([Draft(record.model_copy(update=lie))])
    refused = run_forge(copy_of_applied, config_home, "verify", "model/branch", code=None)
    assert refused.returncode != 0
    assert "nor that of a run that it branches from: other parameters or inputs" in refused.stdout + refused.stderr
