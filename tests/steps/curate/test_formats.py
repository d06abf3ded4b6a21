"""Files that are no JSON lines: what is read of them, and what stops the step."""

import io
import json
import re
import zipfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import docx
import pyarrow
import pyarrow.parquet
import pytest
from pypdf import PdfWriter
from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject
from tests.steps.conftest import MakeRun

from forge.errors import StepError
from forge.steps import curate
from forge.steps.curate import documents, docx_text, formats, parquet

TEXT = "A paragraph of a page that somebody wrote, long enough to be taken for its content by those who look for it. " * 3
HTML = (
    "<html><head><title>Title</title><script>var x = 1</script></head><body><nav><a href='/'>Home</a></nav>"
    f"<article><p>{TEXT}</p><p>Another, {TEXT}</p></article></body></html>"
)
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def read(folder: Path, keys: documents.SourceKeys | None = None) -> dict[str, str]:
    """Id -> text of all documents of one source."""
    keys = keys or documents.SourceKeys()
    blocks = documents.read_blocks([folder], [keys])
    return {document.id: document.text for block in blocks for document in documents.read_documents(block, keys)}


def one(folder: Path, name: str, data: bytes | str) -> dict[str, str]:
    (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)
    return read(folder)


def pdf(*pages: str, password: str | None = None) -> bytes:
    writer = PdfWriter()
    for text in pages:
        page = writer.add_blank_page(300, 300)
        font = DictionaryObject(
            {
                NameObject("/Type"): NameObject("/Font"),
                NameObject("/Subtype"): NameObject("/Type1"),
                NameObject("/BaseFont"): NameObject("/Helvetica"),
            }
        )
        fonts = DictionaryObject({NameObject("/F1"): font})
        page[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): fonts})
        stream = DecodedStreamObject()
        stream.set_data(f"BT /F1 12 Tf 20 200 Td ({text}) Tj ET".encode())
        page[NameObject("/Contents")] = writer._add_object(stream)
    if password is not None:
        writer.encrypt(password)
    found = io.BytesIO()
    writer.write(found)
    return found.getvalue()


def word(*paragraphs: str, replaced: dict[str, bytes] | None = None) -> bytes:
    document = docx.Document()
    for paragraph in paragraphs:
        document.add_paragraph(paragraph)
    table = document.add_table(1, 2)
    table.rows[0].cells[0].text, table.rows[0].cells[1].text = "left", "right"
    document.add_paragraph("The end.")
    found = io.BytesIO()
    document.save(found)
    if replaced is None:
        return found.getvalue()
    changed = io.BytesIO()
    with zipfile.ZipFile(found) as old, zipfile.ZipFile(changed, "w", zipfile.ZIP_DEFLATED) as new:
        for part in old.namelist():
            new.writestr(part, replaced.get(part, old.read(part)))
    return changed.getvalue()


@pytest.mark.parametrize("suffix", ["txt", "md", "markdown"])
def test_text_and_markdown_stay_as_they_are(suffix: str, tmp_path: Path) -> None:
    text = "# Title\r\n\n- *one*\n\t`two` & <b>three</b> \u2028 é"
    assert one(tmp_path, f"00003.{suffix}", b"\xef\xbb\xbf" + text.encode()) == {f"0/00003.{suffix}": text}


def test_of_html_the_content_is_read_and_not_what_is_around_it(tmp_path: Path) -> None:
    (text,) = one(tmp_path, "00000.html", HTML).values()
    assert TEXT.strip() in text
    assert "var x" not in text
    assert "Home" not in text
    assert one(tmp_path, "00000.html", " ") == {"0/00000.html": ""}


def test_the_pages_of_a_pdf_follow_each_other(tmp_path: Path) -> None:
    assert one(tmp_path, "00000.pdf", pdf("The first page.", "And another.")) == {
        "0/00000.pdf": "The first page.\n\nAnd another."
    }


def test_paragraphs_and_tables_of_a_word_document_keep_their_order(tmp_path: Path) -> None:
    assert one(tmp_path, "00000.docx", word("First.", "", "Second.")) == {
        "0/00000.docx": "First.\n\nSecond.\n\nleft | right\n\nThe end."
    }


ENTITY = b"""<?xml version="1.0"?><!DOCTYPE w [<!ENTITY leak SYSTEM "file:///etc/hostname">]>
<w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"><w:body>
<w:p><w:r><w:t>before &leak; after</w:t></w:r></w:p></w:body></w:document>"""
LAUGHS = b"""<?xml version="1.0"?><!DOCTYPE w [<!ENTITY a "%s">%s]>
<w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"><w:body>
<w:p><w:r><w:t>&z;</w:t></w:r></w:p></w:body></w:document>""" % (
    b"ha" * 50,
    b"".join(b'<!ENTITY %c "%s">' % (ord(new), (b"&%c;" % ord(old)) * 20) for old, new in pairwise(LETTERS)),
)


def test_an_external_entity_of_a_word_document_is_not_read(tmp_path: Path) -> None:
    secret = Path("/etc/hostname").read_text().strip() if Path("/etc/hostname").exists() else "localhost"
    (text,) = one(tmp_path, "00000.docx", word(replaced={"word/document.xml": ENTITY})).values()
    assert secret not in text
    assert text.startswith("before")


