"""Patterns that RE2 and Python read differently are refused; those that both read alike are not."""

import pytest
from pydantic import ValidationError

from forge.spec.inference_policy import Redaction
from forge.spec.pattern import beginning_of_match, widest_match


def check(pattern: str) -> None:
    Redaction(name="name", pattern=pattern, replacement="#")


@pytest.mark.parametrize(
    ("pattern", "width"),
    [("[0-9]{4,6}", 6), ("(a)(b)(c)(d)(e)(f)(g)", 7), (r"[\x04-\x06]a", 2), ("(?i)abc|d", 3), (r"\x{", None), ("a{0,3}b", 4)],
)
def test_counts_group_numbers_and_control_characters_are_no_anchors(pattern: str, width: int | None) -> None:
    if width is None:
        with pytest.raises(ValidationError, match="not a valid"):
            check(pattern)
    else:
        check(pattern)
        assert widest_match(pattern) == width


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("(a{,1}){1,200}", "lower bound"),  # RE2: a literal text of five characters, 1,000 in all; Python: 200
        ("(a{1,02}){1,100}", "leading zeros"),
        ("(a{01}){1,100}", "leading zeros"),
        ("([[:alpha:](?#x]{1,1000})[[:alpha:])]", "POSIX"),  # Python reads a comment where RE2 reads a class
        ("()()()()()()()()()()()()a" + r"(\12\12){1,200}", "RE2 does not know"),  # RE2: a newline; Python: a reference
        ("a{1,300}", "bound its repetitions"),
        ("a+", "bound its repetitions"),
        ("^a", "anchors"),
        (r"a\b", "anchors"),
        ("a(?=b)", "anchors"),
        ("(?x)a b", "RE2"),
        ("(?>a)", "RE2"),
        ("a++", "RE2"),
        ("a{0,5}", "empty text"),
        ("\ud83d", "unicode"),
        ("(" * 500 + "a" + ")" * 500, "recursion"),
        ("(" * 50 + "a" + ")" * 50, "nests"),
    ],
)
def test_unbounded_anchored_or_ambiguous_patterns_are_refused(pattern: str, why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        check(pattern)


def test_an_empty_replacement_is_refused_because_it_could_make_a_match_anew() -> None:
    with pytest.raises(ValidationError):
        Redaction(name="name", pattern="ab", replacement="")


def test_beginnings_are_proper() -> None:
    import re2

    beginning = re2.compile(beginning_of_match("ab{1,2}"))
    assert [text for text in ("", "a", "ab", "abb", "b", "abc") if beginning.fullmatch(text)] == ["", "a", "ab"]
