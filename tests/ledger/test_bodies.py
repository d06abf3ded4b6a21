"""What the ledger keeps besides records: protections, retirements, and bodies that gain fields."""

from pathlib import Path

import pytest
from pydantic import ValidationError
from tests.conftest import git
from tests.ledger.conftest import REF, make_record, make_release

from forge.canonical import canonical_json
from forge.contract.record import Protection, Renamed, Renaming, Retirement, Subject
from forge.ledger.ledger import Draft, Ledger

RETIRED = {"commit": "e" * 40, "moved": "2026-01-02T00:00:00.000+00:00"}


def test_what_a_first_ledger_said_of_a_record_is_still_said_byte_for_byte() -> None:
    fields = make_record("a").model_dump(mode="json")
    assert sorted(fields) == [
        "actual", "attempt", "attestations", "commit", "environment", "estimate", "finished", "inputs", "key", "kind",
        "metrics", "parameters", "products", "sources", "started", "step", "step_id", "step_version", "subject", "supersedes",
    ]  # fmt: skip
    grown = make_record("a").model_copy(update={"byproducts": {"checkpoint": "sha256:" + "a" * 64}})
    assert sorted({*grown.model_dump(mode="json")} - {*fields}) == ["byproducts"]
    assert type(grown).model_validate_json(canonical_json(grown.model_dump(mode="json"))) == grown


@pytest.mark.parametrize("subject", ["Model", "Model/../x", "model/x", "Model/x/y", "Model/", "Model/-x", "/x", "Model/X"])
def test_a_subject_that_is_no_safe_path_is_refused(subject: str) -> None:
    with pytest.raises(ValidationError):
        Protection(subject=subject, protected=True, commit="c" * 40)


def test_subjects_are_listed_with_protection_and_retirement(ledger: Ledger) -> None:
    assert ledger.snapshot().subjects() == {}
    ledger.append([
        Draft(make_record("a")),
        Draft(make_record("b", step_id="train/a", subject="Model/a")),
        Draft(make_record("c", step_id="evaluate/a.s", subject="Model/a")),
        Draft(Protection(subject="Model/a", protected=True, commit="c" * 40)),
        Draft(make_release("prod", "r")),
    ])  # fmt: skip
    before = ledger.snapshot()
    assert before.subjects() == {
        "Deployment/docs-prod": Subject("Deployment/docs-prod", False, None),
        "Model/a": Subject("Model/a", True, None),
        "Tokenizer/a": Subject("Tokenizer/a", False, None),
    }
    ledger.append([
        Draft(Protection(subject="Model/a", protected=False, commit="c" * 40)),
        Draft(Retirement(subject="Model/a", **RETIRED)),
        Draft(Retirement(subject="Tokenizer/a", **RETIRED)),
        Draft(make_record("a2", step_id="tokenize/a", subject="Tokenizer/a")),
    ])  # fmt: skip
    subjects = ledger.snapshot().subjects()
    assert subjects["Model/a"] == Subject("Model/a", False, "e" * 40)
    assert subjects["Tokenizer/a"].retired is None  # a later record undid it
    ledger.append([Draft(Protection(subject="Model/a", protected=True, commit="f" * 40))])
    assert ledger.snapshot().subjects()["Model/a"] == Subject("Model/a", True, None)  # a commit held it again
    assert before.subjects()["Model/a"].protected  # the earlier head still says what it said


def test_an_environment_whose_deployment_is_retired_serves_nothing_until_a_later_release(ledger: Ledger) -> None:
    first, second = make_release("prod", "one", 1), make_release("prod", "two", 3)
    ledger.append([Draft(first), Draft(make_release("staging", "one", 1))])
    assert ledger.snapshot().release("prod") == first
    ledger.append([Draft(Retirement(subject="Deployment/docs-prod", environment="prod", **RETIRED))])
    retired = ledger.snapshot()
    assert retired.release("prod") is None
    assert retired.subjects()["Deployment/docs-prod"].retired == "e" * 40
    ledger.append([Draft(second)])
    now = ledger.snapshot()
    assert now.release("prod") == second
    assert now.releases("prod") == (first, second)
    assert now.environments() == ("prod", "staging")
    assert now.subjects()["Deployment/docs-prod"].retired is None
    assert retired.release("prod") is None


def test_a_deployment_that_serves_something_is_not_retired_with_another_environment(ledger: Ledger) -> None:
    moved = make_release("staging", "one", 1).model_copy(update={"deployment": "docs-prod"})
    ledger.append([Draft(make_release("prod", "one", 1)), Draft(moved)])
    ledger.append([Draft(Retirement(subject="Deployment/docs-prod", environment="prod", **RETIRED))])
    assert ledger.snapshot().subjects()["Deployment/docs-prod"].retired is None
    ledger.append([Draft(Retirement(subject="Deployment/docs-prod", environment="staging", **RETIRED))])
    assert ledger.snapshot().subjects()["Deployment/docs-prod"].retired == "e" * 40


def test_a_renaming_takes_protection_along_and_names_stretches_of_the_ledger(ledger: Ledger) -> None:
    renaming = Renaming(subject="Model/b", previous="Model/a", commit="c" * 40)
    first, later = (
        make_record("a", step_id="train/a", subject="Model/a"),
        make_record("c", step_id="train/a", subject="Model/a"),
    )
    ledger.append([Draft(first), Draft(Protection(subject="Model/a", protected=True, commit="c" * 40)), Draft(renaming)])
    snapshot = ledger.snapshot()
    assert snapshot.renamings() == [Renamed(3, "Model/b", "Model/a")]
    assert snapshot.subjects() == {
        "Model/a": Subject("Model/a", False, None, "Model/b"),
        "Model/b": Subject("Model/b", True, None),
    }
    ledger.append([Draft(later)])
    now = ledger.snapshot()
    assert now.subjects()["Model/a"].renamed is None  # the name is another resource's now
    assert now.latest_of([("train/a", 0, 3), ("train/b", 0, 99)]) == first
    assert now.latest_of([("train/a", 3, 99)]) == now.latest_of([("train/a", 0, 3), ("train/a", 3, 99)]) == later
    assert now.latest_of([("train/a", 4, 99)]) is None
    assert ledger.append([Draft(renaming)])
    assert ledger.snapshot().renamings() == [Renamed(3, "Model/b", "Model/a")]


@pytest.mark.parametrize("previous", ["Model/b", "Tokenizer/a"])
def test_a_renaming_changes_the_name_and_nothing_else(previous: str) -> None:
    with pytest.raises(ValidationError):
        Renaming(subject="Model/b", previous=previous, commit="c" * 40)


def test_protections_and_retirements_are_listed_under_their_subject(ledger: Ledger, folder: Path) -> None:
    ledger.append([Draft(Protection(subject="Model/a", protected=True, commit="c" * 40))])
    ledger.append([Draft(Protection(subject="Model/a", protected=True, commit="c" * 40))])  # says nothing new
    assert git(folder, "ls-tree", "-r", "--name-only", REF, "subjects").split() == ["subjects/Model/a/000000001.json"]
