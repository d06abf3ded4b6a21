"""Rows of JSON lines: what is said twice, and how a file may begin."""

import re
from pathlib import Path

import pytest

from forge.errors import StepError
from forge.steps.curate.documents import SourceKeys, read_blocks, read_documents


def read(folder: Path, data: bytes) -> dict[str, str]:
    (folder / "00000.jsonl").write_bytes(data)
    keys = SourceKeys()
    return {document.id: document.text for block in read_blocks([folder], [keys]) for document in read_documents(block, keys)}


def test_a_key_that_is_written_twice_is_refused(tmp_path: Path) -> None:
    message = "sources[0], file 00000.jsonl, line 2: the key 'text' is written twice; keep one of them"
    with pytest.raises(StepError, match=re.escape(message)):
        read(tmp_path, b'{"id": "a", "text": "x"}\n{"id": "b", "text": "lost", "text": "kept"}\n')


def test_what_a_key_of_no_interest_holds_is_nobodys_matter(tmp_path: Path) -> None:
    assert read(tmp_path, b'{"id": "a", "meta": {"n": 1, "n": 2}, "text": "x"}\n') == {"a": "x"}


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    assert read(tmp_path, b'\xef\xbb\xbf{"id": "a", "text": "x"}\n{"id": "b", "text": "y"}\n') == {"a": "x", "b": "y"}
    with pytest.raises(StepError, match="line 2: not JSON"):
        read(tmp_path, b'{"id": "a", "text": "x"}\n\xef\xbb\xbf{"id": "b", "text": "y"}\n')
