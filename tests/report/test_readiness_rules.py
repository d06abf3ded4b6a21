"""The rules of an assessment, each with data that it speaks about and data that it does not."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.report.material import material, recipe, report, source_report, survey, use

from forge.contract.survey import LanguageShare, SuiteCoverage
from forge.report.assess import REPEAT_DECAY, assess, worth
from forge.report.readiness import Answer, Readiness, Rule, TokenCount


def said(readiness: Readiness) -> list[tuple[str, bool]]:
    return [(finding.rule.value, finding.blocks) for finding in readiness.findings]


def languages(**shares: int) -> dict[str, LanguageShare]:
    return {name: LanguageShare(documents=1, bytes=size) for name, size in shares.items()}


def counted(tokens: int) -> TokenCount:
    return TokenCount(tokens, counted=True, basis="counted")


def test_data_that_nothing_is_wrong_with_is_ready() -> None:
    readiness = assess(material())
    assert (readiness.answer, readiness.findings) == (Answer.READY, ())
    (need,) = readiness.needs
    assert (need.optimal_tokens, need.epochs, need.worth_tokens) == (800_000, 1.0, 900_000)


TWO = [{"path": f"corpus/{name}", "license": "MIT", "origin": "x"} for name in "ab"]
WARNED: list[tuple[Rule, dict[str, Any]]] = [
    (Rule.UNUSED, {"uses": ()}),
    (Rule.VOLUME, {"uses": (use(parameters=200_000),)}),
    (Rule.REPEATS, {"uses": (use(planned_tokens=4_600_000),)}),
    (Rule.DUPLICATES, {"spec": recipe(dedup={"exact": True})}),
    (Rule.DUPLICATES, {"spec": recipe(dedup={"minhash": {}})}),
    (Rule.PERSONAL_DATA, {"survey": survey(personal_data={"phone_numbers": 2})}),
    (Rule.CONTAMINATION, {"evaluated": {"EvalSuite/s": ("Model/m",)}}),
    (
        Rule.CONTAMINATION,
        {
            "spec": recipe(decontaminate_against=["EvalSuite/s"]),
            "report": report(source_report(kept=940, removed={"contaminated.s": 60})),
        },
    ),
    (
        Rule.CONTAMINATION,
        {
            "spec": recipe(decontaminate_against=["EvalSuite/s"]),
            "survey": survey(suites={"s": SuiteCoverage(looked_for=8, too_short=1)}),
        },
    ),
    (Rule.LANGUAGE, {"survey": survey(languages=languages(en=80, de=20))}),
    (Rule.LANGUAGE, {"survey": survey(languages=languages(und=80))}),
    (Rule.LICENSE, {"spec": recipe(sources=[{"path": "corpus/a", "license": "as is", "origin": "x"}])}),
    (Rule.REMOVAL, {"report": report(source_report(1000, 80, {"gopher_quality.short_doc": 920}), validation=30)}),
    (Rule.VALIDATION, {"report": report(validation=3)}),
    (Rule.SURVEY, {"survey": survey(languages=None, languages_fault="not installed")}),
]


@pytest.mark.parametrize(("rule", "changes"), WARNED)
def test_a_warning(rule: Rule, changes: dict[str, Any]) -> None:
    readiness = assess(material(**changes))
    assert said(readiness) == [(rule.value, False)]
    assert readiness.answer is Answer.WARNINGS
    assert readiness.findings[0].remedy


BLOCKED: list[tuple[Rule, dict[str, Any]]] = [
    (Rule.WITHDRAWN, {"withdrawn": ("DataRecipe/d is withdrawn: an owner objects",)}),
    (Rule.LOST, {"is_lost": True}),
    (Rule.REPEATS, {"uses": (use(planned_tokens=40_000_000),)}),
    (Rule.LANGUAGE, {"survey": survey(languages=languages(en=40, de=60))}),
    (Rule.LICENSE, {"spec": recipe(allow_licenses=["Apache-2.0"])}),
]


@pytest.mark.parametrize(("rule", "changes"), BLOCKED)
def test_what_stands_against_it(rule: Rule, changes: dict[str, Any]) -> None:
    readiness = assess(material(**changes))
    assert said(readiness) == [(rule.value, True)]
    assert readiness.answer is Answer.NOT_USABLE


def test_nothing_kept_is_not_usable_and_no_figure_divides_by_it() -> None:
    nothing = report(source_report(10, 0, {"empty": 10}), train=0, validation=0)
    readiness = assess(material(report=nothing, uses=(use(tokens=None),), survey=None, survey_fault="none was left"))
    assert ("empty", True) in said(readiness)
    assert readiness.needs[0].epochs is None
    assert readiness.answer is Answer.NOT_USABLE
    assert said(readiness)[0][1]  # what stands against it comes first


def test_a_source_without_documents_is_named() -> None:
    rows = report(source_report(), source_report(0, 0, {}))
    readiness = assess(material(spec=recipe(sources=TWO), report=rows, survey=survey(lengths=({}, {}))))
    assert [finding.message for finding in readiness.findings] == ["sources[1] (corpus/b) holds no document"]


def test_a_sieve_that_leaves_less_than_half_of_everything_is_named_once() -> None:
    rows = report(source_report(), source_report(1200, 0, {"language": 1100, "gopher_quality.short_doc": 100}))
    readiness = assess(material(spec=recipe(sources=TWO), report=rows, survey=survey(lengths=({}, {}))))
    assert said(readiness) == [("removal", False)] * 2
    assert "1,250 of all 2,200 documents were removed, most (1,100) by language" in readiness.findings[1].message


def test_where_documents_name_their_licences_the_sources_own_is_of_all_together() -> None:
    source = {"path": "corpus/a", "license": "MIT OR GPL-2.0-only", "license_key": "license", "origin": "x"}
    readiness = assess(material(spec=recipe(sources=[source], allow_licenses=["Apache-2.0"])))
    assert readiness.answer is Answer.READY


def test_a_recipe_that_asks_for_german_is_not_minded_for_it() -> None:
    spec = recipe(filters={"language": {"allow": ["de"]}})
    assert assess(material(spec=spec, survey=survey(languages=languages(de=95, en=5)))).answer is Answer.READY


def test_what_nobody_looked_for_is_told_where_there_is_no_survey() -> None:
    readiness = assess(material(survey=None, survey_fault="the engine that curated it did not leave any"))
    assert said(readiness) == [("personal-data", False), ("survey", False)]
    assert "emails" not in readiness.findings[0].message  # the recipe replaces them
    assert "phone_numbers" in readiness.findings[0].message
    assert readiness.findings[1].remedy == "curate again"


def test_a_model_that_begins_with_trained_weights_has_no_compute_optimal_number_of_tokens() -> None:
    readiness = assess(material(uses=(use(objective="continue", parameters=10**9),)))
    assert readiness.needs[0].optimal_tokens is None
    assert readiness.answer is Answer.READY


def test_an_objective_that_does_not_count_in_tokens_is_not_held_against_them() -> None:
    need = assess(material(uses=(use(objective="sft", planned_tokens=None, parameters=None),))).needs[0]
    assert (need.epochs, need.worth_tokens, need.optimal_tokens) == (None, None, None)


@pytest.mark.parametrize(("ratio", "tokens", "words"), [(2.0, 1_800_000, "Tokenizer/m"), (None, 900_000, "vocabularies")])
def test_what_was_not_counted_is_estimated_and_says_so(ratio: float | None, tokens: int, words: str) -> None:
    need = assess(material(uses=(use(tokens=None, bytes_per_token=ratio),))).needs[0]
    assert (need.tokens.train, need.tokens.counted) == (tokens, False)
    assert need.tokens.basis.startswith("estimated")
    assert words in need.tokens.basis


def test_a_report_with_fields_of_a_newer_recipe_is_read() -> None:
    assert assess(material(report=report(region="eu"))).answer is Answer.READY


@given(st.floats(1, 1e12), st.floats(0, 100), st.floats(0, 100))
def test_more_passes_are_worth_more_but_never_more_than_new_tokens(tokens: float, one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert worth(tokens, low) <= worth(tokens, high) * (1 + 1e-9)
    assert worth(tokens, high) <= max(high * tokens, 0) * (1 + 1e-9)
    assert worth(tokens, high) <= tokens * (1 + REPEAT_DECAY)


def test_four_passes_cost_little_and_forty_are_worth_no_more_than_sixteen_new_sets() -> None:
    assert worth(1.0, 4) == pytest.approx(3.73, abs=0.01)
    assert worth(1.0, 40) == pytest.approx(15.17, abs=0.01)
    assert math.isclose(worth(1.0, 1e6), 1 + REPEAT_DECAY)
