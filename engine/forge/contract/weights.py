"""Which files weights and checkpoints may hold: those that run no code when somebody loads them.

``.bin``, ``.pt`` and ``.pkl`` are pickles, which run what they say; ``.py`` is a program that ``trust_remote_code`` runs. A
list of what is allowed, not of what is known to be bad: a format nobody thought of is refused. A name can lie, so the bytes
are looked at too: tensors have a header that fits, JSON parses, text is text, and none of them is a pickle of any protocol.
"""

import json
import pickletools

from forge.canonical import MAX_INTEGER

HEAD_BYTES = 4096
"""How much of a file of tensors ``why_refused`` looks at; see ``bytes_looked_at``."""
SUFFIXES = (".safetensors", ".json", ".jinja", ".txt", ".model")
"""Tensors, configurations, chat templates, vocabularies (``merges.txt``) and SentencePiece models."""
_MOST_HEADER_BYTES = 100_000_000
"""safetensors refuses a longer header."""
_MOST_OTHER_BYTES = 256 * 1024 * 1024
"""Of everything but tensors; it is read whole. The largest tokenizers have a tenth of that."""
_CODE = {
    b"\x80": "a pickle",
    b"PK\x03\x04": "a zip archive, as torch.save writes around a pickle",
    b"\x7fELF": "a program",
    b"\x1f\x8b": "compressed by gzip",
}
_TAR, _TAR_AT = b"ustar", 257
_CALLS = {"GLOBAL", "STACK_GLOBAL", "INST", "OBJ", "REDUCE", "NEWOBJ", "NEWOBJ_EX", "BUILD", "EXT1", "EXT2", "EXT4"}
"""What a pickle runs code by, or names it."""
_TEXT_CONTROLS = frozenset("\t\n\r\f\v")


def bytes_looked_at(path: str, size: int) -> int:
    """How many of a file's first bytes ``why_refused`` has to be given."""
    return HEAD_BYTES if path.endswith(".safetensors") else min(size, _MOST_OTHER_BYTES)


def why_refused(path: str, size: int, head: bytes) -> str | None:
    """Why a file may not lie among weights, from its path, size and first bytes (``bytes_looked_at``); None when it may."""
    if not path.endswith(SUFFIXES):
        allowed = ", ".join(SUFFIXES)
        return f"{path} is no file that weights may hold ({allowed}): other formats can run code when they are loaded"
    if path.endswith(".safetensors"):
        header = int.from_bytes(head[:8], "little") if len(head) > 8 else MAX_INTEGER
        if header > min(size - 8, _MOST_HEADER_BYTES) or head[8:9] != b"{":
            return f"{path} is not in the safetensors format, whatever its name says"
        return None
    if size > _MOST_OTHER_BYTES:
        return f"{path} has {size:,} bytes, and at most {_MOST_OTHER_BYTES:,} are looked at: weights are safetensors"
    found = _what_it_is(head) or (None if path.endswith(".model") else _why_not_text(head, is_json=path.endswith(".json")))
    return f"{path} is {found}, whatever its name says" if found is not None else None


def _what_it_is(data: bytes) -> str | None:
    for magic, found in _CODE.items():
        if data.startswith(magic):
            return found
    if data[_TAR_AT:].startswith(_TAR):
        return "a tar archive"
    return "a pickle" if _is_pickle(data) else None


def _is_pickle(data: bytes) -> bool:
    """Whether the bytes begin with a program for the unpickler that calls something; protocols 0 and 1 have no magic."""
    calls = False
    try:
        for opcode, _, _ in pickletools.genops(data):
            calls = calls or opcode.name in _CALLS
    except (ValueError, IndexError, OverflowError):
        return False
    return calls


def _why_not_text(data: bytes, *, is_json: bool) -> str | None:
    try:
        text = data.decode()
        if is_json:
            json.loads(text)
    except UnicodeDecodeError:
        return "not text in UTF-8"
    except (ValueError, RecursionError) as error:
        return f"not JSON ({str(error)[:100]})"
    if not is_json and any(character < " " and character not in _TEXT_CONTROLS for character in text):
        return "not text: it holds control characters"
    return None
