"""The curate step: what stays, what goes, and what stops it."""

import gzip
import json
import random
import re
import socket
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.steps.conftest import MakeRun, RunStep

from forge.contract.control_tokens import neutralise
from forge.errors import StepError
from forge.spec.data_recipe import Pii
from forge.steps import curate
from forge.steps.curate.redact import redact
from forge.steps.curate.words import RegexWordTokenizer

FULL = {
    "sources": [{}, {}],
    "filters": {"gopher_repetition": {}, "gopher_quality": {"max_non_alpha_words_ratio": 0.5}},
    "dedup": {"exact": True, "minhash": {}},
    "pii": {"emails": True, "ip_addresses": True, "phone_numbers": True},
    "split": {"validation_fraction": 0.2, "seed": 3},
}
WORDS = [a + b + c for a in "bdfgklmn" for b in ("ar", "el", "in", "os", "um") for c in ("a", "et", "id", "on", "ust")]
"""No digits in them: near-duplicate detection takes all numbers for equal."""


def prose(seed: int, words: int = 120) -> str:
    """Text that no filter minds and that resembles no other seed's."""
    generator = random.Random(seed)
    chosen = [generator.choice(WORDS) for _ in range(words)]
    return " ".join(f"the {word} and" if place % 9 == 0 else word for place, word in enumerate(chosen))


def source(folder: Path, rows: list[Any], name: str = "00000.jsonl") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return folder


def rows(texts: list[str]) -> list[dict[str, str]]:
    return [{"id": f"d{number}", "text": text} for number, text in enumerate(texts)]


def documents(product: Path) -> dict[str, dict[str, str]]:
    """Split -> id -> text."""
    return {
        split: {row["id"]: row["text"] for row in map(json.loads, (product / split / "00000.jsonl").open(encoding="utf-8"))}
        for split in ("train", "validation")
    }


def everything(product: Path) -> dict[str, str]:
    splits = documents(product)
    return splits["train"] | splits["validation"]


FILL = [{"id": f"fill{seed}", "text": prose(1000 + seed)} for seed in range(8)]
"""Documents that make sure that both splits hold something."""


def curated_texts(make_run: MakeRun, folder: Path, texts: list[str], **parameters: Any) -> dict[str, str]:
    """Run the step in this process; returns id -> text of what is left, fill not counted."""
    parameters = {"sources": [{}], "split": {"validation_fraction": 0.5}, **parameters}
    run = make_run("curate", parameters, {"source-0": source(folder, rows(texts) + FILL)})
    curate.run(run)
    return {name: text for name, text in everything(run.product("documents")).items() if not name.startswith("fill")}


def test_two_runs_in_two_processes_give_equal_products(handbook_source: Path, tmp_path: Path, run_step: RunStep) -> None:
    second = source(tmp_path / "second", rows([prose(seed) for seed in range(40)] + [prose(3)]), "00000.jsonl.gz")
    inputs = {"source-0": handbook_source, "source-1": second}
    one, other = run_step("curate", FULL, inputs), run_step("curate", FULL, inputs, attempt=2)
    assert one.status == other.status == 0, one.stderr + other.stderr
    assert one.digests() == other.digests()
    report = json.loads((one.product("report") / "report.json").read_text())
    assert report["sources"][1]["removed"] == {"exact_duplicate": 1}
    assert report["personal_data_replaced"]["emails"] > 10
    kept = sum(entry["kept"]["documents"] for entry in report["sources"])
    assert (
        kept
        == sum(split["documents"] for split in report["splits"].values())
        == one.metrics["documents_train"] + one.metrics["documents_validation"]
    )
    read = sum(entry["read"]["documents"] for entry in report["sources"])
    assert read == kept + sum(report["removed"].values())
    assert not list((one.folder / "scratch").iterdir())


def test_without_filters_documents_come_out_as_they_went_in(make_run: MakeRun, tmp_path: Path) -> None:
    texts = ["  leading and trailing \n\n", "CR\r\nLF\n\ttab", "NUL \x00 \u2028 \U0001f600 e\u0301", "short", "x" * 5000]
    assert curated_texts(make_run, tmp_path / "s", texts) == {f"d{number}": text for number, text in enumerate(texts)}


