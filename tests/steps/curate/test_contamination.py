"""Documents that repeat items of a suite, and nothing else, go."""

import json
import re
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.steps.conftest import MakeRun

from forge.contract.survey import SuiteCoverage, Survey
from forge.errors import StepError
from forge.steps import curate
from forge.steps.curate.contamination import Decontaminator
from forge.steps.curate.signatures import normalised_words

LETTERS = "abcdefghijklmnopqrstuvwxyz"
ITEM = "Which file names the archives that the package manager reads, and in which order does it read them at all?"
SHORT = "Nobody reads the manual before the machine stops"


def suite(folder: Path, name: str, data: bytes | str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)
    return folder


def reasons(texts: list[str], *suites: tuple[str, Path], n: int = 13) -> list[str | None]:
    return Decontaminator(list(suites), n).reasons(texts, [normalised_words(text) for text in texts])


def items(folder: Path, *rows: Any) -> Path:
    return suite(folder, "items.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def test_a_document_with_thirteen_words_of_an_item_goes_and_one_with_twelve_stays(tmp_path: Path) -> None:
    words = ITEM.split()
    texts = [
        "before " + " ".join(words[2:15]).upper().replace(" ", "\n") + " after",
        "before " + " ".join(words[2:14]) + " after",
        " ".join(words[:9]) + " something between " + " ".join(words[9:]),
        "wholly other words that nobody asked for, in some order, as they come to mind, and so on and on",
        "",
    ]
    assert reasons(texts, ("one", items(tmp_path, {"question": ITEM, "number": 3}))) == ["one", None, None, None, None]
    assert reasons(texts, ("one", tmp_path), n=12)[:2] == ["one", "one"]


def test_a_short_text_counts_when_a_document_holds_all_of_it(tmp_path: Path) -> None:
    folder = items(tmp_path, {"choices": [SHORT, "too short to tell"]})
    texts = [f"They say: {SHORT.lower()}. So it is.", "Nobody reads the manual before the machine", "too short to tell"]
    assert reasons(texts, ("one", folder)) == ["one", None, None]


def test_items_that_nobody_looks_for_are_counted(make_run: MakeRun, tmp_path: Path) -> None:
    rows = ({"q": ITEM, "a": "dpkg"}, {"q": "Which tool removes?", "a": "dpkg"}, {"choices": ["a", SHORT]}, {"number": 3})
    folder = items(tmp_path / "suite", *rows)
    assert Decontaminator([("one", folder)], 13).coverage == {"one": SuiteCoverage(looked_for=2, too_short=1)}
    texts = [f"text number {number} about {letter}" for number, letter in enumerate(LETTERS)]
    source = suite(tmp_path / "source", "00000.jsonl", "".join(json.dumps({"id": t, "text": t}) + "\n" for t in texts))
    parameters = {"sources": [{}], "split": {"validation_fraction": 0.5}, "decontaminate_against": ["EvalSuite/one"]}
    run = make_run("curate", parameters, {"source-0": source, "suite-0": folder})
    metrics = curate.run(run)
    assert (metrics["looked_for.one"], metrics["too_short.one"]) == (2, 1)
    survey = Survey.model_validate_json((run.byproduct("survey") / "survey.json").read_bytes())
    assert survey.suites == {"one": SuiteCoverage(looked_for=2, too_short=1)}


@pytest.mark.parametrize(("edition", "left"), [({}, 27), ({"edition": 2}, 26)])
def test_words_that_a_line_break_cuts_are_joined_in_the_second_edition(
    edition: dict[str, int], left: int, make_run: MakeRun, tmp_path: Path
) -> None:
    folder = items(tmp_path / "suite", {"q": ITEM})
    cut = ITEM.replace("manager", "mana-\n  ger").replace("archives", "ar-\nchives")
    texts = [cut, *(f"text number {number} about {letter}" for number, letter in enumerate(LETTERS))]
    source = suite(tmp_path / "source", "00000.jsonl", "".join(json.dumps({"id": t, "text": t}) + "\n" for t in texts))
    parameters = {"sources": [{}], "split": {"validation_fraction": 0.5}, "decontaminate_against": ["EvalSuite/one"]}
    run = make_run("curate", parameters | edition, {"source-0": source, "suite-0": folder})
    metrics = curate.run(run)
    assert int(metrics["documents_train"]) + int(metrics["documents_validation"]) == left


def test_an_item_that_is_cut_is_found_in_a_document_that_is_not(tmp_path: Path) -> None:
    folder = items(tmp_path, {"q": ITEM.replace("archives", "ar-\nchives")})
    words = [normalised_words(ITEM)]
    assert Decontaminator([("one", folder)], 17, joins=True).reasons([ITEM], words) == ["one"]
    assert Decontaminator([("one", folder)], 17).reasons([ITEM], words) == [None]


def test_an_item_that_ends_one_document_and_begins_the_next_is_in_neither(tmp_path: Path) -> None:
    words = ITEM.split()
    folder = items(tmp_path, {"question": ITEM})
    assert reasons([" ".join(words[:10]), " ".join(words[10:])], ("one", folder)) == [None, None]


def test_the_first_suite_of_the_recipe_that_is_found_is_named(tmp_path: Path) -> None:
    one, two = items(tmp_path / "1", {"a": SHORT}), items(tmp_path / "2", {"a": ITEM}, {"a": SHORT})
    assert reasons([f"{ITEM} {SHORT}", ITEM], ("one", one), ("two", two)) == ["one", "two"]
    assert reasons([f"{ITEM} {SHORT}", ITEM], ("two", two), ("one", one)) == ["two", "two"]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("items.json", json.dumps({"data": [{"q": {"text": [ITEM]}}]})),
        ("items.json", json.dumps({"q": ITEM}) + "\n" + json.dumps({"q": SHORT})),
        ("items.csv", f'id,question\n1,"{ITEM}"\n'),
        ("items.txt", f"{SHORT}\n{ITEM}\n"),
    ],
)
def test_each_format_of_a_suite_is_read(name: str, data: str, tmp_path: Path) -> None:
    assert reasons([ITEM], ("one", suite(tmp_path, name, data))) == ["one"]


