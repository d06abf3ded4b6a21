"""Reading a commit from what was learnt before: the same result, less work, and no trust in a damaged file."""

import hashlib
import multiprocessing
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pathspec import PathSpec
from tests.bench import generator
from tests.conftest import MODEL, commit_all, git

from forge.errors import ForgeError, SpecError
from forge.plan.desired import Desired
from forge.plan.graph import build_graph
from forge.repo import cache as cache_module
from forge.repo.cache import FILE, SpecCache
from forge.repo.desired import read_desired
from forge.repo.repository import Repository
from forge.repo.tree import CommitTree, Matcher, WorkTree
from forge.spec.compiled import from_text, to_text

Facts = tuple[Any, ...]


def facts_of(desired: Desired) -> Facts:
    """Everything that a plan can see."""
    bundles = {key: (bundle.digest, bundle.sources) for key, bundle in desired.bundles.items()}
    graph = {name: (step.parameters, step.settings, list(step.inputs)) for name, step in build_graph(desired).items()}
    resources = {address: desired.resources[address] for address in desired.resources}
    renamed = (desired.protected, desired.suspended, desired.previous)
    return list(desired.compiled), resources, dict(desired.compiled), bundles, graph, renamed, desired.fingerprint


def read(folder: Path, *, cached: bool = True, ref: str = "HEAD") -> tuple[Facts, int]:
    with Repository(folder) as repository:
        tree = CommitTree(repository, repository.resolve_commit(ref))
        if not cached:
            desired = read_desired(tree)
            return facts_of(desired), desired.num_parsed
        with SpecCache(repository.state_folder) as cache:
            desired = read_desired(tree, cache)
            return facts_of(desired), desired.num_parsed


@pytest.fixture
def many(tmp_path: Path) -> Path:
    folder = tmp_path / "many"
    generator.write_repository(folder, 60)
    return folder


def test_what_did_not_change_is_not_parsed_again(many: Path) -> None:
    assert read(many)[1] == 60
    assert read(many)[1] == 0
    generator.change_models(many, 60, 3, seed=1)
    expected, _ = read(many, cached=False)
    assert read(many) == (expected, 3)
    assert read(many) == (expected, 0)
    assert read(many, ref="HEAD~1")[1] == 0


def test_the_fingerprint_is_that_of_what_is_read_and_not_of_the_commit(repository: Path) -> None:
    before, _ = read(repository)
    (repository / "README").write_text("nothing that planning reads\n")
    commit_all(repository)
    assert read(repository)[0] == before
    for path in ("corpus/part.jsonl.gz", "evals/tasks/small_bpb.jsonl", "forge.toml", "models/model.yaml"):
        file = repository / path
        file.write_bytes(file.read_bytes() + b"\n")
        commit_all(repository)
        after, _ = read(repository)
        assert after[-1] != before[-1]
        assert after == read(repository, cached=False)[0]
        before = after
    with Repository(repository) as opened, SpecCache(opened.state_folder) as cache:
        assert read_desired(WorkTree(opened), cache).fingerprint is None


