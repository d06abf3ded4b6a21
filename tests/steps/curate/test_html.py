"""Pages: in which encoding they are read, and what is refused rather than read in part."""

import gzip
from pathlib import Path

import pytest

from forge.errors import StepError
from forge.steps.curate import html
from forge.steps.curate.encoding import decoded
from forge.steps.curate.formats import text_of

GERMAN = "Der Bär läuft über die große Brücke und trägt schöne Äpfel für die Mädchen im Süden. " * 6
JAPANESE = "これは日本語の文章です。とても長い文章です。" * 10
CHINESE = "这是中文文章。写得很长。" * 10
ENGLISH = "A paragraph of a page that somebody wrote, long enough to be taken for its content by those who look for it. " * 3


def page(text: str, encoding: str = "utf-8", end: bytes = b"", declared: str | None = None) -> bytes:
    head = f"<html><head><meta charset='{declared or encoding}'></head><body><article><p>{text}</p><p>"
    return head.encode(encoding) + end + "</p></article></body></html>".encode(encoding)


def read(folder: Path, data: bytes) -> str:
    (folder / "page.html").write_bytes(data)
    return text_of(folder / "page.html", "page.html")


def test_a_stray_byte_costs_one_character_and_not_the_page(tmp_path: Path) -> None:
    text = read(tmp_path, page(GERMAN, end=b"A caf\xe9 is the last word of it."))
    assert GERMAN.strip() in text
    assert "A caf\ufffd is" in text


@pytest.mark.parametrize(
    ("text", "encoding", "declared", "end"),
    [
        (GERMAN, "iso-8859-1", None, b""),
        (GERMAN, "cp1252", "utf-8", b""),  # contradicted throughout
        (GERMAN, "utf-8", "iso-8859-1", b"\xe9"),  # likewise
        (JAPANESE, "shift_jis", None, b" \x80"),
        (JAPANESE, "euc-jp", None, b" \xff"),
        (JAPANESE, "iso-2022-jp", None, b""),
        (CHINESE, "gb18030", "gb2312", b""),
        ("Zażółć gęślą jaźń. " * 20, "iso-8859-2", None, b""),
        ("Привет, мир. " * 20, "koi8-r", None, b""),
        ("Привет, мир. Это текст. " * 20, "utf-16", None, b""),
        (GERMAN, "utf-8-sig", "koi8-r", b"\xff"),
    ],
)
def test_a_page_is_read_in_the_encoding_it_declares_unless_its_bytes_say_otherwise(
    text: str, encoding: str, declared: str | None, end: bytes
) -> None:
    found = decoded(page(text, encoding, end, declared) if encoding != "utf-16" else f"<html><p>{text}".encode(encoding))
    assert found is not None
    assert text in found


def test_what_fits_no_encoding_and_what_is_compressed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StepError, match=r"page\.html: HTML in no encoding that can be told; convert it to UTF-8"):
        read(tmp_path, bytes(range(1, 256)) * 40)
    with pytest.raises(StepError, match="HTML that is compressed; unpack it"):
        read(tmp_path, gzip.compress(page(ENGLISH)))


@pytest.mark.parametrize("paragraphs", [1, 12])
def test_more_text_than_the_reader_takes_is_refused_and_not_cut(paragraphs: int, tmp_path: Path) -> None:
    """libxml2 compares strings of up to 10,000,000 bytes: a page of more came out empty, or cut there."""
    text = "<p>" + "word " * (10_100_000 // 5 // paragraphs) + "</p>"
    with pytest.raises(StepError, match=r"HTML with 1[0-9]+ bytes of text, more than 9900000; split the document"):
        read(tmp_path, page(ENGLISH + text * paragraphs))


def test_a_long_script_is_no_text(tmp_path: Path) -> None:
    script = "<script>" + "a" * (html.MAX_TEXT_BYTES + 1) + "</script>"
    assert ENGLISH.strip() in read(tmp_path, page(ENGLISH + script))


def test_html_that_is_nested_too_deep_or_has_too_many_tags_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StepError, match="HTML whose tags are nested deeper than 256"):
        read(tmp_path, b"<html><body>" + b"<div>" * 20_000 + ENGLISH.encode() + b"</div>" * 20_000)
    with pytest.raises(StepError, match="HTML with more than 200000 tags"):
        read(tmp_path, b"<p>" * 200_001)
