"""The report's page: hostile texts stay texts, every rule has words, and a browser finds nothing to load or to complain of."""

import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.browser import needs_chromium, rendered

from forge.admission.verdict import REMEDIES, Check, Finding, Rule, Verdict, WithdrawnSubject
from forge.contract.verdict import Bound
from forge.report.compare import differences
from forge.report.model import (
    ChainStep,
    Changes,
    CommitRow,
    DataSheet,
    DataSource,
    Evidence,
    Fact,
    FieldChange,
    GivenApproval,
    MeasuredBefore,
    Measurement,
    Report,
    Section,
    Standing,
)
from forge.ui.html import el, link, to_html
from forge.ui.report import to_data, to_page
from forge.ui.report_words import RULES

HOSTILE = "<script>alert(1)</script>\"'><img src=http://evil.invalid/x onerror=alert(2)>&amp;</style>\x1b[2J\u202egnp.exe"
DIGEST = "sha256:" + "ab" * 32
PAST = "2026-01-01T00:00:00+00:00"


def report_saying(text: str) -> Report:
    """A report in which every text that somebody else chooses is this one."""
    evidence = (Evidence(text, "attestations/001-a.dsse.json"), Evidence(text))
    facts = tuple(Fact(text, text, standing, evidence, text) for standing in Standing)
    verdict = Verdict(
        "release/local",
        text,
        (Check(Rule.GATE, text),),
        (Finding(Rule.BYTES, text, text),),
        DIGEST,
        (WithdrawnSubject(text, text, "stop", 3, "c" * 40),),
    )
    steps = (
        ChainStep("curate/a", 0, (), text, "c" * 40, (("documents", DIGEST),), PAST, evidence, True),
        ChainStep(text, 1, ("curate/a",), text, "c" * 40, ((text, DIGEST), ("report", DIGEST)), PAST, evidence, False),
        ChainStep("gate/a", 2, ("curate/a",), text, "c" * 40, (), PAST, (), True),
    )
    source = DataSource(text, text, text, 10, None, 3)
    measured = (
        Measurement(text, text, text, 0.5, 0.1, 20, Bound.MIN, 0.4, True, evidence),
        Measurement(text, text, text, 2.5, None, 20, Bound.MAX, 2.0, False, ()),
        Measurement(text, text, text, None, None, 0, Bound.MAX, 2.0, False, ()),
        Measurement(text, text, text, 0.0, 0.0, 1, None, None, None, ()),
    )
    return Report(
        verdict=verdict,
        environment="local",
        deployment=text,
        model=text,
        release=DIGEST,
        weights=DIGEST,
        commit="c" * 40,
        signed_by=text,
        moved=PAST,
        development=True,
        trust_root=DIGEST,
        entries=3,
        head=DIGEST,
        ledger_commit="d" * 40,
        engine="0.1.0",
        chain=steps,
        data=(DataSheet(text, (source,), evidence[0], evidence[0], ((text, 2),), ((text, 3),), facts),),
        training=(Section(text, facts),),
        measurements=measured,
        measured_before=(MeasuredBefore(6, text, "c" * 40, PAST, text),) * 2,
        approvals_needed=1,
        approvals=(GivenApproval(text, PAST, "c" * 40, text, evidence),),
        changes=Changes("c" * 40, PAST, (CommitRow("c" * 40, text, None),), (FieldChange(text, text, text, None),), text),
        act=(Section(text, facts),),
        notes=(text,),
    )


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def tags_of(page: bytes) -> list[tuple[str, dict[str, str | None]]]:
    parser = _Tags()
    parser.feed(page.decode())
    return parser.tags


def test_hostile_texts_make_no_element_and_no_attribute() -> None:
    plain, hostile = (tags_of(to_page(report_saying(text))) for text in ("plain", HOSTILE))
    assert [tag for tag, _ in hostile] == [tag for tag, _ in plain]
    assert [sorted(attributes) for _, attributes in hostile] == [sorted(attributes) for _, attributes in plain]
    assert not {"script", "img", "iframe", "object", "form"} & {tag for tag, _ in hostile}
    targets = {attributes["href"] for tag, attributes in hostile if tag == "a"}
    assert all(re.fullmatch(r"#[a-z]+|[A-Za-z0-9][A-Za-z0-9._/-]*", target or "") for target in targets)


def test_characters_that_change_how_a_line_reads_are_shown_as_codes() -> None:
    page = to_page(report_saying(HOSTILE)).decode()
    assert "\u202e" not in page
    assert "\x1b" not in page
    assert "\\u202egnp.exe" in page