def test_order_is_the_reading_order_of_sources_and_files(make_run: MakeRun, tmp_path: Path) -> None:
    first = source(tmp_path / "a", [{"id": f"a{number}", "text": prose(number)} for number in range(12)])
    source(tmp_path / "a", [{"id": f"b{number}", "text": prose(100 + number)} for number in range(12)], "00001.jsonl.gz")
    second = source(tmp_path / "b", [{"key": number, "body": prose(200 + number)} for number in range(12)])
    run = make_run(
        "curate",
        {"sources": [{}, {"text_key": "body", "id_key": "key"}], "split": {"validation_fraction": 0.3}},
        {"source-0": first, "source-1": second},
    )
    curate.run(run)
    expected = (
        [f"a{number}" for number in range(12)] + [f"b{number}" for number in range(12)] + [str(number) for number in range(12)]
    )
    for split in documents(run.product("documents")).values():
        assert list(split) == [name for name in expected if name in split]


def test_membership_of_a_split_does_not_depend_on_order(make_run: MakeRun, tmp_path: Path) -> None:
    texts = [prose(seed) for seed in range(60)]
    held_out = []
    for number, order in enumerate((texts, texts[::-1])):
        run = make_run(
            "curate",
            {"sources": [{}], "split": {"validation_fraction": 0.3, "seed": 5}},
            {"source-0": source(tmp_path / str(number), rows(order))},
        )
        curate.run(run)
        held_out.append(set(documents(run.product("documents"))["validation"].values()))
    assert held_out[0] == held_out[1]
    assert 5 < len(held_out[0]) < 32


def test_of_equal_documents_the_first_stays(make_run: MakeRun, tmp_path: Path) -> None:
    texts = [prose(1), prose(2), prose(1), prose(3), prose(2), prose(1)]
    assert set(curated_texts(make_run, tmp_path / "s", texts, dedup={"exact": True})) == {"d0", "d1", "d3"}


def test_of_near_equal_documents_the_first_stays_also_in_a_chain(make_run: MakeRun, tmp_path: Path) -> None:
    long = prose(1, words=300)
    variants = [long, long + " one more", "some " + long, long.replace("barid", "barust")]
    kept = curated_texts(make_run, tmp_path / "s", [prose(2), *variants, prose(3), prose(4)], dedup={"minhash": {}})
    assert set(kept) == {"d0", "d1", "d5", "d6"}


def test_duplicates_are_found_across_sources(make_run: MakeRun, tmp_path: Path) -> None:
    inputs = {
        f"source-{number}": source(tmp_path / str(number), [{"id": f"s{number}-{seed}", "text": prose(seed)} for seed in seeds])
        for number, seeds in enumerate(([1, 2, 3, 4], [3, 5, 1]))
    }
    run = make_run("curate", {"sources": [{}, {}], "dedup": {"exact": True}, "split": {"validation_fraction": 0.5}}, inputs)
    curate.run(run)
    assert set(everything(run.product("documents"))) == {"s0-1", "s0-2", "s0-3", "s0-4", "s1-5"}


@pytest.mark.parametrize("dedup", [{"exact": True}, {"minhash": {"ngram": 3}}], ids=["exact", "minhash"])
@pytest.mark.parametrize(("edition", "left"), [({}, ["d0", "d1"]), ({"edition": 2}, ["d0"])])
def test_documents_that_are_equal_once_redacted_are_duplicates_in_the_second_edition(
    edition: dict[str, int], left: list[str], dedup: dict[str, Any], make_run: MakeRun, tmp_path: Path
) -> None:
    texts = [f"the answer for {prose(1, words=3)} by {name}@corp.com was short" for name in ("anna.b.c.d.e", "bernd.x.y.z")]
    found = curated_texts(make_run, tmp_path / "s", texts, dedup=dedup, pii={"emails": True}, **edition)
    assert list(found) == left
    assert len(set(found.values())) == 1


def test_the_report_names_the_rule_that_removed_a_document(make_run: MakeRun, tmp_path: Path) -> None:
    texts = [prose(5, words=20), "#" * 80 + " the and " * 30, "same line here\n" * 40, "   \n"]
    run = make_run(
        "curate",
        {"sources": [{}], "filters": {"gopher_repetition": {}, "gopher_quality": {}}, "split": {"validation_fraction": 0.5}},
        {"source-0": source(tmp_path / "s", rows(texts) + FILL)},
    )
    curate.run(run)
    report = json.loads((run.product("report") / "report.json").read_text())
    removed = Counter(report["removed"])
    assert removed["empty"] == 1
    assert removed["gopher_quality.short_doc"] == 1
    assert removed["gopher_repetition.dup_line_frac"] == 1
    assert removed.total() == 4
    assert report["sources"][0]["kept"]["documents"] == len(FILL)


