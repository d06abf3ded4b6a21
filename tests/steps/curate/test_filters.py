"""What the recipe's newer rules drop, change and count."""

import gzip
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.steps.conftest import MakeRun

from forge.errors import StepError
from forge.spec.data_recipe import Filters, Pii
from forge.steps import curate
from forge.steps.curate import language
from forge.steps.curate.documents import Document
from forge.steps.curate.redact import redact
from forge.steps.curate.sieve import Sieve

CORPUS = Path(__file__).resolve().parents[3] / "models" / "handbook" / "corpus"
ENGLISH = "The package management tools read this file before they download anything from the archive. "
GERMAN = "Die Werkzeuge der Paketverwaltung lesen diese Datei, bevor sie etwas aus dem Archiv herunterladen. "
LINES = [f"Sentence number {number} of this page says a thing or two. It is the one that follows." for number in range(6)]


def sift(texts: list[str], **filters: Any) -> tuple[list[str], dict[str, int]]:
    removed = Counter[str]()
    kept = Sieve(Filters.model_validate(filters)).sift([Document("", text) for text in texts], removed)
    return [document.text for document in kept], dict(removed)


def curated(make_run: MakeRun, folder: Path, rows: list[list[dict[str, Any]]], **parameters: Any) -> tuple[set[str], dict]:
    """The ids that are left, and the report."""
    inputs = {}
    for number, own in enumerate(rows):
        (folder / str(number)).mkdir(parents=True)
        (folder / str(number) / "00000.jsonl").write_text("".join(json.dumps(row) + "\n" for row in own), encoding="utf-8")
        inputs[f"source-{number}"] = folder / str(number)
    run = make_run("curate", {"sources": [{}] * len(rows), "split": {"validation_fraction": 0.5}, **parameters}, inputs)
    curate.run(run)
    lines = [line for path in run.product("documents").rglob("*.jsonl") for line in path.open(encoding="utf-8")]
    return {json.loads(line)["id"] for line in lines}, json.loads((run.product("report") / "report.json").read_text())


FILL = [
    {"id": f"fill{place}", "text": " ".join(f"{letter}{other}" for other in "abcdefghijkl")}
    for place, letter in enumerate("mnopqrstuvwxyz")
]


def test_language_keeps_what_it_is_asked_for() -> None:
    kept, removed = sift([ENGLISH * 3, GERMAN * 3, "\n".join([ENGLISH] * 3)], language={"allow": ["en"]})
    assert kept == [ENGLISH * 3, "\n".join([ENGLISH] * 3)]
    assert removed == {"language": 1}
    assert len(sift([ENGLISH * 3, GERMAN * 3], language={"allow": ["de", "en"]})[0]) == 2
    assert sift(["123 456"], language={"allow": ["en"], "min_score": 0.99})[1] == {"language": 1}


def test_a_language_that_the_model_does_not_know_is_told_before_anything_is_read(make_run: MakeRun, tmp_path: Path) -> None:
    with pytest.raises(StepError, match=r"lid.176 knows no language 'eng'; near it: .*en"):
        curated(make_run, tmp_path, [FILL], filters={"language": {"allow": ["eng"]}})


def test_another_model_than_the_one_with_this_digest_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language, "_DIGEST", "sha256:" + "0" * 64)
    with pytest.raises(StepError, match=re.escape("resources/lid.176.ftz is sha256:8f3472cf")):
        sift([ENGLISH], language={"allow": ["en"]})
    monkeypatch.setattr(language, "_PACKAGE", "no_such_package")
    with pytest.raises(StepError, match="which is not installed"):
        sift([ENGLISH], language={"allow": ["en"]})


def test_c4_takes_lines_out_and_drops_what_is_too_short() -> None:
    page = "\n".join(
        [*LINES, "Menu", "We use cookies on this page, as all do.", "Please enable Javascript to see this.", "[12] End.[edit]"]
    )
    kept, removed = sift(
        [page, "\n".join(LINES[:2]), page + "\nint main() { return 0; }.", page + "\nLorem ipsum dolor sit."], c4_quality={}
    )
    assert kept == ["\n".join(LINES)]
    assert removed == {"c4_quality.too_few_sentences": 1, "c4_quality.curly_bracket": 1, "c4_quality.lorem_ipsum": 1}


def test_each_part_of_c4_can_be_switched_off() -> None:
    off = {
        "remove_citations": False,
        "require_terminal_punctuation": False,
        "min_sentences": None,
        "min_words_per_line": None,
        "max_word_length": None,
        "drop_lorem_ipsum": False,
        "drop_curly_brackets": False,
        "remove_javascript_lines": False,
        "remove_policy_lines": False,
    }
    page = "menu\n{ lorem ipsum } [1]\njavascript\nprivacy policy " + "x" * 2000
    assert sift([page], c4_quality=off) == ([page], {})
    for name in off:
        rest = {other: value for other, value in off.items() if other != name}
        assert sift([page], c4_quality=rest)[0] != [page], name


def test_a_document_of_which_c4_leaves_no_line_goes() -> None:
    assert sift(["no end here\nnor here"], c4_quality={"min_sentences": None}) == ([], {"c4_quality.no_line_left": 1})


