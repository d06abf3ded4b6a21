"""What Git can put in the way: LFS pointers, submodules, links, shallow clones, other hash functions, damaged objects."""

import hashlib
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from tests.conftest import DATA, commit_all, git, new_repository

from forge.errors import RepoError, SpecError, UsageError
from forge.plan.desired import Desired
from forge.repo.desired import read_desired
from forge.repo.repository import Repository
from forge.repo.tree import CommitTree, WorkTree, matching


def desired_at(folder: Path, ref: str = "HEAD") -> Desired:
    with Repository(folder) as repository:
        return read_desired(CommitTree(repository, repository.resolve_commit(ref)))


def diagnostics_at(folder: Path) -> str:
    with pytest.raises(SpecError) as caught:
        desired_at(folder)
    return str(caught.value)


def test_specs_are_read_from_the_commit_and_not_from_the_disk(repository: Path) -> None:
    (repository / "models" / "model.yaml").write_text("not: committed\n")
    assert "Model/small" in desired_at(repository).resources


def test_a_preview_reads_the_disk_and_new_files(repository: Path) -> None:
    (repository / "models" / "other.yaml").write_text(
        (repository / "models" / "tokenizer.yaml").read_text().replace("small}", "o}", 1)
    )
    with Repository(repository) as opened:
        previewed = read_desired(WorkTree(opened))
    assert "Tokenizer/o" in previewed.resources
    assert previewed.commit is None


def test_moving_and_reordering_spec_files_changes_nothing(repository: Path) -> None:
    before = desired_at(repository)
    git(repository, "mv", "models/model.yaml", "policies/a-model.yaml")
    after = desired_at(repository, commit_all(repository))
    assert after.resources == before.resources
    assert after.bundles == before.bundles


@pytest.mark.parametrize(("order", "is_the_same"), [("path", False), ("content", True)])
def test_a_renaming_that_sorts_otherwise_changes_the_order_of_paths_alone(
    repository: Path, order: str, is_the_same: bool
) -> None:
    """Three files, two of them with the same bytes; the first becomes the last."""
    data = repository / "models" / "data.yaml"
    data.write_text(data.read_text().replace("{path: ", f"{{order: {order}, path: "))
    for name, text in (("a.jsonl", b'{"id": "1", "text": "one"}\n'), ("b.jsonl", b"two"), ("c.jsonl", b"two")):
        (repository / "corpus" / name).write_bytes(text)
    data.write_text(data.read_text().replace("corpus/*.jsonl.gz", "corpus/*.jsonl*"))
    before = desired_at(repository, commit_all(repository)).bundles["DataRecipe/small", "source-0"]
    git(repository, "mv", "corpus/a.jsonl", "corpus/z.jsonl")
    git(repository, "mv", "corpus/c.jsonl", "corpus/0.jsonl")
    after = desired_at(repository, commit_all(repository)).bundles["DataRecipe/small", "source-0"]
    assert len(before.files) == len(after.files) == 4
    assert (after.digest == before.digest) is is_the_same
    assert set(after.sources.values()) == {f"corpus/{name}" for name in ("0.jsonl", "b.jsonl", "part.jsonl.gz", "z.jsonl")}


def test_renaming_a_corpus_file_changes_no_identity(repository: Path) -> None:
    before = desired_at(repository).bundles["DataRecipe/small", "source-0"].manifest.digest
    git(repository, "mv", "corpus/part.jsonl.gz", "corpus/renamed.jsonl.gz")
    after = desired_at(repository, commit_all(repository)).bundles["DataRecipe/small", "source-0"]
    assert after.manifest.digest == before
    assert after.sources == {"00000.jsonl.gz": "corpus/renamed.jsonl.gz"}


def test_moving_files_changes_an_identity_only_where_their_order_or_a_suffix_does(repository: Path) -> None:
    """docs/data.md states the exceptions; the order cannot depend on content without giving stored steps other keys."""
    (repository / "corpus" / "second.jsonl.gz").write_bytes(b"")
    (repository / "models" / "data.yaml").write_text(DATA.replace("corpus/*.jsonl.gz", "corpus/**"))
    source = "DataRecipe/small", "source-0"
    before = desired_at(repository, commit_all(repository)).bundles[source]
    for old, new in (("part.jsonl.gz", "a/b.jsonl.gz"), ("second.jsonl.gz", "c.jsonl.gz")):
        (repository / "corpus" / new).parent.mkdir(exist_ok=True)
        git(repository, "mv", f"corpus/{old}", f"corpus/{new}")
        assert desired_at(repository, commit_all(repository)).bundles[source].digest == before.digest
    for new in ("0.jsonl.gz", "c.txt"):
        git(repository, "mv", "corpus/c.jsonl.gz", f"corpus/{new}")
        assert desired_at(repository, commit_all(repository)).bundles[source].digest != before.digest
        git(repository, "mv", f"corpus/{new}", "corpus/c.jsonl.gz")