@given(st.text())
def test_any_text_survives_as_a_text(text: str) -> None:
    page = to_html(el("p", text, title=text)).decode("utf-8")
    assert [tag for tag, _ in tags_of(page.encode())] == ["p"]


@pytest.mark.parametrize(
    "path", ["http://evil.invalid", "//evil.invalid", "javascript:alert(1)", "../x", "a/../b", "/etc", "", "a b"]
)
def test_a_link_leads_nowhere_else(path: str) -> None:
    with pytest.raises(ValueError, match="not a file of this site"):
        link(path, "text")


def test_every_rule_has_words_and_a_row() -> None:
    assert set(RULES) == set(Rule)
    page = to_page(report_saying("plain")).decode()
    assert all(text in page for text in RULES.values())


def test_the_answer_comes_first_and_no_is_no() -> None:
    page = to_page(report_saying("plain")).decode()
    assert page.index("NO: plain may not serve local") < page.index(">DEVELOPMENT<") < page.index("Which rules were checked")
    good = replace(
        report_saying("plain"),
        verdict=Verdict("release/local", "root", (Check(Rule.GATE, "it passed"),), ()),
        development=False,
    )
    page = to_page(good).decode()
    assert "YES: plain may serve local" in page
    assert "DEVELOPMENT" not in page.replace("DEVELOPMENT trust root", "")


def test_missing_shows_what_to_write_and_no_value() -> None:
    fact = Fact("Energy", None, Standing.MISSING, (), "annotate Model/x with `ai-act/energy`")
    page = to_page(replace(report_saying("plain"), act=(Section("Act", (fact,)),))).decode()
    assert "annotate Model/x" in page
    assert "Of 1 fields: 0 proved, 0 declared, 1 missing." in page


def test_the_interval_is_that_of_a_normal_approximation() -> None:
    low, high = report_saying("x").measurements[0].interval or (0.0, 0.0)
    assert (low, high) == pytest.approx((0.304, 0.696))
    assert report_saying("x").measurements[1].interval is None


def test_the_figures_are_well_formed_and_say_what_they_show() -> None:
    page = to_page(report_saying("plain")).decode()
    figures = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(figures) == 1 + 3
    for figure in figures:
        root = ET.fromstring(figure)
        assert root.get("role") == "img"
        assert root.find("title") is not None


def test_programs_read_the_same() -> None:
    document = json.loads(to_data(report_saying(HOSTILE)))
    assert [row["remedy"] for row in document["verdict"]["findings"]] == [REMEDIES[Rule.BYTES]]
    assert document["holds"] is False
    assert document["act"][0]["facts"][0]["standing"] == "proved"
    assert document["approvals"][0]["person"] == HOSTILE


def test_a_comparison_names_what_differs(tmp_path: Path) -> None:
    for name in ("made", "found"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "a").write_text("a")
        (tmp_path / name / "b").write_text("b")
    assert list(differences(tmp_path / "made", tmp_path / "found")) == []
    (tmp_path / "found" / "b").unlink()
    (tmp_path / "found" / "b").symlink_to("sub/a")
    (tmp_path / "found" / "c").write_text("c")
    (tmp_path / "found" / "sub" / "a").write_text("b")
    (tmp_path / "made" / "d").write_text("d")
    words = [line.split(":")[0] for line in differences(tmp_path / "made", tmp_path / "found")]
    assert words == ["b", "c", "sub/a", "d"]


def written(page: bytes, folder: Path) -> Path:
    (folder / "index.html").write_bytes(page)
    return folder / "index.html"


@needs_chromium
def test_a_browser_loads_nothing_and_has_nothing_to_complain_of(tmp_path: Path) -> None:
    console, requests, _ = rendered(written(to_page(report_saying(HOSTILE)), tmp_path), tmp_path)
    assert console == []
    assert requests == []


@needs_chromium
def test_the_browser_would_have_told(tmp_path: Path) -> None:
    """The same page without escaping and without its policy: both kinds of fault are seen."""
    page = to_page(report_saying("plain")).replace(b"Content-Security-Policy", b"X-Nothing")
    bad = b'<img src="http://outside.invalid/x.png"><script>console.log("ran")</script>'
    console, requests, _ = rendered(written(page.replace(b"<main>", b"<main>" + bad), tmp_path), tmp_path)
    assert any("ran" in line for line in console)
    assert requests
