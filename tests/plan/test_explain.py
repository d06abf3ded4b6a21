"""Whoever has only the explanation can say why a step would run."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import pytest
from tests.conftest import DATA
from tests.plan.world import PastOf, World, desired_of

from forge.canonical import digest_of_bytes
from forge.contract.record import Record
from forge.errors import UsageError
from forge.plan import explain as module
from forge.plan.blame import Alike
from forge.plan.desired import Bundle, BundleFile, Desired
from forge.plan.explain import explain
from forge.plan.explanation import to_json, to_text
from forge.plan.past import Past
from forge.plan.reason import ReasonKind
from forge.plan.recorded import Scope


@pytest.fixture
def world() -> World:
    world = World()
    world.apply(desired_of())
    return world


def told(world: World, desired: Desired, name: str, scope: Scope | None = None, past: Past | None = None) -> str:
    plan = world.plan(desired, scope or Scope())
    return to_text(explain(plan, name, desired, world, past or PastOf(world)))


def record(world: World, desired: Desired, *steps: str) -> None:
    """Do these steps and no more."""
    for step_id in steps:
        world.finish(desired, next(action for action in world.plan(desired).actions if action.id == step_id))


UPSTREAM = ("curate/small", "tokenizer/small", "tokenize/small")


def with_corpus(desired: Desired, files: Mapping[str, bytes], suffix: str = ".jsonl") -> Desired:
    """The commit with these files as the recipe's source, in the order of their paths."""
    numbered = {f"{number:05d}{suffix}": path for number, path in enumerate(sorted(files))}
    bundle = Bundle({name: BundleFile(4, digest_of_bytes(files[path]), path) for name, path in numbered.items()})
    return replace(desired, bundles={**desired.bundles, ("DataRecipe/small", "source-0"): bundle})


def git_names(files: Mapping[str, bytes]) -> dict[str, str]:
    return {path: digest_of_bytes(data) for path, data in files.items()}


def test_every_reason_has_a_sentence() -> None:
    assert set(module._SENTENCES) == set(ReasonKind)


def test_the_chain_leads_from_a_step_to_the_field_that_set_it_off(world: World) -> None:
    text = told(world, desired_of({"models/data.yaml": ("min_doc_words: 40", "min_doc_words: 41")}), "gate/small-local")
    assert text.splitlines()[0] == "gate/small-local: re-evaluate"
    assert "because evaluate/small.small must be done first" in text
    assert text.index("train/small: run") < text.index("tokenize/small: run") < text.index("curate/small: run")
    assert "because `filters.gopher_quality.min_doc_words` was 40 and is 41; a change of it means rebuild" in text
    assert "train/small: run (told above)" not in text  # one step reads another once
    assert "curate/small: run (told above)" in text or text.count("curate/small: run") == 1


def test_a_step_in_sync_says_what_made_it_and_under_which_identity(world: World) -> None:
    text = told(world, desired_of(), "train/small")
    assert f"its identity is {world.newest['train/small'].key}" in text
    assert "made by train/small for commit cccccccccccc" in text
    assert f"weights is {world.newest['train/small'].products['weights']}" in text


def test_a_resource_is_explained_by_all_of_its_steps(world: World) -> None:
    text = told(world, desired_of(), "Deployment/small-local")
    assert "gate/small-local: nothing" in text
    assert "release/small-local: nothing" in text


def test_what_is_decided_after_a_step_is_named(world: World) -> None:
    text = told(world, desired_of(corpus=b"other"), "curate/small")
    assert "because its input source-0 (DataRecipe/small) was sha256:" in text
    assert "what reads it and is decided after it: tokenizer/small, tokenize/small" in text


def test_an_unknown_name_gets_a_suggestion(world: World) -> None:
    with pytest.raises(UsageError, match="did you mean `train/small`"):
        told(world, desired_of(), "train/smal")


def test_a_forced_step_says_so(world: World) -> None:
    assert "someone asked for it by name" in told(world, desired_of(), "train/small", Scope(force=frozenset({"train/small"})))


class Silent:
    """A past that nobody may ask."""

    def records(self, step_id: str) -> Iterator[tuple[int, Record]]:
        raise AssertionError(step_id)

    def blobs(self, commit: str | None, paths: Iterable[str]) -> Mapping[str, str] | None:
        raise AssertionError(commit)

    def value_since(self, address: str, older: str, newer: str | None, alike: Alike) -> str | None:
        raise AssertionError(older)

    def removed_since(self, address: str, older: str) -> str | None:
        raise AssertionError(older)

    def files_since(self, before: Iterable[str], after: Iterable[str], older: str, newer: str | None) -> str | None:
        raise AssertionError(older)


