"""Environments are pointers to the same artifacts: promotion is a commit, rollback is a revert, removal deletes nothing."""

import time
from pathlib import Path

import pytest
from tests.conftest import DEPLOYMENT, MODEL, commit_all, git, run_forge
from tests.reconcile.test_apply import snapshot_of


def deploy(folder: Path, environment: str, text: str = DEPLOYMENT) -> None:
    changed = text.replace("small-local", f"small-{environment}").replace("environment: local", f"environment: {environment}")
    (folder / "models" / f"{environment}.yaml").write_text(changed)
    commit_all(folder, f"promote to {environment}")


def test_promotion_is_a_commit_that_moves_pointers_to_the_same_weights(copy_of_applied: Path, config_home: Path) -> None:
    for environment in ("staging", "prod"):
        deploy(copy_of_applied, environment)
        done = run_forge(copy_of_applied, config_home, "apply")
        assert "train/small: started" not in done.stderr
        assert "evaluate/small.small: started" not in done.stderr
    snapshot = snapshot_of(copy_of_applied)
    weights = set()
    for environment in ("local", "staging", "prod"):
        release = snapshot.release(environment)
        assert release is not None
        record = snapshot.record(release.key)
        assert record is not None
        weights.add(record.inputs["weights"])
        assert "the chain holds" in run_forge(copy_of_applied, config_home, "verify", f"release/{environment}").stdout
    assert len(weights) == 1


@pytest.mark.parametrize(
    ("path", "text", "trained"),
    [
        ("models/deployment.yaml", DEPLOYMENT + "  engine: {max_num_seqs: 4}\n", False),
        ("models/model.yaml", MODEL.replace("seed: 5", "seed: 6"), True),
    ],
    ids=["an engine setting", "other weights"],
)
def test_a_revert_rolls_back_within_five_seconds_and_trains_nothing(
    copy_of_applied: Path, config_home: Path, path: str, text: str, trained: bool
) -> None:
    first = snapshot_of(copy_of_applied).release("local")
    assert first is not None
    (copy_of_applied / path).write_text(text)
    commit_all(copy_of_applied)
    assert ("train/small: started" in run_forge(copy_of_applied, config_home, "apply").stderr) is trained
    second = snapshot_of(copy_of_applied).release("local")
    assert second is not None
    assert second.release != first.release
    records = snapshot_of(copy_of_applied).head[0]
    git(copy_of_applied, "revert", "--no-edit", "HEAD")
    began = time.monotonic()
    done = run_forge(copy_of_applied, config_home, "apply")
    took = time.monotonic() - began
    assert "started" not in done.stderr
    assert "roll back   release/small-local" in done.stdout
    now = snapshot_of(copy_of_applied).release("local")
    assert now is not None
    assert (now.release, now.commit) == (first.release, git(copy_of_applied, "rev-parse", "HEAD"))
    assert snapshot_of(copy_of_applied).head[0] == records + 1, "the pointer's move, and nothing else"
    assert "the chain holds" in run_forge(copy_of_applied, config_home, "verify", "release/local").stdout
    assert took < 5


def test_a_removed_deployment_is_retired_and_a_protected_one_is_not(copy_of_applied: Path, config_home: Path) -> None:
    deploy(
        copy_of_applied,
        "prod",
        DEPLOYMENT.replace("metadata: {name: small-local}", "metadata: {name: small-local, protect: true}"),
    )
    run_forge(copy_of_applied, config_home, "apply")
    for name in ("deployment", "prod"):
        (copy_of_applied / "models" / f"{name}.yaml").unlink()
    commit_all(copy_of_applied)
    before = set((copy_of_applied / ".forge" / "store").rglob("*"))
    done = run_forge(copy_of_applied, config_home, "apply", code=1)
    assert "Deployment/small-local: retired; local serves nothing more; nothing is deleted" in done.stderr
    assert "Deployment/small-prod is blocked: protected" in done.stderr
    snapshot = snapshot_of(copy_of_applied)
    assert snapshot.release("local") is None
    assert snapshot.release("prod") is not None
    assert before <= set((copy_of_applied / ".forge" / "store").rglob("*"))
    assert "serves nothing" in run_forge(copy_of_applied, config_home, "verify", "release/local", code=4).stderr


def test_an_environment_that_its_deployment_left_serves_nothing_more(copy_of_applied: Path, config_home: Path) -> None:
    path = copy_of_applied / "models" / "deployment.yaml"
    path.write_text(DEPLOYMENT.replace("environment: local", "environment: staging"))
    commit_all(copy_of_applied)
    done = run_forge(copy_of_applied, config_home, "apply")
    assert "retire      environment/local" in done.stdout
    assert "environment/local: retired; local serves nothing more; nothing is deleted" in done.stderr
    assert list(snapshot_of(copy_of_applied).pointers()) == ["staging"]
    assert "serves nothing" in run_forge(copy_of_applied, config_home, "verify", "release/local", code=4).stderr
    assert "7 in sync" in run_forge(copy_of_applied, config_home, "plan").stdout
    path.unlink()
    commit_all(copy_of_applied)
    run_forge(copy_of_applied, config_home, "apply")
    assert snapshot_of(copy_of_applied).pointers() == {}


def test_renaming_a_resource_keeps_its_history(copy_of_applied: Path, config_home: Path) -> None:
    recipe = copy_of_applied / "models" / "data.yaml"
    recipe.write_text(recipe.read_text().replace("{name: small, owners", "{name: manuals, previous_name: small, owners"))
    for name in ("tokenizer", "model"):
        path = copy_of_applied / "models" / f"{name}.yaml"
        path.write_text(path.read_text().replace("DataRecipe/small", "DataRecipe/manuals"))
    commit_all(copy_of_applied)
    plan = run_forge(copy_of_applied, config_home, "plan").stdout
    assert "& rename      rename/DataRecipe/manuals  renamed from DataRecipe/small" in plan
    assert "= reuse       curate/manuals" in plan
    assert "made under another name: curate/small" in plan
    assert "to run" not in plan
    assert "retire" not in plan


def test_a_renamed_model_is_extended_after_the_next_renaming_too(copy_of_applied: Path, config_home: Path) -> None:
    model, deployment = (copy_of_applied / "models" / f"{name}.yaml" for name in ("model", "deployment"))

    def rename(metadata: str, name: str, tokens: str = "40k") -> None:
        model.write_text(MODEL.replace("{name: small}", metadata).replace("40k", tokens))
        deployment.write_text(DEPLOYMENT.replace("Model/small", f"Model/{name}"))
        commit_all(copy_of_applied)

    rename("{name: mid, previous_name: small}", "mid")
    assert "rename/Model/mid: renamed from Model/small" in run_forge(copy_of_applied, config_home, "apply").stderr
    rename("{name: last, previous_name: mid}", "last")
    run_forge(copy_of_applied, config_home, "apply")
    rename("{name: last}", "last")
    plan = run_forge(copy_of_applied, config_home, "plan").stdout
    assert "retire" not in plan
    rename("{name: last}", "last", "80k")
    done = run_forge(copy_of_applied, config_home, "apply")
    assert "> extend      train/last" in done.stdout
    assert "the chain holds" in run_forge(copy_of_applied, config_home, "verify", "release/local").stdout
