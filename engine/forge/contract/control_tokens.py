"""The tokens that are not text, and how text that looks like them is made harmless.

Invariant: no training document and no request to a served model holds the literal spelling of a control token. A tokenizer
would turn such a spelling into the token itself (a document could end itself, a message forge another role's), and decoding
would not give the text back. The three special tokens of this engine's tokenizers
and the 256 byte pieces are spelled ``<...>``: a space after the bracket breaks the spelling and stays legible. U+2581 stands
for a space inside the vocabulary, so in text it becomes an underscore.

A tokenizer that came with a base has control tokens of its own, which only its files tell. Documents are curated before
anybody knows it: their tokens are made with such spellings as the text they are (``encode_special_tokens``). What goes through
a chat template, in training and in serving, is made harmless as above.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

UNK_TOKEN, UNK_ID = "<unk>", 0
BOS_TOKEN, BOS_ID = "<s>", 1
EOS_TOKEN, EOS_ID = "</s>", 2
SPACE_MARK = "\u2581"
"""Stands for a space in the pieces of a vocabulary (sentencepiece's convention)."""

_SPELLING = re.compile(rf"<(/?s|unk|0x[0-9A-Fa-f]{{2}})>|{SPACE_MARK}")
_SPACES_ONLY = ("Prepend", "Replace")
"""Kinds of normalizer that touch spaces alone, as sentencepiece's conversion has them."""


@dataclass(frozen=True)
class ControlTokens:
    """The control tokens of one tokenizer, by their spelling."""

    bos: str | None
    """Begins a text; None: a text begins with its own first token (Qwen's do)."""
    eos: str
    """Ends a document, and an answer."""
    unk: str | None = None
    others: frozenset[str] = frozenset()
    """All that documents and messages of this engine's own tokenizers cannot hold anyway are left out."""

    @property
    def before_text(self) -> str:
        """What stands before a document's first token: ``bos``, or the end of another document."""
        return self.eos if self.bos is None else self.bos

    @property
    def separators(self) -> tuple[str, ...]:
        """Those that a chat template may part turns by; contents can spell none of them."""
        return (*dict.fromkeys((self.before_text, self.eos)), *sorted(self.others - {self.bos, self.eos}))

    def neutralise(self, text: str) -> tuple[str, int]:
        """The text without spellings of control tokens, and how many there were."""
        text, count = neutralise(text)
        while self._spelling is not None:  # a space that breaks one could complete another that holds a space
            text, more = self._spelling.subn(lambda match: f"{match[0][0]} {match[0][1:]}" if len(match[0]) > 1 else " ", text)
            count += more
            if not more:
                break
        return text, count

    @cached_property
    def _spelling(self) -> re.Pattern[str] | None:
        longest_first = sorted(self.others, key=lambda token: (-len(token), token))
        return re.compile("|".join(map(re.escape, longest_first))) if longest_first else None


OWN = ControlTokens(BOS_TOKEN, EOS_TOKEN, UNK_TOKEN)
"""Those of the tokenizers that this engine trains."""


def neutralise(text: str) -> tuple[str, int]:
    """The text without spellings of this engine's own control tokens, and how many there were."""
    return _SPELLING.subn(lambda match: f"< {match[1]}>" if match[1] else "_", text)


NAMED_FILE = "special_tokens_map.json"
"""May be there, and names what ``tokenizer_config.json`` does not."""


def control_tokens_of(
    tokenizer: Mapping[str, Any], config: Mapping[str, Any], named: Mapping[str, Any] | None = None
) -> ControlTokens:
    """Those of ``tokenizer.json``, ``tokenizer_config.json`` and, as transformers reads it, ``special_tokens_map.json``.

    Raises ValueError for what nobody could make harmless.
    """
    config = {**(named or {}), **config}
    decoder = config.get("added_tokens_decoder")
    listed = [*(tokenizer.get("added_tokens") or []), *(decoder.values() if isinstance(decoder, dict) else ())]
    special = {str(each.get("content")): each for each in listed if isinstance(each, dict) and each.get("special")}
    bos, eos, unk = (_named(config, f"{name}_token") for name in ("bos", "eos", "unk"))
    if eos is None:
        raise ValueError("it names no eos_token: documents and answers end with it")
    others = frozenset(token for token in {*special, bos, eos} if token and _SPELLING.fullmatch(token) is None)
    hidden = sorted(token for token in others if special.get(token, {}).get("normalized"))
    if hidden and not _leaves_text_alone(tokenizer.get("normalizer")):
        raise ValueError(
            f"its control token {hidden[0]!r} is looked for in text that was normalised before: other spellings of it would "
            "pass for it"
        )
    empty = sorted(token for token in others if not token.strip())
    if empty:
        raise ValueError(f"its control token {empty[0]!r} is blank: no text is without it")
    return ControlTokens(bos, eos, unk, others)


def _named(config: Mapping[str, Any], name: str) -> str | None:
    token = config.get(name)
    found = token.get("content") if isinstance(token, dict) else token
    return found if isinstance(found, str) and found else None


def _leaves_text_alone(normalizer: Any) -> bool:
    """Whether a normalizer changes nothing but how spaces are written."""
    if normalizer is None:
        return True
    if not isinstance(normalizer, dict):
        return False
    if normalizer.get("type") == "Sequence":
        return all(_leaves_text_alone(each) for each in normalizer.get("normalizers") or ())
    if normalizer.get("type") == "Replace" and normalizer.get("pattern") != {"String": " "}:
        return False
    return normalizer.get("type") in _SPACES_ONLY