def test_the_past_is_not_asked_where_nothing_changed(world: World) -> None:
    for step_id in ("release/small-local", "train/small", "curate/small"):
        assert "in the store" in told(world, desired_of(), step_id, past=Silent())


def test_a_field_is_named_although_the_step_that_it_changed_is_recorded(world: World) -> None:
    newer = desired_of({"models/data.yaml": ("min_doc_words: 40", "min_doc_words: 41")}, commit="d")
    newer = replace(newer, origins={"DataRecipe/small": "models/data.yaml"})
    world.blamed = {"DataRecipe/small": "d" * 40}
    old = world.newest["curate/small"].products["documents"]
    record(world, newer, *UPSTREAM)
    chain = told(world, newer, "train/small")
    assert chain.startswith("train/small: run\n  because its input tokenizer (tokenizer/small) was sha256:")
    assert chain.index("  tokenizer/small: nothing") < chain.index("    curate/small: nothing")
    assert f"documents was {old[:19]} as made for commit cccccccccccc (entry 1 of the ledger)" in chain
    field = "`filters.gopher_quality.min_doc_words` was 40 and is 41, by commit dddddddddddd; a change of it means rebuild"
    assert f"it is another because {field}" in chain
    assert chain.count("min_doc_words") == 1


def test_the_files_are_named_although_the_step_that_read_them_is_recorded(world: World) -> None:
    before = {"corpus/a.jsonl": b"a", "corpus/b.jsonl": b"b", "corpus/c.jsonl": b"c"}
    after = {"corpus/a.jsonl": b"a", "corpus/b.jsonl": b"B", "corpus/d.jsonl": b"d"}
    first = with_corpus(desired_of(commit="b"), before)
    world.apply(first)
    world.files = {"b" * 40: git_names(before), "d" * 40: git_names(after)}
    world.blamed = {"corpus/b.jsonl": "e" * 40}
    newer = with_corpus(desired_of(commit="d"), after)
    record(world, newer, *UPSTREAM)
    text = told(world, newer, "train/small")
    assert "it is another because its input source-0 (DataRecipe/small) was sha256:" in text
    assert "corpus/b.jsonl has other bytes, by commit eeeeeeeeeeee\n" in text
    assert "corpus/c.jsonl was removed\n" in text
    assert "corpus/d.jsonl was added\n" in text
    assert "corpus/a.jsonl" not in text


def test_a_source_that_was_added_is_told_with_its_files_and_one_that_left_too(world: World) -> None:
    one = "    - {path: corpus/*.jsonl.gz, license: GPL-2.0-or-later, origin: part of the example's corpus}\n"
    more = one + "    - {path: letters/*.jsonl, license: MIT, origin: letters}\n"
    both = desired_of({"models/data.yaml": (one, more)}, commit="d")
    letters = Bundle({"00000.jsonl": BundleFile(4, digest_of_bytes(b"dear"), "letters/a.jsonl")})
    both = replace(both, bundles={**both.bundles, ("DataRecipe/small", "source-1"): letters})
    world.files = {None: git_names({"letters/a.jsonl": b"dear"}), "c" * 40: {}}
    text = told(world, both, "curate/small")
    assert "because `sources[1]` was nothing and is {}; a change of it means rebuild\n" in text
    assert "because its input source-1 (DataRecipe/small) was nothing and is sha256:" in text
    assert "letters/a.jsonl is read now\n" in text
    world.apply(both)
    world.files = {None: {}, "d" * 40: git_names({"letters/a.jsonl": b"dear"})}
    assert "letters/a.jsonl is read no longer\n" in told(world, desired_of(commit="e", corpus=b"other"), "curate/small")


def test_a_renaming_that_changes_the_order_of_files_is_told_as_one(world: World) -> None:
    before = {"corpus/a.jsonl": b"a", "corpus/b.jsonl": b"b"}
    after = {"corpus/z.jsonl": b"a", "corpus/b.jsonl": b"b"}
    world.apply(with_corpus(desired_of(commit="b"), before))
    world.files = {"b" * 40: git_names(before), None: git_names(after)}
    world.blamed = {"corpus/z.jsonl": "e" * 40}
    text = told(world, with_corpus(desired_of(commit="d"), after), "curate/small")
    assert "file order changed by renaming: corpus/a.jsonl -> corpus/z.jsonl, by commit eeeeeeeeeeee" in text


