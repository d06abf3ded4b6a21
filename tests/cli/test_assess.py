"""``forge assess`` on the applied example: exit codes, formats, and what is not there."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import DATA, commit_all

from forge.canonical import hex_of
from forge.contract.record import Record
from forge.ledger.ledger import Ledger
from forge.repo.repository import Repository
from forge.store.store import Store


def curated(folder: Path) -> Record:
    record = Ledger(Repository(folder), "refs/forge/ledger").snapshot().latest("curate/small")
    assert record is not None
    return record


def assessed(forge: Callable[..., Any], folder: Path, code: int = 0, *more: str) -> dict[str, Any]:
    done = forge(folder, "assess", "DataRecipe/small", "--format", "json", *more, code=code)
    return json.loads(done.stdout)


def test_the_applied_example_is_assessed_with_its_own_counts(applied: Path, forge: Callable[..., Any]) -> None:
    document = assessed(forge, applied)
    record, store = curated(applied), Store(".forge/store", applied)
    report = json.loads(store.read_file(record.products["report"], "report.json"))
    assert document["train"] == report["splits"]["train"]
    assert dict(document["removed"]) == report["removed"]
    (need,) = document["needs"]
    tokenized = Ledger(Repository(applied), "refs/forge/ledger").snapshot().latest("tokenize/small")
    trained = Ledger(Repository(applied), "refs/forge/ledger").snapshot().latest("train/small")
    assert tokenized is not None
    assert trained is not None
    assert need["tokens"] == {
        "train": tokenized.metrics["tokens_train"],
        "counted": True,
        "basis": "counted by tokenize/small",
    }
    assert need["parameters"] == trained.metrics["parameters"]
    assert need["optimal_tokens"] == 20 * need["parameters"]
    assert need["planned_tokens"] == 40_000
    rules = {finding["rule"] for finding in document["findings"]}
    assert {"contamination", "duplicates"} <= rules  # the example is not cleaned of its suite, nor of near duplicates
    assert {"survey", "withdrawn", "lost"} & rules == set()
    assert set(document["samples"]) == set(report["removed"])


def test_text_and_page_are_written(applied: Path, forge: Callable[..., Any], tmp_path: Path) -> None:
    done = forge(applied, "assess", "DataRecipe/small")
    assert done.stdout.startswith("DataRecipe/small: USABLE WITH WARNINGS\n")
    page = tmp_path / "page.html"
    forge(applied, "assess", "DataRecipe/small", "--format", "html", "--out", str(page))
    assert page.read_bytes().startswith(b"<!DOCTYPE html>")
    assert b"usable with warnings" in page.read_bytes()


@pytest.mark.parametrize("name", ["DataRecipe/smal", "Model/small", "small", "DataRecipe/"])
def test_an_unknown_recipe_is_refused_with_a_hint(applied: Path, forge: Callable[..., Any], name: str) -> None:
    done = forge(applied, "assess", name, code=2)
    assert "DataRecipe/small" in done.stderr


def test_data_that_was_not_curated_as_the_commit_asks_for_is_not_assessed(
    copy_of_applied: Path, forge: Callable[..., Any]
) -> None:
    (copy_of_applied / "models" / "data.yaml").write_text(DATA.replace("min_doc_words: 40", "min_doc_words: 41"))
    commit_all(copy_of_applied)
    done = forge(copy_of_applied, "assess", "DataRecipe/small", code=1)
    assert "it was curated as commit" in done.stderr
    assert "`forge apply --target DataRecipe/small` first" in done.stderr
    assert assessed(forge, copy_of_applied, 0, "--ref", "HEAD~1")["answer"] == "usable with warnings"


def remove(folder: Path, digest: str) -> None:
    Store(".forge/store", folder).remove(digest)


def test_lost_documents_stand_against_it(copy_of_applied: Path, forge: Callable[..., Any]) -> None:
    remove(copy_of_applied, curated(copy_of_applied).products["documents"])
    document = assessed(forge, copy_of_applied, 1)
    assert (document["answer"], document["findings"][0]["rule"]) == ("not usable", "lost")


def test_a_lost_survey_is_a_warning_and_a_lost_report_an_end(copy_of_applied: Path, forge: Callable[..., Any]) -> None:
    record = curated(copy_of_applied)
    remove(copy_of_applied, record.byproducts["survey"])
    document = assessed(forge, copy_of_applied)
    assert "survey" in {finding["rule"] for finding in document["findings"]}
    assert (document["samples"], document["languages"]) == ({}, None)
    remove(copy_of_applied, record.products["report"])
    done = forge(copy_of_applied, "assess", "DataRecipe/small", code=1)
    assert "`forge apply --target DataRecipe/small` makes what is lost again" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_damaged_survey_is_a_warning_and_comes_back(copy_of_applied: Path, forge: Callable[..., Any]) -> None:
    store = Store(".forge/store", copy_of_applied)
    (file,) = store.manifest(curated(copy_of_applied).byproducts["survey"]).files
    (blob,) = (copy_of_applied / ".forge" / "store").rglob(hex_of(file.sha256))
    blob.chmod(0o644)
    blob.write_bytes(b"{}")
    document = assessed(forge, copy_of_applied)
    assert "survey" in {finding["rule"] for finding in document["findings"]}
    forge(copy_of_applied, "apply", "--yes", "--target", "DataRecipe/small", "--force", "curate/small")
    again = assessed(forge, copy_of_applied)
    assert "survey" not in {finding["rule"] for finding in again["findings"]}
    assert again["languages"]


def test_withdrawn_data_is_not_usable(copy_of_applied: Path, forge: Callable[..., Any]) -> None:
    text = (
        "apiVersion: forge/v1\nkind: Withdrawals\nmetadata: {name: withdrawn}\nspec:\n  withdrawn:\n"
        "    - {subject: DataRecipe/small, reason: an owner objects}\n"
    )
    (copy_of_applied / "models" / "withdrawals.yaml").write_text(text)
    commit_all(copy_of_applied)
    document = assessed(forge, copy_of_applied, 1)
    assert document["findings"][0]["rule"] == "withdrawn"
    assert "an owner objects" in document["findings"][0]["message"]


def test_without_the_model_nobody_reads_the_recipe(copy_of_applied: Path, forge: Callable[..., Any]) -> None:
    for name in ("models/model.yaml", "models/deployment.yaml", "models/tokenizer.yaml"):
        (copy_of_applied / name).unlink()
    commit_all(copy_of_applied)
    document = assessed(forge, copy_of_applied)
    assert document["needs"] == []
    assert "unused" in {finding["rule"] for finding in document["findings"]}


def test_a_model_that_was_not_trained_is_estimated(copy_of_applied: Path, forge: Callable[..., Any]) -> None:
    path = copy_of_applied / "models" / "tokenizer.yaml"
    path.write_text(path.read_text().replace("vocab_size: 512", "vocab_size: 520"))
    commit_all(copy_of_applied)
    (need,) = assessed(forge, copy_of_applied)["needs"]
    assert need["tokens"]["counted"] is False
    assert need["tokens"]["basis"].startswith("estimated: 4 bytes a token")
    assert need["parameters"] > 0