def test_parquet_of_a_suite_is_read(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"n": [1], "q": [[ITEM]]}), tmp_path / "items.parquet")
    assert reasons([ITEM], ("one", tmp_path)) == ["one"]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("items.jsonl", "{broken", "items.jsonl cannot be read"),
        ("items.jsonl", b"\xff", "items.jsonl cannot be read"),
        ("items.jsonl", "[" * 100_000, "items.jsonl cannot be read"),
        ("items.parquet", b"PAR1", "items.parquet cannot be read"),
        ("items.jsonl", '{"q": "four words are few"}', "no item of it has a text of 8 words or more"),
        ("task.yaml", "task: x", "no item of it has a text of 8 words or more"),
    ],
)
def test_a_suite_that_nothing_can_be_found_of_stops_the_step(
    name: str, data: bytes | str, message: str, make_run: MakeRun, tmp_path: Path
) -> None:
    source = items(tmp_path / "source", {"id": "a", "text": "text"})
    (source / "items.jsonl").rename(source / "00000.jsonl")
    parameters = {
        "sources": [{}],
        "split": {"validation_fraction": 0.5},
        "decontaminate_against": ["EvalSuite/hard"],
    }
    run = make_run("curate", parameters, {"source-0": source, "suite-0": suite(tmp_path / "suite", name, data)})
    with pytest.raises(StepError, match=f"EvalSuite/hard.*{re.escape(message)}"):
        curate.run(run)


def test_the_report_counts_by_suite_and_shows_no_item(make_run: MakeRun, tmp_path: Path) -> None:
    rows = [{"id": letter, "text": f"{letter} {letter * 3}" if letter > "c" else f"{letter}: {ITEM}"} for letter in LETTERS]
    source = items(tmp_path / "source", *rows)
    (source / "items.jsonl").rename(source / "00000.jsonl")
    parameters = {
        "sources": [{}],
        "split": {"validation_fraction": 0.5},
        "decontaminate_against": ["EvalSuite/hard", "EvalSuite/other"],
    }
    suites = {"suite-0": items(tmp_path / "0", {"q": SHORT}), "suite-1": items(tmp_path / "1", {"q": ITEM})}
    run = make_run("curate", parameters, {"source-0": source, **suites})
    curate.run(run)
    report = (run.product("report") / "report.json").read_text()
    assert json.loads(report)["removed"] == {"contaminated.other": 3}
    assert "archives" not in report


@given(
    st.lists(st.lists(st.sampled_from("abc"), max_size=30), min_size=1, max_size=4),
    st.lists(st.lists(st.sampled_from("abc"), max_size=30), min_size=1, max_size=4),
    st.integers(8, 11),
)
def test_what_goes_is_what_the_definition_says(
    tmp_path_factory: pytest.TempPathFactory, texts: list[list[str]], questions: list[list[str]], n: int
) -> None:
    def runs(words: list[str], length: int) -> set[tuple[str, ...]]:
        return {tuple(words[start : start + length]) for start in range(len(words) - length + 1)}

    wanted = set()
    for words in questions:
        if len(words) >= 8:
            wanted |= runs(words, n) if len(words) >= n else {tuple(words)}
    folder = items(tmp_path_factory.mktemp("s"), *({"q": " ".join(words)} for words in questions))
    if wanted:
        expected = [
            "s" if any(runs(words, length) & wanted for length in {len(run) for run in wanted}) else None for words in texts
        ]
        assert reasons([" ".join(words) for words in texts], ("s", folder), n=n) == expected
