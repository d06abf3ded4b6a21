"""Word documents: whatever a reader sees is read, once."""

import zipfile
from pathlib import Path

import docx
import pytest
from docx.document import Document
from docx.enum.text import WD_BREAK
from docx.oxml import parse_xml
from docx.oxml.ns import nsdecls

from forge.errors import StepError
from forge.steps.curate import docx_text
from forge.steps.curate.formats import text_of

RUN = "<w:r><w:t>{}</w:t></w:r>"
BOX = """<w:r><mc:AlternateContent xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006">
<mc:Choice Requires="wps"><w:drawing><wps:wsp xmlns:wps="http://schemas.microsoft.com/office/word/2010/wordprocessingShape">
<wps:txbx><w:txbxContent><w:p><w:r><w:t>in a box</w:t></w:r></w:p></w:txbxContent></wps:txbx></wps:wsp></w:drawing></mc:Choice>
<mc:Fallback><w:pict><v:textbox xmlns:v="urn:schemas-microsoft-com:vml"><w:txbxContent><w:p><w:r><w:t>in a box</w:t></w:r></w:p>
</w:txbxContent></v:textbox></w:pict></mc:Fallback></mc:AlternateContent></w:r>"""


def read(folder: Path, document: Document) -> str:
    path = folder / "file.docx"
    document.save(str(path))
    return text_of(path, "file.docx")


@pytest.mark.parametrize(
    ("inner", "seen"),
    [
        (f"<w:ins w:id='1' w:author='a'>{RUN.format('forty')}</w:ins>", "forty"),
        (f"<w:ins w:id='1' w:author='a'><w:del w:id='2' w:author='b'>{RUN.format('forty')}</w:del></w:ins>", ""),
        ("<w:del w:id='1' w:author='a'><w:r><w:delText>forty</w:delText></w:r></w:del>", ""),
        (f"<w:moveFrom w:id='1' w:author='a'>{RUN.format('forty')}</w:moveFrom>", ""),
        (f"<w:moveTo w:id='1' w:author='a'>{RUN.format('forty')}</w:moveTo>", "forty"),
        (f"<w:sdt><w:sdtPr/><w:sdtContent>{RUN.format('forty')}</w:sdtContent></w:sdt>", "forty"),
        (f"<w:hyperlink><w:ins w:id='1' w:author='a'>{RUN.format('forty')}</w:ins></w:hyperlink>", "forty"),
        (f"<w:fldSimple w:instr='PAGE'>{RUN.format('forty')}</w:fldSimple>", "forty"),
        ("<w:r><w:instrText>PAGE</w:instrText></w:r>", ""),
        (f"<w:smartTag w:element='x'>{RUN.format('forty')}</w:smartTag>", "forty"),
    ],
)
def test_what_a_reader_sees_of_a_paragraph_is_read(inner: str, seen: str, tmp_path: Path) -> None:
    document = docx.Document()
    paragraph = document.add_paragraph("The fee is ")
    paragraph._p.extend(parse_xml(f"<w:p {nsdecls('w')}>{inner}</w:p>"))
    paragraph.add_run(" euros.")
    assert read(tmp_path, document) == f"The fee is {seen} euros."


def test_content_controls_and_text_boxes_keep_their_place(tmp_path: Path) -> None:
    document = docx.Document()
    document.add_paragraph("before")
    control = f"<w:sdt {nsdecls('w')}><w:sdtContent><w:p>{RUN.format('controlled')}</w:p></w:sdtContent></w:sdt>"
    document.element.body.insert(1, parse_xml(control))
    after = document.add_paragraph("after")
    after._p.extend(parse_xml(f"<w:p {nsdecls('w')}>{BOX}</w:p>"))
    assert read(tmp_path, document) == "before\n\ncontrolled\n\nafter\n\nin a box"


def test_cells_are_read_once_and_tables_in_tables_too(tmp_path: Path) -> None:
    document = docx.Document()
    table = document.add_table(2, 3)
    table.cell(0, 0).merge(table.cell(0, 1)).text = "wide"
    table.cell(0, 2).merge(table.cell(1, 2)).text = "tall"
    table.cell(1, 0).text = "outer"
    inner = table.cell(1, 0).add_table(1, 2)
    inner.cell(0, 0).text, inner.cell(0, 1).text = "left", "right"
    assert read(tmp_path, document) == "wide | tall\nouter\nleft | right |  | "


def test_a_deleted_row_is_left_out(tmp_path: Path) -> None:
    document = docx.Document()
    table = document.add_table(2, 1)
    table.cell(0, 0).text, table.cell(1, 0).text = "stays", "goes"
    table.rows[1]._tr.get_or_add_trPr().append(parse_xml(f"<w:del {nsdecls('w')} w:id='1' w:author='a'/>"))
    assert read(tmp_path, document) == "stays"


def test_a_plain_document_is_what_python_docx_reads(tmp_path: Path) -> None:
    document = docx.Document()
    document.add_heading("Title")
    run = document.add_paragraph("one\ttwo\nthree ").add_run("four")
    run.add_break(WD_BREAK.PAGE)
    document.add_paragraph("five", style="List Bullet")
    assert read(tmp_path, document) == "\n\n".join(paragraph.text for paragraph in document.paragraphs)


def test_more_tags_than_memory_holds_are_refused_before_a_tree_is_made(tmp_path: Path) -> None:
    document = docx.Document()
    document.save(str(tmp_path / "old.docx"))
    body = f"<w:document {nsdecls('w')}><w:body>{'<w:p/>' * docx_text.MAX_MARKS}</w:body></w:document>"
    with zipfile.ZipFile(tmp_path / "old.docx") as old, zipfile.ZipFile(tmp_path / "b.docx", "w", zipfile.ZIP_DEFLATED) as new:
        for part in old.namelist():
            new.writestr(part, body if part == "word/document.xml" else old.read(part))
    assert (tmp_path / "b.docx").stat().st_size < 100_000
    with pytest.raises(StepError, match=r"b\.docx: a DOCX with more than 2000000 tags and attributes"):
        text_of(tmp_path / "b.docx", "b.docx")


def test_a_file_within_the_text_is_refused_and_not_lost(tmp_path: Path) -> None:
    document = docx.Document()
    document.element.body.insert(0, parse_xml(f"<w:altChunk {nsdecls('w', 'r')} r:id='rId99'/>"))
    with pytest.raises(StepError, match=r"file\.docx: a DOCX that holds another file in its text"):
        read(tmp_path, document)
