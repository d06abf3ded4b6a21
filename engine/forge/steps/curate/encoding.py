"""The bytes of a page -> its text, in the encoding that it is written in.

Invariant: what is valid UTF-8 is read as that, whatever the page declares (but ISO-2022-JP, which looks like ASCII). Else the
order is that of browsers (WHATWG, "determining the character encoding"): a byte order mark, the encoding that the page
declares, and a guess. A stray byte costs one character, which becomes U+FFFD: it never turns the rest of the page into
something else. A declaration that the bytes contradict throughout is not believed, and where nothing fits there is no text.
"""

import codecs
import re

_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_HEAD_BYTES = 4096
"""How far a declaration is looked for: browsers take the first 1,024 bytes, and pages with long comments declare later."""
_DECLARED = re.compile(
    rb"<(?:meta\b[^>]{0,512}?\bcharset|\?xml\b[^>]{0,256}?\bencoding)\s{0,8}=\s{0,8}[\"']?\s{0,8}([\w.:-]{1,40})", re.IGNORECASE
)
_AS_BROWSERS_READ = {
    "iso8859-1": "cp1252", "ascii": "cp1252", "iso8859-9": "cp1254", "iso8859-11": "cp874", "tis-620": "cp874",
    "gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932", "euc_kr": "cp949", "big5": "big5hkscs",
    "utf-16": "utf-8", "utf-16-le": "utf-8", "utf-16-be": "utf-8", "utf-7": "utf-8",
}  # fmt: skip
"""Python's name of what is declared -> of what is meant (WHATWG, "names and labels"; a declaration in ASCII is no UTF-16)."""
_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")
_STRAY = "\ufffd"
_EVIDENCE = 10
"""Characters right for one that is wrong, from which on UTF-8 is believed although the page declares something else."""


def decoded(data: bytes) -> str | None:
    """The text of a page; None where no encoding fits it."""
    for mark, name in _MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(name, "replace")
    declared = _declared(data)
    if declared == "iso2022_jp" and b"\x1b" in data:  # seven bits: it would pass for UTF-8
        return data.decode(declared, "replace")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        pass
    text, right, wrong = _tried(data, "utf-8")
    if right >= wrong * (1 if declared == "utf-8" else _EVIDENCE):
        return text
    if declared is not None and declared != "utf-8":
        text, right, wrong = _tried(data, declared)
        if right >= wrong:
            return text
    return _guessed(data)


def _declared(data: bytes) -> str | None:
    """The encoding that a page says it has, by Python's name; None where it says none that is known."""
    found = _DECLARED.search(data[:_HEAD_BYTES])
    if found is None:
        return None
    try:
        codec = codecs.lookup(found[1].decode("ascii", "ignore"))
    except LookupError:
        return None
    name = _AS_BROWSERS_READ.get(codec.name, codec.name)
    return name if codec._is_text_encoding else None  # noqa: SLF001 (it has no other name)


def _tried(data: bytes, name: str) -> tuple[str, int, int]:
    """The text, how many of its characters beyond ASCII are right, and how many bytes or sequences are not."""
    text = data.decode(name, "replace")
    wrong = text.count(_STRAY)
    return text, sum(map(len, _NOT_ASCII.findall(text))) - wrong, wrong


def _guessed(data: bytes) -> str | None:
    from trafilatura.utils import detect_encoding

    for name in detect_encoding(data):
        try:
            return data.decode(name)
        except (LookupError, UnicodeDecodeError):
            continue
    return None
