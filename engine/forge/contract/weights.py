"""Which files weights and checkpoints may hold: those that run no code when somebody loads them.

``.bin``, ``.pt`` and ``.pkl`` are pickles, which run what they say; ``.py`` is a program that ``trust_remote_code`` runs. A
list of what is allowed, not of what is known to be bad: a format nobody thought of is refused. A name can lie, so the first
bytes of a file are looked at too.
"""

from forge.canonical import MAX_INTEGER

HEAD_BYTES = 4096
"""How much of a file ``why_refused`` looks at."""
SUFFIXES = (".safetensors", ".json", ".jinja", ".txt", ".model")
"""Tensors, configurations, chat templates, vocabularies (``merges.txt``) and SentencePiece models."""
_MOST_HEADER_BYTES = 100_000_000
"""safetensors refuses a longer header."""
_CODE = {b"\x80": "a pickle", b"PK\x03\x04": "a zip archive, as torch.save writes around a pickle", b"\x7fELF": "a program"}


def why_refused(path: str, size: int, head: bytes) -> str | None:
    """Why a file may not lie among weights, from its path, size and first bytes; None when it may."""
    if not path.endswith(SUFFIXES):
        allowed = ", ".join(SUFFIXES)
        return f"{path} is no file that weights may hold ({allowed}): other formats can run code when they are loaded"
    if path.endswith(".safetensors"):
        header = int.from_bytes(head[:8], "little") if len(head) > 8 else MAX_INTEGER
        if header > min(size - 8, _MOST_HEADER_BYTES) or head[8:9] != b"{":
            return f"{path} is not in the safetensors format, whatever its name says"
        return None
    for magic, found in _CODE.items():
        if head.startswith(magic):
            return f"{path} is {found}, whatever its name says"
    return None