def test_an_entity_that_grows_without_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StepError, match=r"a DOCX that cannot be read: .*entity"):
        one(tmp_path, "00000.docx", word(replaced={"word/document.xml": LAUGHS}))


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("00000.txt", b"\xff\xfe", "sources[0], file 00000.txt: not UTF-8"),
        ("00000.pdf", b"", "a PDF that cannot be read"),
        ("00000.pdf", b"%PDF-1.7\nnothing", "a PDF that cannot be read"),
        ("00000.pdf", pdf("Page.")[:300], "a PDF that cannot be read"),
        ("00000.pdf", pdf("Page.", password="secret"), "the PDF is encrypted; save it without a password"),
        ("00000.pdf", pdf("Page.", password=""), "the PDF is encrypted; save it without a password"),
        ("00000.docx", b"PK\x03\x04", "a DOCX that cannot be read"),
        ("00000.docx", b"\xd0\xcf\x11\xe0", "a DOCX that cannot be read"),  # how an encrypted one begins
        ("00000.docx", word(replaced={"word/document.xml": b"<w:document"}), "a DOCX that cannot be read"),
        ("00000.parquet", b"", "a parquet file that cannot be read"),
        ("00000.parquet", b"PAR1 nothing PAR1", "a parquet file that cannot be read"),
        ("00000.exe", b"MZ", "a source holds .jsonl, .jsonl.gz, .parquet, .txt"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_what_it_says_is_named(name: str, data: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(StepError, match=re.escape(message)):
        one(tmp_path, name, data)


def test_a_word_document_that_unfolds_without_end_is_refused_before_it_does(tmp_path: Path) -> None:
    bomb = word(replaced={"word/styles.xml": b" " * (docx_text.MAX_UNFOLDED_BYTES + 1)})
    assert len(bomb) < 1_000_000
    with pytest.raises(StepError, match="a DOCX that unfolds to "):
        one(tmp_path, "00000.docx", bomb)


def test_a_file_that_is_too_large_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "00000.html").open("wb") as file:
        file.truncate(formats.MAX_FILE_BYTES + 1)
    with pytest.raises(StepError, match="larger than 67108864 bytes; split the document"):
        read(tmp_path)


def table(folder: Path, name: str = "00000.parquet", **columns: Any) -> Path:
    folder.mkdir(exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / name, row_group_size=3)
    return folder


def test_rows_of_parquet_are_documents_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "_ROWS_AT_ONCE", 2)
    monkeypatch.setattr(parquet, "_BLOCK_ROWS", 4)
    folder = table(tmp_path, id=list(range(8)), body=[f"text {number}" for number in range(8)], other=[[1]] * 8)
    assert list(read(folder, documents.SourceKeys(text="body")).items()) == [(str(n), f"text {n}") for n in range(8)]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"id": ["a"], "body": ["x"]},
            "no column 'text' (columns found: id, body); name the right one in the source's text_key",
        ),
        ({"text": ["a"]}, "no column 'id'"),
        ({"id": ["a"], "text": [1]}, "the column 'text' holds int64, expected text"),
        ({"id": ["a"], "text": [["x"]]}, "the column 'text' holds list<"),
        ({"id": [1.5], "text": ["x"]}, "the column 'id' holds double, expected text"),
        ({"id": ["a", "b", "c", "d"], "text": ["x", "y", "z", None]}, "row 4: 'text' holds NoneType, expected a string"),
    ],
)
def test_a_parquet_file_with_another_schema_is_named(columns: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(StepError, match=re.escape(message)):
        read(table(tmp_path, **columns))


def test_a_block_of_parquet_is_bounded_by_bytes(tmp_path: Path) -> None:
    """Equal values are stored once: 256 rows of a text of 2 MB are a file of 2 kB, and were one block of 512 MB."""
    text = "lorem ipsum dolor " * 110_000
    pyarrow.parquet.write_table(
        pyarrow.table({"id": list(map(str, range(256))), "text": [text] * 256}), tmp_path / "00000.parquet", compression="zstd"
    )
    assert (tmp_path / "00000.parquet").stat().st_size < 10_000
    blocks = list(documents.read_blocks([tmp_path], [documents.SourceKeys()]))
    assert [block.first for block in blocks] == list(range(1, 256, 8))
    assert max(block.rows.nbytes for block in blocks) < 17_000_000


def test_a_page_of_parquet_that_unfolds_without_end_is_refused(tmp_path: Path) -> None:
    text = "lorem ipsum dolor " * 110_000
    table = pyarrow.table({"id": list(map(str, range(160))), "text": [text] * 160})
    pyarrow.parquet.write_table(table, tmp_path / "00000.parquet", compression="zstd", use_dictionary=False)
    with pytest.raises(
        StepError, match=r"file 00000\.parquet: 'text' of row group 0 unfolds from [0-9]+ bytes to 3[0-9]{8}: take"
    ):
        read(tmp_path)


def test_a_source_of_several_kinds_is_curated_alike_by_any_number_of_processes(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curate, "BLOCK_BYTES", 1000)
    folder = table(tmp_path / "s", id=list(LETTERS), text=[f"{letter} text of its own" for letter in LETTERS])
    (folder / "00001.html").write_text(HTML)
    (folder / "00002.pdf").write_bytes(pdf("A page."))
    (folder / "00003.docx").write_bytes(word("A paragraph."))
    (folder / "00004.md").write_text("# Title\n")
    (folder / "00005.pdf").write_bytes(pdf(""))
    (folder / "00006.jsonl").write_text(json.dumps({"id": "last", "text": "line"}) + "\n")
    found = []
    for threads in (1, 3):
        run = make_run("curate", {"sources": [{}], "split": {"validation_fraction": 0.3}}, {"source-0": folder})
        run.request = run.request.model_copy(
            update={"resources": run.request.resources.model_copy(update={"threads": threads})}
        )
        curate.run(run)
        found.append({path.name: path.read_bytes() for path in run.product("documents").rglob("*.jsonl")})
        report = json.loads((run.product("report") / "report.json").read_text())
        assert report["removed"] == {"empty": 1}
        assert report["splits"]["train"]["documents"] + report["splits"]["validation"]["documents"] == 31
    assert found[0] == found[1]