def test_fineweb_drops_lists_and_pages_without_sentences() -> None:
    menu = "\n".join(["A link of the menu", "Another link of it", "One that ends."] * 3)
    bare = "\n".join(f"{line[:-1]} {number}" for number, line in enumerate(LINES))
    twice = "\n".join([*LINES, *LINES])
    kept, removed = sift(["\n".join(LINES), menu, bare, twice], fineweb_quality={})
    assert kept == ["\n".join(LINES)]
    assert removed == {
        "fineweb_quality.short_line_ratio": 1,
        "fineweb_quality.line_punct_ratio": 1,
        "fineweb_quality.char_dup_ratio": 1,
    }
    assert sift([bare], fineweb_quality={"allow_no_punctuated_line": True})[0] == [bare]


def test_filters_of_a_manual_leave_some_of_it() -> None:
    with gzip.open(CORPUS / "maint-guide.jsonl.gz") as file:
        texts = [json.loads(line)["text"] for line in file]
    rules: dict[str, Any] = {"c4_quality": {"drop_curly_brackets": False}, "fineweb_quality": {}, "language": {"allow": ["en"]}}
    kept, removed = sift(texts, **rules)
    assert len(kept) + sum(removed.values()) == len(texts)
    assert 0 < len(kept) < len(texts)
    assert {reason.split(".")[0] for reason in removed} >= {"c4_quality", "fineweb_quality"}


def test_of_documents_with_one_url_the_first_stays_across_sources(make_run: MakeRun, tmp_path: Path) -> None:
    first = [{"id": "a", "text": "one", "url": "https://x.test/1"}, {"id": "b", "text": "two", "url": None}]
    second = [
        {"id": "c", "text": "three", "link": " https://x.test/1 "},
        {"id": "d", "text": "four"},
        {"id": "e", "text": "one"},
    ]
    kept, report = curated(
        make_run,
        tmp_path,
        [first + FILL, second],
        sources=[{"url_key": "url"}, {"url_key": "link"}],
        dedup={"url": True, "exact": True, "minhash": {}},
    )
    assert {"a", "b", "c", "d", "e"} & kept == {"a", "b", "d"}
    assert report["sources"][1]["removed"] == {"url_duplicate": 1, "exact_duplicate": 1}


def test_a_document_whose_licence_is_not_allowed_or_not_there_is_not_kept(make_run: MakeRun, tmp_path: Path) -> None:
    rows = [
        {"id": "mit", "text": "one", "license": "mit"},
        {"id": "either", "text": "two", "license": "Zlib OR MIT"},
        {"id": "zlib", "text": "three", "license": "Zlib"},
        {"id": "none", "text": "four"},
        {"id": "null", "text": "five", "license": None},
        {"id": "blank", "text": "six", "license": " "},
        {"id": "words", "text": "seven", "license": "free for all"},
    ]
    keys = [{"license_key": "license"}, {}]
    kept, report = curated(make_run, tmp_path, [rows, FILL], sources=keys, allow_licenses=["MIT"])
    assert {name for name in kept if not name.startswith("fill")} == {"mit", "either"}
    assert report["removed"] == {"license.missing": 3, "license.not_allowed": 1, "license.invalid": 1}
    kept, report = curated(make_run, tmp_path / "all", [rows, FILL], sources=keys)
    assert {name for name in kept if not name.startswith("fill")} == {"mit", "either", "zlib"}


def test_a_licence_that_is_no_text_stops_the_step(make_run: MakeRun, tmp_path: Path) -> None:
    row = {"id": "a", "text": "one", "license": ["MIT"]}
    with pytest.raises(StepError, match="line 1: 'license' holds list, expected a string"):
        curated(make_run, tmp_path, [[row, *FILL]], sources=[{"license_key": "license"}])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pay to DE89 3704 0044 0532 0130 00 today", "pay to [IBAN] today"),
        ("GB82WEST12345698765432.", "[IBAN]."),
        ("DE89 3704 0044 0532 0130 01", "DE89 3704 0044 0532 0130 01"),
        ("NO93 8601 1117 947", "[IBAN]"),
        ("card 4111 1111 1111 1111, 4111-1111-1111-1111", "card [CREDIT_CARD], [CREDIT_CARD]"),
        ("378282246310005 6011111111111117", "[CREDIT_CARD] [CREDIT_CARD]"),
        ("4111 1111 1111 1112", "4111 1111 1111 1112"),
        ("1234567812345670", "1234567812345670"),
        ("0000 0000 0000 0000", "0000 0000 0000 0000"),
        ("version 4.111.1111.1111.111", "version 4.111.1111.1111.111"),
    ],
)
def test_accounts_and_cards_are_known_by_their_check_digits(text: str, expected: str) -> None:
    counts = Counter[str]()
    assert redact(text, Pii(ibans=True, credit_cards=True), counts) == expected
    assert counts.total() == expected.count("[")
    assert redact(text, Pii(), counts) == text


def test_redaction_of_accounts_is_linear_in_hostile_text() -> None:
    hostile = "4" * 100_000 + " 4 4" * 50_000 + "AA00" * 50_000 + " AA00" * 50_000 + "4-" * 50_000
    redact(hostile, Pii(ibans=True, credit_cards=True), Counter())
