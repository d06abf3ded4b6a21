"""The tokens that are not text, and how text that looks like them is made harmless.

Invariant: no training document and no request to a served model holds the literal spelling of a control token. A tokenizer
would turn such a spelling into the token itself (a document could end itself, a message forge another role's), and decoding
would not give the text back. The three special tokens
and the 256 byte pieces are spelled ``<...>``: a space after the bracket breaks the spelling and stays legible. U+2581 stands
for a space inside the vocabulary, so in text it becomes an underscore.
"""

import re

UNK_TOKEN, UNK_ID = "<unk>", 0
BOS_TOKEN, BOS_ID = "<s>", 1
EOS_TOKEN, EOS_ID = "</s>", 2
SPACE_MARK = "\u2581"
"""Stands for a space in the pieces of a vocabulary (sentencepiece's convention)."""

_SPELLING = re.compile(rf"<(/?s|unk|0x[0-9A-Fa-f]{{2}})>|{SPACE_MARK}")


def neutralise(text: str) -> tuple[str, int]:
    """The text without spellings of control tokens, and how many there were."""
    return _SPELLING.subn(lambda match: f"< {match[1]}>" if match[1] else "_", text)