def test_an_unchanged_tree_is_known_without_building_anything(many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = read(many)[0][-1]
    with Repository(many) as repository, SpecCache(repository.state_folder) as cache:
        monkeypatch.setattr(SpecCache, "compiled", lambda *_: pytest.fail("read what nobody asked for"))
        assert read_desired(CommitTree(repository, repository.resolve_commit("HEAD")), cache).fingerprint == expected


def test_a_fault_in_a_cached_file_still_has_its_place(repository: Path) -> None:
    read(repository)
    git(repository, "rm", "--quiet", "models/tokenizer.yaml")
    commit_all(repository)
    with pytest.raises(SpecError) as caught:
        read(repository)
    assert str(caught.value) == "models/model.yaml:7:14: there is no Tokenizer/small"


def test_one_broken_file_does_not_make_the_others_be_read_again(many: Path) -> None:
    good = dict(generator.files_of(60))["models/m3/model.yaml"]
    generator.commit(many, {"models/m3/model.yaml": good.replace("seed:", "sed:")}, "broken")
    for _ in range(2):
        with pytest.raises(SpecError, match="did you mean `seed`"):
            read(many)
    generator.commit(many, {"models/m3/model.yaml": good}, "mended")
    assert read(many)[1] == 1


EDITS: list[Callable[[Path], None]] = [
    lambda folder: (folder / "models/model.yaml").write_text(MODEL.replace("seed: 5", "seed: 6")) and None,
    lambda folder: (folder / "models/model.yaml").write_text("# moved\n" + MODEL) and None,
    lambda folder: (folder / "models/extra.yaml").write_text(MODEL.replace("name: small", "name: extra", 1)) and None,
    lambda folder: (folder / "models/extra.yaml").unlink(missing_ok=True),
    lambda folder: (folder / "models/model.yaml").write_text("kind: Modell\n") and None,
    lambda folder: (folder / "corpus/more.jsonl.gz").write_bytes(b"more") and None,
    lambda folder: (folder / "corpus/more.jsonl.gz").unlink(missing_ok=True),
    lambda folder: (folder / "evals/tasks/extra.txt").write_text("x") and None,
    lambda folder: (folder / "models/deployment.yaml").unlink(missing_ok=True),
    lambda folder: (folder / "models/m.yaml").symlink_to("model.yaml") if not (folder / "models/m.yaml").is_symlink() else None,
    lambda folder: (folder / "models/m.yaml").unlink(missing_ok=True),
]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(range(len(EDITS))), min_size=1, max_size=5))
def test_cached_and_uncached_readings_agree_after_any_edits(repository: Path, edits: list[int]) -> None:
    for number in edits:
        EDITS[number](repository)
        commit_all(repository)
        outcomes = []
        for cached in (True, True, False):
            try:
                outcomes.append(read(repository, cached=cached)[0])
            except ForgeError as error:
                outcomes.append((str(error),))
        assert outcomes[0] == outcomes[1] == outcomes[2]