def test_a_glob_that_matches_nothing_is_named_with_its_place(repository: Path) -> None:
    git(repository, "rm", "--quiet", "corpus/part.jsonl.gz")
    commit_all(repository)
    assert diagnostics_at(repository) == "models/data.yaml:6:14: no file matches `corpus/*.jsonl.gz`"


def test_a_link_out_of_the_repository_is_refused(repository: Path) -> None:
    (repository / "models" / "leak.yaml").symlink_to("/etc/passwd")
    commit_all(repository)
    assert diagnostics_at(repository).startswith("models/leak.yaml:1:1: a symbolic link")
    with Repository(repository) as opened, pytest.raises(SpecError, match="symbolic link"):
        read_desired(WorkTree(opened))


def test_a_folder_link_out_of_the_repository_is_refused(repository: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x.jsonl.gz").write_bytes(b"secret")
    (repository / "corpus" / "link.jsonl.gz").symlink_to(outside / "x.jsonl.gz")
    commit_all(repository)
    assert "corpus/link.jsonl.gz: a symbolic link" in diagnostics_at(repository)


def make_lfs_pointer(repository: Path, content: bytes) -> str:
    name = hashlib.sha256(content).hexdigest()
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{name}\nsize {len(content)}\n"
    (repository / "corpus" / "part.jsonl.gz").write_text(pointer)
    commit_all(repository)
    return name


def test_an_lfs_pointer_without_its_content_says_how_to_get_it(repository: Path) -> None:
    make_lfs_pointer(repository, b"content")
    assert "corpus/part.jsonl.gz: a Git LFS pointer whose content is not here: run `git lfs fetch" in diagnostics_at(repository)


def test_an_lfs_pointer_is_followed_and_its_content_checked(repository: Path) -> None:
    name = make_lfs_pointer(repository, b"content")
    place = repository / ".git" / "lfs" / "objects" / name[:2] / name[2:4] / name
    place.parent.mkdir(parents=True)
    place.write_bytes(b"content")
    file = desired_at(repository).bundles["DataRecipe/small", "source-0"].files["00000.jsonl.gz"]
    assert (file.size, file.sha256) == (7, f"sha256:{name}")
    place.write_bytes(b"tampered")
    assert "its Git LFS object is damaged" in diagnostics_at(repository)


def test_a_source_in_a_submodule_is_refused(repository: Path, tmp_path: Path) -> None:
    inner = new_repository(tmp_path / "inner")
    (inner / "a.jsonl.gz").write_bytes(b"x")
    commit_all(inner)
    git(repository, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(inner), "corpus/inner")
    (repository / "models" / "data.yaml").write_text(DATA.replace("corpus/*.jsonl.gz", "corpus/inner/*.jsonl.gz"))
    commit_all(repository)
    assert "reaches into the submodule corpus/inner" in diagnostics_at(repository)


def test_a_shallow_clone_plans_its_head_and_says_what_older_commits_need(repository: Path, tmp_path: Path) -> None:
    first = git(repository, "rev-parse", "HEAD")
    commit_all(repository, "second")
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", "--depth=1", f"file://{repository}", str(clone)], check=True)
    assert desired_at(clone).resources
    with pytest.raises(RepoError, match="git fetch --unshallow"):
        desired_at(clone, first)


def test_a_sha256_repository_gets_one_clear_error(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet", "--object-format=sha256")
    with pytest.raises(RepoError, match="names objects by sha256"):
        Repository(tmp_path)


def test_no_repository_no_commit_no_settings(tmp_path: Path) -> None:
    with pytest.raises(RepoError, match="not in a Git repository"):
        Repository(tmp_path)
    new_repository(tmp_path)
    with pytest.raises(RepoError, match="there is no commit yet"):
        desired_at(tmp_path)
    commit_all(tmp_path)
    with pytest.raises(UsageError, match=r"no forge\.toml at the top of commit"):
        desired_at(tmp_path)
    with pytest.raises(RepoError, match="no commit is named 'nowhere'"):
        desired_at(tmp_path, "nowhere")
    with pytest.raises(RepoError, match="not a commit"):
        desired_at(tmp_path, "--output=x")


def test_a_damaged_object_is_named(repository: Path) -> None:
    blob = git(repository, "rev-parse", "HEAD:models/model.yaml")
    loose = repository / ".git" / "objects" / blob[:2] / blob[2:]
    other = git(repository, "rev-parse", "HEAD:models/data.yaml")
    loose.chmod(0o644)
    loose.write_bytes((repository / ".git" / "objects" / other[:2] / other[2:]).read_bytes())
    assert f"Git object {blob} is damaged" in diagnostics_at(repository)
    loose.write_bytes(b"garbage")
    assert f"Git object {blob} is damaged" in diagnostics_at(repository)


def test_globs_do_not_leave_their_folder(repository: Path) -> None:
    with Repository(repository) as opened:
        tree = CommitTree(opened, opened.resolve_commit("HEAD"))
        assert matching(tree, ["models/**/*.yaml"]) == sorted(
            f"models/{n}.yaml" for n in ("data", "deployment", "model", "tokenizer")
        )
        assert matching(tree, ["*.yaml"]) == []


def test_a_path_with_spaces_is_there_or_missing_and_never_mistaken_for_an_answer(tmp_path: Path) -> None:
    folder = new_repository(tmp_path / "spaces")
    (folder / "a blob 5").write_text("hello")
    commit = commit_all(folder)
    with Repository(folder) as repository:
        found = repository.read_object(f"{commit}:a blob 5")
        assert found is not None
        assert found.data == b"hello"
        for name in ("b blob 5", "missing", "b missing", "a blob 5 missing"):
            assert repository.read_object(f"{commit}:{name}") is None
        assert repository.read_object(f"{commit}:a blob 5") == found


def test_git_that_was_killed_is_started_again(repository: Path) -> None:
    good = git(repository, "rev-parse", "HEAD:forge.toml")
    with Repository(repository) as opened:
        assert opened.read_object(good) is not None
        (helper,) = [child for child in psutil.Process().children() if "cat-file" in child.cmdline()]
        helper.kill()
        assert opened.read_object(good) is not None
    assert not [child for child in psutil.Process().children() if "cat-file" in child.cmdline()]


def test_a_repository_that_nobody_closed_leaves_no_process_behind(repository: Path) -> None:
    opened = Repository(repository)
    assert opened.read_object("HEAD") is not None
    assert [child for child in psutil.Process().children() if "cat-file" in child.cmdline()]
    del opened
    assert not [child for child in psutil.Process().children() if "cat-file" in child.cmdline()]


def test_threads_that_share_a_repository_get_their_own_answers(repository: Path) -> None:
    names = git(repository, "ls-tree", "-r", "--format=%(objectname)", "HEAD").split()
    with Repository(repository) as opened, ThreadPoolExecutor(8) as threads:
        found = threads.map(opened.read_object, names * 50)
        assert [item.name if item else None for item in found] == names * 50


def test_a_linked_work_tree_has_its_own_commit_and_files_and_the_clone_s_state(repository: Path, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    git(repository, "worktree", "add", "--quiet", "-b", "other", str(linked))
    (linked / "new.txt").write_text("new")
    commit = commit_all(linked)
    (linked / "newer.txt").write_text("newer")
    with Repository(linked / "models") as opened, Repository(repository) as main:
        assert opened.resolve_commit("HEAD") == commit
        assert opened.root == linked
        assert (opened.home, opened.state_folder) == (main.home, main.state_folder)
        assert "newer.txt" in WorkTree(opened).paths()
        assert "newer.txt" not in WorkTree(main).paths()


def test_a_bare_repository_and_the_inside_of_one_are_opened(repository: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare.git"
    git(tmp_path, "clone", "--quiet", "--bare", str(repository), str(bare))
    with Repository(bare) as opened:
        assert opened.is_bare
        assert opened.root == opened.common_dir == bare
        with pytest.raises(RepoError, match="a bare repository has no working tree"):
            WorkTree(opened)
    with Repository(repository / ".git") as opened:
        assert not opened.is_bare
        assert opened.root == opened.home == repository


def test_what_the_environment_of_a_git_hook_names_is_not_what_is_read(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = new_repository(tmp_path / "other")
    commit_all(other)
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / ".git" / "index"))
    with Repository(repository) as opened:
        assert opened.root == repository
        assert "forge.toml" in WorkTree(opened).paths()
