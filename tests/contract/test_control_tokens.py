"""Control tokens: no text spells one, whatever a tokenizer calls them."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forge.contract.control_tokens import OWN, ControlTokens, control_tokens_of, neutralise

CHATML = ControlTokens("<|begin|>", "<|im_end|>", None, frozenset({"<|begin|>", "<|im_start|>", "<|im_end|>"}))


def added(*contents: str, **fields: Any) -> dict[str, Any]:
    return {"added_tokens": [{"content": each, "special": True, "normalized": False, **fields} for each in contents]}


@given(st.lists(st.sampled_from(["<", "|", "<|im_start|>", "<|im_", "end|>", " ", "</s>", "a", "\u2581", "<|begin|>"])))
def test_what_is_made_harmless_spells_none_and_says_so(parts: list[str]) -> None:
    text, count = CHATML.neutralise("".join(parts))
    assert not any(token in text for token in (*CHATML.others, "<s>", "</s>", "<unk>", "\u2581"))
    assert CHATML.neutralise(text) == (text, 0)
    assert (count == 0) is (text == "".join(parts))


@given(st.text(alphabet="<>/s|unk0x1A im_\u2581"))
def test_this_engines_own_are_made_harmless_as_documents_are(text: str) -> None:
    assert OWN.neutralise(text) == neutralise(text)


def test_a_space_that_breaks_one_may_not_complete_another() -> None:
    nested = ControlTokens("<a>", "<b>", None, frozenset({"[x]", "[ x]"}))
    text, count = nested.neutralise("[x]")
    assert (text, count) == ("[  x]", 2)


def test_they_are_read_from_both_files_and_those_that_documents_never_hold_are_left_out() -> None:
    config = {"bos_token": {"content": "<s>"}, "eos_token": "<|im_end|>", "unk_token": "<unk>", "added_tokens_decoder": {}}
    config["added_tokens_decoder"] = {
        "7": {"content": "<|pad|>", "special": True},
        "8": {"content": "<tool>", "special": False},
    }
    found = control_tokens_of(added("<s>", "</s>", "<unk>", "<|im_end|>"), config)
    assert found == ControlTokens("<s>", "<|im_end|>", "<unk>", frozenset({"<|im_end|>", "<|pad|>"}))
    assert found.separators == ("<s>", "<|im_end|>", "<|pad|>")
    plain = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    assert control_tokens_of(added("<s>", "</s>", "<unk>"), plain) == OWN


NAMES = {"bos_token": "<s>", "eos_token": "</s>"}
SPACES = {"type": "Sequence", "normalizers": [{"type": "Prepend"}, {"type": "Replace", "pattern": {"String": " "}}]}


@pytest.mark.parametrize(
    ("tokenizer", "config", "said"),
    [
        (added(), {"bos_token": "<s>", "eos_token": None}, "names no eos_token"),
        (added("  "), NAMES, "is blank"),
        ({**added("<|x|>", normalized=True), "normalizer": {"type": "NFKC"}}, NAMES, "normalised before"),
        ({**added("<|x|>", normalized=True), "normalizer": {"type": "Lowercase"}}, NAMES, "normalised before"),
        (
            {**added("<|x|>", normalized=True), "normalizer": {"type": "Replace", "pattern": {"String": "!"}}},
            NAMES,
            "normalised before",
        ),
    ],
)
def test_what_nobody_could_make_harmless_is_refused(tokenizer: dict[str, Any], config: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        control_tokens_of(tokenizer, config)


def test_a_tokenizer_may_have_no_token_that_begins_a_text() -> None:
    found = control_tokens_of(added("<|im_end|>"), {"bos_token": None, "eos_token": "<|im_end|>"})
    assert (found.bos, found.before_text) == (None, "<|im_end|>")
    assert found.separators == ("<|im_end|>",)


def test_a_normalizer_that_only_writes_spaces_hides_none() -> None:
    assert control_tokens_of({**added("<|x|>", normalized=True), "normalizer": SPACES}, NAMES).others == {"<|x|>"}
