"""The fast parser reads as the reference parser does: values, places and refusals."""

import subprocess
import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.conftest import SPECS

from forge.spec import composer
from forge.spec.document import Document, read_by_reference, read_documents

# Everything in which YAML parsers are known to differ from each other, and ordinary text around it.
TOKENS = [
    "a", "b: ", "c", "- ", "? ", ": ", ":", "\n", "\n  ", "\n    ", "[", "]", "{", "}", ",", ", ", "&x ", "*x", "*x ",
    "!!str ", "! ", "!t ", "'", '"', "\\n", "\\", "|", "|\n  ", ">-\n  ", "|+\n", "|2\n", "#", " #c", "---\n", "---",
    "...\n", "%YAML 1.1\n", "~", "null", "yes", "on", "0o7", "012", "1_000", "1e3", ".5", ".inf", "2026-01-01", "0x1f",
    "<<: ", "<<", "=", "é", "中", "-", "--", "@", "`", "  ", "\n\n", "\n \n", "''", '""', "\x7f", "\xa0", "http://x",
    "a:b", "a#b", "?a", "-a", ":a", "1", "true", "1:30", "\n- ", "\nk: ", "\nk:\n", "\nk:\n- x\n", '"a\n b"', "'a\n\n b'",
    "\t", "\r\n", "\x85", "\u2028", "\ufeff", "\U0001f600", "0b1", "+1", "-.5e3", "1.e+2", "!=", "1__", "_1", "\u200b",
]  # fmt: skip
soup = st.lists(st.sampled_from(TOKENS), max_size=12).map("".join)


@st.composite
def edited_specs(draw: st.DrawFn) -> str:
    text = draw(st.sampled_from(sorted(SPECS.values())))
    for _ in range(draw(st.integers(1, 3))):
        begin = draw(st.integers(0, len(text)))
        end = min(len(text), begin + draw(st.integers(0, 5)))
        text = text[:begin] + draw(st.sampled_from(["", *TOKENS])) + text[end:]
    return text


def seen(documents: list[Document]) -> str:
    return repr([(document.value, document.keys, document.values) for document in documents])


@settings(max_examples=1500, deadline=None)
@given(soup | edited_specs())
@example("|+\n---")
@example("|\n  \n    ")
@example("b: ")
@example("!!str &x ")
@example("2026-01-01: x")
@example(" &a %YAML 1.1\nx")
@example('["":a"]')
@example("{'a':[b]}")
def test_both_parsers_read_the_same(text: str) -> None:
    fast, slow = read_documents("x.yaml", text.encode()), read_by_reference("x.yaml", text.encode().decode("utf-8-sig"))
    assert (seen(fast[0]), fast[1]) == (seen(slow[0]), slow[1])


def test_ordinary_specs_take_the_fast_way() -> None:
    for text in SPECS.values():
        assert composer.compose(text) is not None


def test_the_slow_parser_is_not_even_loaded_for_a_valid_spec() -> None:
    code = (
        "import sys; from forge.spec.document import read_documents; read_documents('x', b'a: [1, two]');"
        "sys.exit('ruamel.yaml' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("text", ["[", "- ", "? ", "{a: ", "a:\n", "&a [", "[[{a: "])
def test_no_nesting_ends_the_process(text: str) -> None:
    """libyaml's composer follows nesting on the C stack: 200,000 levels would end the process with a signal."""
    code = f"from forge.spec.composer import compose; print(compose({text!r} * 200_000))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, "None\n")
