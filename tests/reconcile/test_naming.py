"""The files that a step's message is about, by the names of whoever has to mend them."""

import pytest

from forge.reconcile.naming import named_files

MANUALS = {f"{number:05d}.pdf": f"corpus/manuals/m{number}.pdf" for number in range(100)}
INPUTS = {"source-0": MANUALS, "source-10": {"00057.pdf": "corpus/other.pdf"}, "suite-0": {"a.jsonl": "evals/a.jsonl"}}
FETCHED = {
    "source-1": "https://host/library.git",
    "source-2/0": "https://host/a.parquet",
    "source-2/1": "https://host/b.parquet",
}


@pytest.mark.parametrize(
    ("message", "rows"),
    [
        ("sources[0], file 00057.pdf: the PDF is encrypted", ["source-0/00057.pdf is corpus/manuals/m57.pdf"]),
        ("sources[10], file 00057.pdf: the PDF is encrypted", ["source-10/00057.pdf is corpus/other.pdf"]),
        ("sources[1], file src/a.py: not UTF-8", ["source-1 is https://host/library.git"]),
        ("sources[2], file 000001.parquet, row 4: no text", ["source-2/1 is https://host/b.parquet"]),
        ("sources[2].files[0]: the host is away", ["source-2/0 is https://host/a.parquet"]),
        ("EvalSuite/x: a.jsonl cannot be read", ["suite-0/a.jsonl is evals/a.jsonl"]),
    ],
)
def test_only_the_file_that_a_message_names_is_told(message: str, rows: list[str]) -> None:
    assert named_files(message, INPUTS, FETCHED) == rows


def test_without_a_name_the_first_few_are_told_and_how_many_there_are() -> None:
    rows = named_files("nothing is left of 100 documents", INPUTS, FETCHED)
    assert rows[0] == "source-0/00000.pdf is corpus/manuals/m0.pdf"
    assert rows[-1] == "and 100 more: 105 files and addresses in all"
    assert len(rows) == 6
    assert named_files("nothing", {}, {"source-1": "https://host"}) == ["source-1 is https://host"]