def test_a_damaged_foreign_or_truncated_cache_is_made_anew(many: Path) -> None:
    expected, _ = read(many)
    place = many / ".git" / "forge" / FILE
    whole = place.read_bytes()
    for damaged in (b"", b"garbage" * 1000, whole[: len(whole) // 2], whole[:100] + b"\0" * 5000 + whole[5100:]):
        place.write_bytes(damaged)
        assert read(many)[0] == expected
        read(many)
        assert read(many) == (expected, 0)
    place.unlink()
    with sqlite3.connect(place) as foreign:
        foreign.execute("CREATE TABLE spec (something TEXT)")
    assert read(many) == (expected, 60)
    with sqlite3.connect(place) as ours:
        ours.execute("DROP TABLE spec")
    assert read(many)[0] == expected
    read(many)
    assert read(many) == (expected, 0)


def test_no_flipped_byte_changes_what_is_read(many: Path) -> None:
    expected, _ = read(many)
    place = many / ".git" / "forge" / FILE
    whole = place.read_bytes()
    for position in range(0, len(whole), len(whole) // 60):
        place.write_bytes(whole[:position] + bytes([whole[position] ^ 0x15]) + whole[position + 1 :])
        assert read(many)[0] == expected, position


def test_another_engine_starts_anew(many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, _ = read(many)
    monkeypatch.setattr(cache_module, "engine_digest", lambda: "other")
    monkeypatch.setattr("forge.repo.desired.engine_digest", lambda: "other")
    after, parsed = read(many)
    assert parsed == 60
    assert after[-1] != before[-1]


def test_rows_of_another_engine_do_not_hold(many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read(many)
    with Repository(many) as repository, SpecCache(repository.state_folder) as cache:
        tree = CommitTree(repository, repository.resolve_commit("HEAD"))
        assert cache.state(tree.root) is not None
        monkeypatch.setattr(cache_module, "_seed", lambda: 7)  # an engine that took the file over after it was opened
        assert cache.state(tree.root) is None
        assert cache.compiled([tree.blob("models/m1/model.yaml") or ""]) == {}


def test_a_folder_that_cannot_be_written_is_read_without_a_cache(many: Path, tmp_path: Path) -> None:
    with Repository(many) as repository, SpecCache(tmp_path / "absent") as cache:
        assert read_desired(CommitTree(repository, repository.resolve_commit("HEAD")), cache).num_parsed == 60


def test_what_nobody_reads_for_long_is_forgotten(many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "UNUSED_PLANS", 4)
    read(many)
    for seed in range(1, 8):
        generator.change_models(many, 60, 1, seed=seed)
        assert read(many)[1] == 1
    with sqlite3.connect(many / ".git" / "forge" / FILE) as database:
        counts = [database.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("spec", "source", "tree")]
    assert counts[0] <= 65
    assert counts[1] <= 65
    assert counts[2] == cache_module.KEPT_TREES
    assert read(many)[1] == 0


def test_processes_that_plan_at_the_same_time_all_get_it_right(many: Path) -> None:
    expected, _ = read(many, cached=False)
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        assert all(found == expected for found, _ in pool.map(read, [many] * 8))
    assert read(many) == (expected, 0)


def test_a_cache_never_hides_an_lfs_object_that_went_away(repository: Path) -> None:
    content = b"content"
    name = hashlib.sha256(content).hexdigest()
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{name}\nsize {len(content)}\n"
    (repository / "corpus" / "part.jsonl.gz").write_text(pointer)
    commit_all(repository)
    place = repository / ".git" / "lfs" / "objects" / name[:2] / name[2:4] / name
    place.parent.mkdir(parents=True)
    place.write_bytes(content)
    assert read(repository)[0] == read(repository)[0]
    place.unlink()
    with pytest.raises(SpecError, match="run `git lfs fetch"):
        read(repository)


def test_a_file_that_changes_while_it_is_read_is_not_kept_under_the_wrong_name(repository: Path) -> None:
    with Repository(repository) as opened, SpecCache(opened.state_folder) as cache:
        tree = WorkTree(opened)
        honest = tree.blob
        tree.blob = lambda path: (honest(path) or "")[:-1] + "0"  # type: ignore[method-assign]
        read_desired(tree, cache)
        assert cache.compiled([tree.blob("models/model.yaml") or ""]) == {}


def test_an_absent_tree_is_an_error_and_not_an_empty_folder(many: Path) -> None:
    subtree = git(many, "rev-parse", "HEAD:policies")
    packs = many / ".git" / "objects" / "pack"
    for pack in list(packs.glob("*.pack")):
        data = pack.read_bytes()
        for part in packs.glob("*"):
            part.unlink()
        subprocess.run(["git", "unpack-objects", "-q"], cwd=many, input=data, check=True)
    (many / ".git" / "objects" / subtree[:2] / subtree[2:]).unlink()
    with pytest.raises(ForgeError, match=f"Git tree {subtree} is absent"):
        read(many, cached=False)


def _is_gits(path: str) -> bool:
    return not {".", ".."} & set(path.split("/"))


names = st.text("ab.-*", min_size=1, max_size=3)
paths = st.lists(names, min_size=1, max_size=3).map("/".join)


@settings(max_examples=400, deadline=None)
@given(
    st.lists(paths.map(lambda path: path.replace("*", "c")).filter(_is_gits), max_size=12, unique=True),
    st.lists(
        paths | st.sampled_from(["**/a", "a/**/b", "a/[ab]*", "a/?", "a/", "*", "**", "a b", "a/*.b", "a//b", "!a", "#a"])
    ),
    st.integers(0, 12),
)
def test_globs_match_what_gitignore_matches(found: list[str], patterns: list[str], earlier: int) -> None:
    expected = sorted(PathSpec.from_lines("gitignore", [f"/{pattern}" for pattern in patterns]).match_files(found))
    assert Matcher(found)(patterns) == expected
    before = Matcher([*found[:earlier], "gone"])
    before(patterns)
    assert Matcher(found, [*found[:earlier], "gone"], before.matched)(patterns) == expected


def test_compiled_resources_survive_their_text(many: Path) -> None:
    with Repository(many) as repository:
        desired = read_desired(CommitTree(repository, repository.resolve_commit("HEAD")))
    resources = tuple(desired.compiled.values())
    assert from_text(to_text(resources)) == resources
    assert from_text(to_text(())) == ()