@pytest.mark.parametrize(
    ("rule", "text", "reason"),
    [
        ("top_n_grams", " ".join(f"{word} barid dosum" for word in WORDS[:40]), "top_2_gram"),
        (
            "dup_n_grams",
            f"{prose(6, words=30)} {prose(7, words=40)} {prose(8, words=20)} {prose(7, words=40)}",
            "duplicated_5_n_grams",
        ),
    ],
)
def test_a_document_that_repeats_runs_of_words_goes_unless_the_list_is_empty(
    rule: str, text: str, reason: str, make_run: MakeRun, tmp_path: Path
) -> None:
    run = make_run(
        "curate",
        {"sources": [{}], "filters": {"gopher_repetition": {}}, "split": {"validation_fraction": 0.5}},
        {"source-0": source(tmp_path / "s", rows([text]) + FILL)},
    )
    curate.run(run)
    report = json.loads((run.product("report") / "report.json").read_text())
    assert report["removed"] == {f"gopher_repetition.{reason}": 1}
    off = {"gopher_repetition": {rule: []}}
    assert set(curated_texts(make_run, tmp_path / "off", [text], filters=off)) == {"d0"}
    high = {"gopher_repetition": {rule: [{"n": 2, "max_fraction": 0.95}]}}
    assert set(curated_texts(make_run, tmp_path / "high", [text], filters=high)) == {"d0"}


def test_personal_data_becomes_fixed_placeholders_and_never_enters_the_report(make_run: MakeRun, tmp_path: Path) -> None:
    secret = (
        "Write to jane.doe+x@mail.example-corp.org or call +49 30 1234567; host 8.8.8.8, [2606:4700::1111], not 10.0.0.1 or ::1"
    )
    run = make_run(
        "curate",
        {
            "sources": [{}],
            "pii": {"emails": True, "ip_addresses": True, "phone_numbers": True},
            "split": {"validation_fraction": 0.5},
        },
        {"source-0": source(tmp_path / "s", rows([secret]) + FILL)},
    )
    curate.run(run)
    redacted = "Write to [EMAIL] or call [PHONE_NUMBER]; host [IP_ADDRESS], [[IP_ADDRESS]], not 10.0.0.1 or ::1"
    assert everything(run.product("documents"))["d0"] == redacted
    report = (run.product("report") / "report.json").read_text()
    assert json.loads(report)["personal_data_replaced"] == {"emails": 1, "ip_addresses": 2, "phone_numbers": 1}
    assert "jane" not in report


@pytest.mark.parametrize(
    "text",
    [
        "version 1.2.3.4.5",
        "std::dead",
        "12:30:45",
        "00:1a:2b:3c:4d:5e",
        "a::b",
        "2001:db8::1",
        "@home",
        "a@b",
        "x 127.0.0.1",
        "999.1.1.1",
    ],
)
def test_what_only_looks_like_an_address_stays(text: str) -> None:
    assert redact(text, Pii(emails=True, ip_addresses=True), Counter()) == text


def test_redaction_is_linear_in_hostile_text() -> None:
    hostile = "a" * 200_000 + "@" + "b." * 50_000 + "+1 " * 30_000 + "1:" * 50_000 + "é" * 50_000
    redact(hostile, Pii(emails=True, ip_addresses=True, phone_numbers=True), Counter())


@given(st.text())
def test_no_spelling_of_a_control_token_survives(text: str) -> None:
    for hard in (text, f"<s>{text}</s>", "<" + text + ">", "<<s>s>", "<0x0<0x0A>A>"):
        once, _ = neutralise(hard)
        assert neutralise(once) == (once, 0)
        assert not any(spelling in once for spelling in ("<s>", "</s>", "<unk>", "\u2581", "<0x0A>"))


@given(st.text())
def test_words_lose_nothing_but_space(text: str) -> None:
    assert "".join(RegexWordTokenizer().word_tokenize(text)) == "".join(text.split())


