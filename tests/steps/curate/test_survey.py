"""The by-product of a curation: samples of what was removed, redacted; and what the kept documents are like."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.steps.conftest import MakeRun
from tests.steps.curate.test_filters import GERMAN
from tests.steps.test_curate import FULL, prose, rows, source

from forge.contract.survey import SURVEY_FILE, Survey
from forge.errors import StepError
from forge.steps import curate
from forge.steps.curate import survey
from forge.steps.curate.survey import EXCERPT_CHARACTERS, PER_RULE, Draw, Samples

ADDRESS = "jane.doe@example.org"


def survey_of(run: Any) -> Survey:
    return Survey.model_validate_json((run.byproduct("survey") / SURVEY_FILE).read_bytes())


def test_samples_say_what_each_rule_removed_and_hold_no_personal_data(make_run: MakeRun, tmp_path: Path) -> None:
    short = [f"Write to {ADDRESS} or call +1 555 123 4567, note {number}." for number in range(9)]
    texts = [prose(1), prose(1), prose(2) + f" {ADDRESS}", *short, *(prose(seed) for seed in range(10, 40))]
    parameters = {
        "sources": [{}],
        "filters": {"gopher_quality": {"max_non_alpha_words_ratio": 0.5}},
        "dedup": {"exact": True},
        "split": {"validation_fraction": 0.3},
    }
    run = make_run("curate", parameters, {"source-0": source(tmp_path / "s", rows(texts))})
    curate.run(run)
    found = survey_of(run)
    report = json.loads((run.product("report") / "report.json").read_text())
    assert set(found.samples) == set(report["removed"]) == {"exact_duplicate", "gopher_quality.short_doc"}
    assert [len(found.samples[rule]) for rule in sorted(found.samples)] == [1, PER_RULE]
    for sample in found.samples["gopher_quality.short_doc"]:
        assert sample.excerpt is not None
        assert sample.excerpt.startswith("Write to [EMAIL] or call [PHONE_NUMBER], note ")
    assert found.samples["exact_duplicate"][0].id == "d1"
    assert ADDRESS.encode() not in found.to_bytes()
    assert found.personal_data == {"emails": 1}  # the recipe redacts nothing, so it is still among the documents
    assert sum(found.lengths[0].values()) == found.documents == 32


def test_one_process_and_three_draw_the_same(tmp_path: Path, make_run: MakeRun) -> None:
    texts = [prose(seed, 200 if seed % 3 else 20) for seed in range(1500)]
    folder = source(tmp_path / "s", rows(texts))
    run = make_run("curate", {**FULL, "sources": [{}]}, {"source-0": folder})
    three = run.request.model_copy(update={"resources": run.request.resources.model_copy(update={"threads": 3})})
    curate.run(run)
    alone = (run.byproduct("survey") / SURVEY_FILE).read_bytes()
    other = make_run("curate", {**FULL, "sources": [{}]}, {"source-0": folder})
    other.request = three.model_copy(update={"output": other.request.output, "scratch": other.request.scratch})
    curate.run(other)
    assert (other.byproduct("survey") / SURVEY_FILE).read_bytes() == alone
    assert survey_of(run).documents == survey.MOST_LOOKED_AT == 128


def test_the_languages_of_what_is_kept_are_told(make_run: MakeRun, tmp_path: Path) -> None:
    english = "The package manager reads its lists from the servers that you name in the file of sources. "
    texts = [f"{english * 4} Part {number}." for number in range(6)] + [f"{GERMAN * 3} Teil {number}." for number in range(3)]
    parameters = {"sources": [{}], "split": {"validation_fraction": 0.5}}
    run = make_run("curate", parameters, {"source-0": source(tmp_path / "s", rows(texts))})
    curate.run(run)
    languages = survey_of(run).languages
    assert languages is not None
    assert {name: share.documents for name, share in languages.items()} == {"en": 6, "de": 3}


def test_where_the_language_model_is_not_installed_the_survey_says_so(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent() -> None:
        raise StepError("not installed: install the locks")

    monkeypatch.setattr(survey, "load_model", absent)
    parameters = {"sources": [{}], "split": {"validation_fraction": 0.5}}
    run = make_run("curate", parameters, {"source-0": source(tmp_path / "s", rows([prose(seed) for seed in range(9)]))})
    curate.run(run)
    assert (survey_of(run).languages, survey_of(run).languages_fault) == (None, "not installed: install the locks")


@pytest.mark.parametrize("rule", ["license.not_allowed", "contaminated.suite"])
def test_of_what_is_refused_by_licence_or_repeats_a_suite_no_text_is_kept(rule: str) -> None:
    samples = Samples()
    samples.add(rule, 0, "name", "secret")
    assert samples.finish()[rule][0].excerpt is None


@given(st.integers(0, 3 * EXCERPT_CHARACTERS), st.integers(1, 60))
def test_no_part_of_a_value_is_left_wherever_it_stands(place: int, times: int) -> None:
    text = " " * place + "jane.doe.of.somewhere@example.org " * times
    samples = Samples()
    samples.add("rule", 0, text, text)
    (sample,) = samples.finish()["rule"]
    assert sample.excerpt is not None
    for shown in (sample.excerpt, sample.id):
        assert "jane" not in shown
    assert len(sample.excerpt) <= EXCERPT_CHARACTERS


@given(st.lists(st.integers(0, 50), max_size=60), st.integers(0, 60))
def test_a_draw_in_two_parts_is_the_draw_of_the_whole(marks: list[int], cut: int) -> None:
    items = list(enumerate(marks))
    whole, first, second = Draw[int](5), Draw[int](5), Draw[int](5)
    for draw, part in ((whole, items), (first, items[:cut]), (second, items[cut:])):
        for number, mark in part:
            draw.add(mark, number)
    first.merge(second)
    assert first.items() == whole.items() == [number for number, _ in sorted(items, key=lambda item: item[1])[:5]]


def test_a_line_of_a_megabyte_is_cut() -> None:
    samples = Samples()
    samples.add("rule", 0, "x" * 1_000_000, "y" * 1_000_000)
    (sample,) = samples.finish()["rule"]
    assert (len(sample.id), len(sample.excerpt or ""), sample.bytes) == (80, EXCERPT_CHARACTERS, 1_000_000)
