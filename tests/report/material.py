"""Constructed material for assessments."""

from collections.abc import Mapping
from typing import Any

from forge.contract.survey import LanguageShare, Sample, Survey
from forge.report.material import CurateReport, Material, Use
from forge.report.readiness import TokenCount
from forge.spec.data_recipe import DataRecipeSpec

DIGEST = "sha256:" + "ab" * 32


def recipe(**changes: Any) -> DataRecipeSpec:
    """A recipe of one source that nobody has anything against."""
    document = {
        "sources": [{"path": "corpus/*.jsonl", "license": "MIT", "origin": "somewhere"}],
        "dedup": {"exact": True, "minhash": {}},
        "pii": {"emails": True},
        "split": {"validation_fraction": 0.1},
        **changes,
    }
    return DataRecipeSpec.model_validate(document)


def source_report(read: int = 1000, kept: int = 950, removed: Mapping[str, int] | None = None) -> dict[str, Any]:
    """A source's part of a report."""
    return {
        "read": {"documents": read, "bytes": read * 4000},
        "kept": {"documents": kept, "bytes": kept * 4000},
        "removed": {"exact_duplicate": read - kept} if removed is None else dict(removed),
    }


def report(*sources: Mapping[str, Any], train: int | None = None, validation: int = 50, **changes: Any) -> CurateReport:
    """A report in which everything adds up."""
    rows = list(sources) or [source_report()]
    removed: dict[str, int] = {}
    for row in rows:
        for rule, count in row["removed"].items():
            removed[rule] = removed.get(rule, 0) + count
    left = sum(row["kept"]["documents"] for row in rows) - validation if train is None else train
    document = {
        "schema_version": 1,
        "sources": rows,
        "removed": removed,
        "personal_data_replaced": {"emails": 3},
        "control_tokens_neutralised": 0,
        "splits": {
            "train": {"documents": left, "bytes": left * 4000},
            "validation": {"documents": validation, "bytes": validation * 4000},
        },
        **changes,
    }
    return CurateReport.model_validate(document)


def survey(**changes: Any) -> Survey:
    """A survey in which nothing is wrong."""
    values: dict[str, Any] = {
        "samples_per_rule": 5,
        "samples": {"exact_duplicate": (Sample(source=0, id="a", bytes=10, excerpt="begins"),)},
        "lengths": ({"12": 950},),
        "documents": 900,
        "characters": 2000,
        "languages": {"en": LanguageShare(documents=890, bytes=890_000), "und": LanguageShare(documents=10, bytes=5000)},
        "personal_data": {},
        **changes,
    }
    return Survey(**values)


def use(**changes: Any) -> Use:
    """A model for which there is enough."""
    values: dict[str, Any] = {
        "model": "Model/m",
        "objective": "pretrain",
        "reads": "data",
        "parameters": 40_000,
        "planned_tokens": 900_000,
        "tokens": TokenCount(900_000, counted=True, basis="counted"),
        "tokenizer": "Tokenizer/m",
        "bytes_per_token": 4.0,
        **changes,
    }
    return Use(**values)


def material(**changes: Any) -> Material:
    """Material that no rule has anything against."""
    values: dict[str, Any] = {
        "recipe": "DataRecipe/d",
        "commit": "c" * 40,
        "curated": "b" * 40,
        "documents": DIGEST,
        "spec": recipe(),
        "report": report(),
        "survey": survey(),
        "survey_fault": "",
        "survey_remedy": "curate again",
        "uses": (use(),),
        "evaluated": {},
        **changes,
    }
    return Material(**values)