def test_control_tokens_in_documents_are_neutralised_and_counted(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(
        "curate",
        {"sources": [{}], "split": {"validation_fraction": 0.5}},
        {"source-0": source(tmp_path / "s", rows(["end </s> begin <s> byte <0x0A> \u2581"]) + FILL)},
    )
    curate.run(run)
    assert everything(run.product("documents"))["d0"] == "end < /s> begin < s> byte < 0x0A> _"
    assert json.loads((run.product("report") / "report.json").read_text())["control_tokens_neutralised"] == 4


def test_no_network_is_tried(make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    run = make_run(
        "curate", {**FULL, "sources": [{}]}, {"source-0": source(tmp_path / "s", rows([prose(n) for n in range(30)]))}
    )
    curate.run(run)


GOOD = json.dumps({"id": "a", "text": "some text"}).encode() + b"\n"


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("00000.jsonl", b"", "the corpus is empty"),
        ("00000.jsonl", b"\n\n", "the corpus is empty"),
        ("00000.jsonl.gz", GOOD, "00000.jsonl.gz: corrupt gzip data after line 0"),
        ("00000.jsonl.gz", gzip.compress(GOOD * 5000, mtime=0)[:-20], "00000.jsonl.gz: corrupt gzip data"),
        ("00000.jsonl.gz", gzip.compress(GOOD * 50, mtime=0)[:-8] + b"\0" * 8, "00000.jsonl.gz: corrupt gzip data after line"),
        ("00000.jsonl", GOOD + b"{broken\n", "00000.jsonl, line 2: not JSON"),
        ("00000.jsonl", b"version https://git-lfs.github.com/spec/v1\n", "line 1: not JSON"),
        ("00000.jsonl", GOOD + b"[" * 200_000 + b"\n", "line 2: not JSON"),
        ("00000.jsonl", GOOD + b"[1]\n", "line 2: expected a JSON object, found list"),
        ("00000.jsonl", b'{"id": "a", "body": "x"}\n', "line 1: no key 'text' (keys found: body, id); name the right one in"),
        ("00000.jsonl", b'{"text": "x"}\n', "line 1: no key 'id'"),
        ("00000.jsonl", b'{"id": "a", "text": 7}\n', "line 1: 'text' holds int, expected a string"),
        ("00000.jsonl", b'{"id": "a", "text": "\xff"}\n', "line 1: not UTF-8"),
        ("00000.jsonl", b'{"id": "a", "text": "half \\ud83d"}\n', "line 1: 'text' holds a lone surrogate"),
        ("00000.csv", b"text", "00000.csv: a source holds .jsonl, .jsonl.gz, .parquet, .txt, .md, "),
    ],
)  # fmt: skip
def test_a_source_that_cannot_be_read_stops_the_step_and_is_named(
    name: str, data: bytes, expected: str, make_run: MakeRun, tmp_path: Path
) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / name).write_bytes(data)
    run = make_run("curate", {"sources": [{}], "split": {"validation_fraction": 0.5}}, {"source-0": tmp_path / "s"})
    with pytest.raises(StepError, match=re.escape(expected)):
        curate.run(run)


def test_a_line_without_end_is_refused_before_it_fills_the_memory(make_run: MakeRun, tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    with gzip.open(tmp_path / "s" / "00000.jsonl.gz", "wb", compresslevel=1) as file:
        for _ in range(70):
            file.write(b" " * 1024 * 1024)
    run = make_run("curate", {"sources": [{}], "split": {"validation_fraction": 0.5}}, {"source-0": tmp_path / "s"})
    with pytest.raises(StepError, match="line 1: longer than"):
        curate.run(run)


def test_a_corpus_that_the_filters_empty_names_the_filter(run_step: RunStep, tmp_path: Path) -> None:
    texts = [prose(seed, words=20) for seed in range(9)] + ["same line here\n" * 40]
    done = run_step("curate", FULL | {"sources": [{}]}, {"source-0": source(tmp_path / "s", rows(texts))})
    assert done.status == 1
    assert done.failure["cause"] == "input"
    assert "nothing is left of 10 documents; gopher_quality.short_doc removed most (9)" in done.failure["message"]
    assert not (done.folder / "result.json").exists()
    assert "Traceback" not in done.stderr


def test_where_all_documents_are_equal_no_fraction_is_blamed(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(
        "curate",
        {"sources": [{}], "split": {"validation_fraction": 0.3}},
        {"source-0": source(tmp_path / "s", rows(["same"] * 60))},
    )
    with pytest.raises(StepError, match=r"none of 60 documents fell into the [a-z]+ split: they all have the same text"):
        curate.run(run)


def test_a_split_without_documents_is_refused(make_run: MakeRun, tmp_path: Path) -> None:
    folder = source(tmp_path / "s", rows([prose(1)]))
    run = make_run("curate", {"sources": [{}], "split": {"validation_fraction": 0.000001}}, {"source-0": folder})
    with pytest.raises(StepError, match="none of 1 documents fell into the validation split"):
        curate.run(run)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a device without room")
def test_a_full_disk_is_a_fault_of_the_machine(run_step: RunStep, tmp_path: Path) -> None:
    train = tmp_path / "run-0" / "output" / "documents" / "train"
    train.mkdir(parents=True)
    (train / "00000.jsonl").symlink_to("/dev/full")
    texts = [prose(seed) for seed in range(30)]
    done = run_step(
        "curate", {"sources": [{}], "split": {"validation_fraction": 0.3}}, {"source-0": source(tmp_path / "s", rows(texts))}
    )
    assert done.status == 1
    assert done.failure["cause"] == "resource"
    assert "No space left on device" in done.failure["message"]
