"""An assessment as text, JSON and a page: hostile texts stay texts, and a browser finds nothing to load or to complain of."""

import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.browser import needs_chromium, rendered
from tests.report.material import material, recipe, report, source_report, survey, use
from tests.ui.test_report import HOSTILE, tags_of

from forge.contract.survey import LanguageShare, Sample
from forge.report.assess import assess
from forge.report.readiness import Finding, Need, Readiness, Rule, TokenCount
from forge.ui.readiness import length_text, to_data, to_text
from forge.ui.readiness_figures import bars, volume_figure
from forge.ui.readiness_page import to_page


def saying(text: str) -> Readiness:
    """An assessment in which every text that somebody else chooses is this one."""
    spec = recipe(
        sources=[{"path": "corpus/*", "license": text or "x", "origin": text or "x"}],
        decontaminate_against=["EvalSuite/s"],
    )
    made = assess(
        material(
            spec=spec,
            report=report(source_report(removed={text: 20, "exact_duplicate": 30})),
            survey=survey(
                samples={
                    text: (Sample(source=0, id=text, bytes=3, excerpt=text), Sample(source=0, id=text, bytes=3, excerpt=None))
                },
                languages={text: LanguageShare(documents=3, bytes=10)},
                personal_data={"emails": 1},
            ),
            withdrawn=(text,),
            uses=(
                use(model=text, objective=text, reads=text, tokens=TokenCount(7, counted=True, basis=text)),
                use(tokens=None),
            ),
            evaluated={"EvalSuite/t": (text,)},
        )
    )
    return replace(made, recipe=text, commit=text, curated=text, documents=text, allowed_licenses=(text,))


def test_hostile_texts_make_no_element_and_no_attribute() -> None:
    plain, hostile = (tags_of(to_page(saying(text))) for text in ("plain", HOSTILE))
    assert [tag for tag, _ in hostile] == [tag for tag, _ in plain]
    assert [sorted(attributes) for _, attributes in hostile] == [sorted(attributes) for _, attributes in plain]
    assert not {"script", "img", "iframe", "object", "form", "a"} & {tag for tag, _ in hostile}


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=300))
def test_no_text_changes_the_form_of_any_output(text: str) -> None:
    readiness = saying(text)
    assert [tag for tag, _ in tags_of(to_page(readiness))] == [
        tag for tag, _ in tags_of(to_page(saying("plain" if text else "")))
    ]
    lines = to_text(readiness)
    assert len(lines.splitlines()) == len(to_text(saying("plain" if text else "")).splitlines())
    assert all(character.isprintable() or character == "\n" for character in lines)
    document = json.loads(to_data(readiness))
    assert document["recipe"] == text
    assert all(byte < 128 for byte in to_data(readiness))


def test_the_answer_comes_first_and_then_its_reasons() -> None:
    text = to_text(assess(material(is_lost=True, uses=())))
    first, _, third, _, fifth, *_ = text.splitlines()
    assert first == "DataRecipe/d: NOT USABLE"
    assert third.startswith("  FAIL [lost] the store has no documents")
    assert fifth.startswith("  warn [unused]")
    page = to_page(assess(material(is_lost=True, uses=()))).decode()
    assert page.index("not usable") < page.index("stands against it") < page.index("Volume")


def test_programs_read_the_same() -> None:
    document: dict[str, Any] = json.loads(to_data(assess(material(evaluated={"EvalSuite/s": ("Model/m",)}))))
    assert (document["schema_version"], document["answer"]) == (1, "usable with warnings")
    assert document["findings"][0]["rule"] == "contamination"
    assert document["needs"][0]["tokens"]["train"] == 900_000
    assert document["samples"]["exact_duplicate"] == [{"source": 0, "id": "a", "bytes": 10, "excerpt": "begins"}]
    assert document["languages"]["en"] == {"documents": 890, "bytes": 890_000}


def test_every_form_says_when_nobody_looked_and_when_there_is_nothing() -> None:
    nothing = report(source_report(0, 0, {}), train=0, validation=0, personal_data_replaced={})
    readiness = assess(material(report=nothing, survey=None, survey_fault="none was left", uses=()))
    page = to_page(readiness).decode()
    assert "Nobody looked." in page
    assert "No document was removed." in page
    assert "cannot" not in to_text(assess(material()))
    assert json.loads(to_data(readiness))["languages"] is None


def test_figures_are_well_formed_and_stay_in_their_frame() -> None:
    numbers = [0, 1, 7, 10**6, 10**15]
    needs = [
        Need("Model/m", "pretrain", "data", 1, TokenCount(there, counted=True, basis=""), planned, optimal, 1.0, there)
        for there in numbers
        for planned in numbers
        for optimal in numbers
    ]
    figures = [volume_figure(need) for need in needs]
    for figure in figures:
        for bar in figure.iter("rect"):
            assert float(bar.get("x", "nan")) + float(bar.get("width", "nan")) <= 700
            assert float(bar.get("width", "nan")) > 0
    page = to_page(assess(material())).decode()
    found = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(found) == 5
    assert all(ET.fromstring(figure).find("title") is not None for figure in found)
    assert len(list(bars("none", []).iter("rect"))) == 0


@pytest.mark.parametrize(
    ("bits", "text"),
    [(0, "empty"), (1, "1 B to 2 B"), (10, "512 B to 1 KiB"), (11, "1 KiB to 2 KiB"), (42, "2048 GiB to 4096 GiB")],
)
def test_lengths_are_named_by_their_ends(bits: int, text: str) -> None:
    assert length_text(bits) == text


def test_a_finding_that_is_no_warning_has_its_own_word() -> None:
    made = replace(assess(material()), findings=(Finding(Rule.LOST, True, "m", "r"),))
    assert "stands against it" in to_page(made).decode()


@needs_chromium
def test_a_browser_loads_nothing_and_has_nothing_to_complain_of(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_bytes(to_page(saying(HOSTILE)))
    console, requests, _ = rendered(page, tmp_path)
    assert (console, requests) == ([], [])