def test_a_renaming_that_changes_how_a_file_is_read_is_told_as_one(world: World) -> None:
    world.apply(with_corpus(desired_of(commit="b"), {"corpus/a.jsonl": b"a"}))
    world.files = {"b" * 40: git_names({"corpus/a.jsonl": b"a"}), None: git_names({"corpus/a.txt": b"a"})}
    text = told(world, with_corpus(desired_of(commit="d"), {"corpus/a.txt": b"a"}, ".txt"), "curate/small")
    assert "the ending that says how a file is read was changed by renaming: corpus/a.jsonl -> corpus/a.txt" in text


def test_a_commit_that_is_not_here_is_said_instead_of_guessed(world: World) -> None:
    world.apply(with_corpus(desired_of(commit="b"), {"corpus/a.jsonl": b"a"}))
    world.files = {None: git_names({"corpus/a.jsonl": b"b"})}
    text = told(world, with_corpus(desired_of(commit="d"), {"corpus/a.jsonl": b"b"}), "curate/small")
    assert "which of its files changed cannot be told: commit bbbbbbbbbbbb is not in this clone" in text


def test_a_product_that_was_made_again_with_other_bytes_is_told_so(world: World) -> None:
    newest = world.newest["curate/small"]
    world.stored.discard(newest.products["documents"])
    again = next(action for action in world.plan(desired_of()).actions if action.id == "curate/small")
    world.finish(desired_of(), again, product=lambda step, key: "other bytes")
    text = told(world, desired_of(), "tokenizer/small")
    assert "tokenizer/small: run" in text
    assert "it was made again under the same identity, and gave other bytes" in text


def test_a_reader_that_turned_to_another_step_says_so(world: World) -> None:
    other = DATA.replace("{name: small, ", "{name: other, ").replace("min_doc_words: 40", "min_doc_words: 50")
    changes = {
        "models/data.yaml": (
            "split: {validation_fraction: 0.1, seed: 3}\n",
            "split: {validation_fraction: 0.1, seed: 3}\n---\n" + other,
        ),
        "models/tokenizer.yaml": ("DataRecipe/small", "DataRecipe/other"),
    }
    newer = replace(desired_of(changes, commit="d"), origins={"Tokenizer/small": "models/tokenizer.yaml"})
    world.blamed = {"Tokenizer/small": "d" * 40}
    record(world, newer, "curate/other")
    text = told(world, newer, "tokenizer/small")
    assert "no record of curate/other made that: Tokenizer/small read from another step, by commit dddddddddddd" in text


def test_what_a_step_that_waits_would_run_for_anyway_is_told_as_well(world: World) -> None:
    changes = {"models/data.yaml": ("min_doc_words: 40", "min_doc_words: 41"), "models/model.yaml": ("seed: 5", "seed: 6")}
    text = told(world, desired_of(changes, commit="d"), "train/small")
    assert "  because tokenize/small, tokenizer/small must be done first" in text
    assert "  besides, `training.seed` was 5 and is 6; a change of it means rebuild" in text


def test_a_suite_and_a_policy_are_explained_by_what_reads_them(world: World) -> None:
    text = told(world, desired_of(policy=b'{"spec": {}}'), "InferencePolicy/small")
    assert text.startswith("InferencePolicy/small\n  no step is its own; what reads it: release/small-local (reload)\n")
    assert "because its input policy (InferencePolicy/small) was sha256:" in text
    text = told(world, desired_of(), "EvalSuite/small")
    assert "what reads it: evaluate/small.small (nothing)\nevaluate/small.small: nothing\n" in text
    with pytest.raises(UsageError, match="did you mean `EvalSuite/small`"):
        told(world, desired_of(), "EvalSuite/smal")


def test_a_retirement_names_the_commit_that_took_the_resource_out(world: World) -> None:
    world.blamed = {"Deployment/small-local": "e" * 40}
    text = told(world, desired_of(without=["models/deployment.yaml"]), "Deployment/small-local")
    assert "because the commit no longer holds it, by commit eeeeeeeeeeee; nothing is deleted\n" in text


def test_a_chain_of_why_is_data_as_well(world: World) -> None:
    desired = desired_of(corpus=b"other")
    data = json.loads(to_json(explain(world.plan(desired), "curate/small", desired, world, PastOf(world))))
    assert (data["schema_version"], data["commit"], data["name"]) == (1, "c" * 40, "curate/small")
    (chain,) = data["chains"]
    assert chain["decided_after"] == ["tokenizer/small", "tokenize/small"]
    assert [(told["id"], told["action"], told["depth"]) for told in chain["told"]] == [("curate/small", "run", 0)]
    assert chain["told"][0]["said"][0].startswith("because its input source-0 (DataRecipe/small) was sha256:")
