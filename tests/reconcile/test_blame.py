"""The commit that is named is the one that brought the change, whatever later ones did to the file."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import MODEL, commit_all, git

from forge.plan.blame import owner_of, same_field, same_policy
from forge.plan.graph import build_graph
from forge.reconcile.blame import BlameOf
from forge.repo.desired import read_desired
from forge.repo.repository import Repository
from forge.repo.tree import CommitTree, WorkTree

Asked = Callable[..., str | None]
MODEL_FILE = "models/model.yaml"


def change(folder: Path, path: str, old: str, new: str, message: str = "change") -> str:
    file = folder / path
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    return commit_all(folder, message)


@pytest.fixture
def tokens(repository: Path) -> Asked:
    """Who brought the tokens of the small model, since a commit."""

    def ask(since: str, step_id: str = "train/small", *, worktree: bool = False, field: tuple[str, ...] = ()) -> str | None:
        with Repository(repository) as opened:
            tree = WorkTree(opened) if worktree else CommitTree(opened, opened.resolve_commit("HEAD"))
            desired = read_desired(tree)
            step = build_graph(desired)[step_id]
            alike = same_field(step, field or ("training", "tokens"))
            return BlameOf(opened, desired).value_since(owner_of(step), since, None, alike)

    return ask


@pytest.fixture
def files(repository: Path) -> Asked:
    """Who brought the bytes of some files, since a commit."""

    def ask(since: str, before: list[str], after: list[str]) -> str | None:
        with Repository(repository) as opened:
            desired = read_desired(CommitTree(opened, opened.resolve_commit("HEAD")))
            return BlameOf(opened, desired).files_since(before, after, since, None)

    return ask


def test_a_comment_brings_nothing(repository: Path, tokens: Asked) -> None:
    first = git(repository, "rev-parse", "HEAD")
    brought = change(repository, MODEL_FILE, "40k", "80k")
    change(repository, MODEL_FILE, "spec:", "# hello\nspec:")
    change(repository, MODEL_FILE, "seed: 5", "seed: 6")
    assert tokens(first) == brought


def test_the_resource_is_followed_where_its_file_goes(repository: Path, tokens: Asked) -> None:
    first = git(repository, "rev-parse", "HEAD")
    brought = change(repository, MODEL_FILE, "40k", "80k")
    git(repository, "mv", MODEL_FILE, "models/moved.yaml")
    commit_all(repository)
    data = repository / "models/data.yaml"
    data.write_text(data.read_text() + "---\n" + (repository / "models/moved.yaml").read_text())
    (repository / "models/moved.yaml").unlink()
    commit_all(repository)
    assert tokens(first) == brought


def test_the_resource_is_followed_to_the_name_that_it_had(repository: Path, tokens: Asked) -> None:
    first = git(repository, "rev-parse", "HEAD")
    brought = change(repository, MODEL_FILE, "40k", "80k")
    model = MODEL.replace("40k", "80k").replace("{name: small}", "{name: large, previous_name: small}")
    (repository / MODEL_FILE).write_text(model)
    change(repository, "models/deployment.yaml", "Model/small", "Model/large")
    assert tokens(first, "train/large") == brought


def test_the_last_of_several_changes_of_a_value_is_named(repository: Path, tokens: Asked) -> None:
    first = git(repository, "rev-parse", "HEAD")
    change(repository, MODEL_FILE, "40k", "80k")
    change(repository, MODEL_FILE, "80k", "60k")
    brought = change(repository, MODEL_FILE, "60k", "80k")
    change(repository, MODEL_FILE, "80k", "80000")
    assert tokens(first) == brought


def test_a_file_that_was_broken_for_a_while_hides_nobody(repository: Path, tokens: Asked) -> None:
    first = git(repository, "rev-parse", "HEAD")
    brought = change(repository, MODEL_FILE, "40k", "80k")
    change(repository, MODEL_FILE, "objective: pretrain", "objective: [")
    change(repository, MODEL_FILE, "objective: [", "objective: pretrain")
    assert tokens(first) == brought


def test_a_merge_brings_what_its_branch_brought(repository: Path, tokens: Asked) -> None:
    first = git(repository, "rev-parse", "HEAD")
    git(repository, "checkout", "--quiet", "-b", "feature")
    brought = change(repository, MODEL_FILE, "40k", "80k")
    git(repository, "checkout", "--quiet", "main")
    change(repository, MODEL_FILE, "seed: 5", "seed: 6")
    git(repository, "merge", "--quiet", "--no-edit", "feature")
    assert tokens(first) == brought


def test_a_field_of_an_evaluation_is_its_suites(repository: Path, tokens: Asked) -> None:
    first = git(repository, "rev-parse", "HEAD")
    brought = change(repository, "evals/small.yaml", "spec:", "spec:\n  seed: 3")
    change(repository, MODEL_FILE, "40k", "80k")
    assert tokens(first, "evaluate/small.small", field=("seed",)) == brought


def test_what_the_working_tree_changed_no_commit_brought(repository: Path, tokens: Asked) -> None:
    first = git(repository, "rev-parse", "HEAD")
    change(repository, MODEL_FILE, "40k", "80k")
    (repository / MODEL_FILE).write_text(MODEL.replace("40k", "90k"))
    assert tokens(first, worktree=True) is None


def test_nobody_is_named_by_a_clone_that_lacks_the_history(repository: Path, tmp_path: Path) -> None:
    first = git(repository, "rev-parse", "HEAD")
    change(repository, MODEL_FILE, "40k", "80k")
    change(repository, MODEL_FILE, "spec:", "# hello\nspec:")
    git(tmp_path, "clone", "--quiet", "--depth=1", f"file://{repository}", "shallow")
    with Repository(tmp_path / "shallow") as opened:
        desired = read_desired(CommitTree(opened, opened.resolve_commit("HEAD")))
        step = build_graph(desired)["train/small"]
        blame = BlameOf(opened, desired)
        assert blame.value_since("Model/small", first, None, same_field(step, ("training", "tokens"))) is None
        assert blame.files_since([], ["corpus/part.jsonl.gz"], first, None) is None


def test_a_policy_is_the_same_until_it_serves_otherwise(repository: Path) -> None:
    first = git(repository, "rev-parse", "HEAD")
    brought = change(repository, "policies/small.yaml", "max_tokens: 32", "max_tokens: 64")
    change(repository, "policies/small.yaml", "spec:", "# hello\nspec:")
    with Repository(repository) as opened:
        desired = read_desired(CommitTree(opened, opened.resolve_commit("HEAD")))
        assert BlameOf(opened, desired).value_since("InferencePolicy/small", first, None, same_policy) == brought


def test_bytes_are_followed_where_their_file_goes(repository: Path, files: Asked) -> None:
    first = git(repository, "rev-parse", "HEAD")
    (repository / "corpus/part.jsonl.gz").write_bytes(b"other")
    brought = commit_all(repository)
    (repository / "corpus/part.jsonl.gz").chmod(0o755)
    commit_all(repository)
    git(repository, "mv", "corpus", "letters")
    change(repository, "models/data.yaml", "corpus/", "letters/")
    assert files(first, ["corpus/part.jsonl.gz"], ["letters/part.jsonl.gz"]) == brought


def test_a_file_that_left_is_missed_since_it_left(repository: Path, files: Asked) -> None:
    (repository / "corpus/more.jsonl.gz").write_bytes(b"more")
    first = commit_all(repository)
    git(repository, "rm", "--quiet", "corpus/more.jsonl.gz")
    brought = commit_all(repository)
    change(repository, MODEL_FILE, "40k", "80k")
    assert files(first, ["corpus/more.jsonl.gz", "corpus/part.jsonl.gz"], ["corpus/part.jsonl.gz"]) == brought


def test_a_renaming_is_brought_by_the_commit_that_renamed(repository: Path, files: Asked) -> None:
    first = git(repository, "rev-parse", "HEAD")
    git(repository, "mv", "corpus/part.jsonl.gz", "corpus/zart.jsonl.gz")
    brought = commit_all(repository)
    change(repository, MODEL_FILE, "40k", "80k")
    assert files(first, ["corpus/part.jsonl.gz"], ["corpus/zart.jsonl.gz"]) == brought


def test_a_resource_that_left_is_missed_since_it_left_wherever_its_file_went(repository: Path) -> None:
    first = git(repository, "rev-parse", "HEAD")
    git(repository, "mv", "models/deployment.yaml", "models/served.yaml")
    commit_all(repository)
    (repository / "models/served.yaml").write_text("# nothing is served\n")
    brought = commit_all(repository)
    git(repository, "rm", "--quiet", "models/served.yaml")
    commit_all(repository)
    with Repository(repository) as opened:
        desired = read_desired(CommitTree(opened, opened.resolve_commit("HEAD")))
        assert BlameOf(opened, desired).removed_since("Deployment/small-local", first) == brought
