"""Conversations that a fine-tuned model names: which files they are, what pins them, and what is refused."""

from pathlib import Path

import pytest
from tests.conftest import commit_all, git
from tests.repo.test_repo import desired_at, diagnostics_at
from tests.spec.test_sft_spec import TUNED

from forge.plan.graph import build_graph
from forge.plan.step import FromCommit, FromStep

PLACE = "models/tuned.yaml:7:"


@pytest.fixture
def tuned(repository: Path) -> Path:
    """The small example with a model that learns from two files."""
    (repository / "models" / "tuned.yaml").write_text(TUNED)
    (repository / "chats").mkdir()
    for name in "ab":
        (repository / "chats" / f"{name}.jsonl").write_text(name)
    commit_all(repository)
    return repository


def test_the_training_reads_them_and_nothing_is_tokenized_for_it(tuned: Path) -> None:
    steps = build_graph(desired_at(tuned))
    train = steps["train/tuned"]
    assert set(train.inputs) == {"base", "conversations", "tokenizer"}
    assert train.inputs["base"] == FromStep("train/small", "weights")
    assert train.inputs["tokenizer"] == FromStep("tokenizer/small", "tokenizer")
    assert isinstance(train.inputs["conversations"], FromCommit)
    assert [name for name in steps if name.startswith("tokenize/")] == ["tokenize/small"]


def test_bytes_and_order_are_the_identity_and_names_are_not(tuned: Path) -> None:
    key = ("Model/tuned", "conversations")
    before = desired_at(tuned).bundles[key]
    assert before.sources == {"00000.jsonl": "chats/a.jsonl", "00001.jsonl": "chats/b.jsonl"}
    git(tuned, "mv", "chats/b.jsonl", "chats/c.jsonl")
    assert desired_at(tuned, commit_all(tuned)).bundles[key].digest == before.digest
    git(tuned, "mv", "chats/a.jsonl", "chats/d.jsonl")
    assert desired_at(tuned, commit_all(tuned)).bundles[key].digest != before.digest


def test_a_pattern_without_files_is_refused(tuned: Path) -> None:
    spec = tuned / "models" / "tuned.yaml"
    spec.write_text(spec.read_text().replace("chats/*.jsonl", "talks/*.jsonl"))
    commit_all(tuned)
    said = diagnostics_at(tuned)
    assert PLACE in said
    assert "no file matches `talks/*.jsonl`" in said


def test_a_file_of_another_kind_is_refused(tuned: Path) -> None:
    spec = tuned / "models" / "tuned.yaml"
    spec.write_text(spec.read_text().replace("chats/*.jsonl", "chats/*"))
    (tuned / "chats" / "c.parquet").write_text("c")
    commit_all(tuned)
    said = diagnostics_at(tuned)
    assert PLACE in said
    assert "`chats/c.parquet` is no .jsonl file" in said
