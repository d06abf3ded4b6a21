"""A stream is redacted exactly as its whole text, however it is split."""

import re2
from hypothesis import example, given, settings
from hypothesis import strategies as st

from forge.serve.redaction import StreamRedactor, compile_redactions, redact
from forge.spec.inference_policy import Redaction
from forge.spec.pattern import as_re2, beginning_of_match, widest_match

EMAIL = r"[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9.-]{1,128}\.[A-Za-z]{2,24}"
IPV4 = r"[0-9]{1,3}(\.[0-9]{1,3}){3}"
ALPHABET = "ab.@é€😀\n"

atoms = st.sampled_from(
    ["a", "b", r"\.", "@", "é", "😀", ".", "[ab]", "[^a]", r"\d", r"\w", r"[\s@]", "(?i:B)", "(?s:.)", "aba", "[a-é]"]
)


def _extend(patterns: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    bounds = st.tuples(st.integers(0, 2), st.integers(0, 2)).map(lambda pair: (pair[0], sum(pair)))
    return st.one_of(
        st.lists(patterns, min_size=1, max_size=3).map("".join),
        st.lists(patterns, min_size=1, max_size=3).map(lambda branches: "(?:" + "|".join(branches) + ")"),
        st.tuples(patterns, bounds, st.sampled_from(["", "?"])).map(
            lambda part: f"({part[0]}){{{part[1][0]},{part[1][1]}}}{part[2]}"
        ),
    )


def _is_usable(pattern: str) -> bool:
    try:
        redaction(pattern)
    except ValueError:
        return False
    return True


def redaction(pattern: str, replacement: str = "#", name: str = "name") -> Redaction:
    return Redaction(name=name, pattern=pattern, replacement=replacement)


patterns = st.recursive(atoms, _extend, max_leaves=6).filter(_is_usable)
rules = st.lists(st.tuples(patterns, st.sampled_from(["#", "a", "ab", r"\1", "é@"])), min_size=1, max_size=3)
texts = st.text(alphabet=ALPHABET, max_size=40)


def split(text: str, cuts: list[int]) -> list[str]:
    places = sorted({cut % (len(text) + 1) for cut in cuts})
    return [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]


@settings(max_examples=1500, deadline=None)
@given(rules=rules, text=texts, cuts=st.lists(st.integers(0, 100), max_size=12))
@example(rules=[("a(ba)?", "#")], text="aba", cuts=[1, 2])
@example(rules=[("ab{1,2}|b", "#")], text="abbb", cuts=[1, 2, 3])
@example(rules=[("a|ab", "#")], text="abab", cuts=[1, 2, 3])
@example(rules=[("aab|b", "#"), ("#a", "a")], text="aaab#ab", cuts=[1, 2, 3, 4, 5, 6])
def test_every_split_of_every_text_is_redacted_as_the_whole(rules: list[tuple[str, str]], text: str, cuts: list[int]) -> None:
    compiled = compile_redactions([redaction(pattern, new, f"r{i}") for i, (pattern, new) in enumerate(rules)])
    stream = StreamRedactor(compiled)
    released = "".join([*(stream.feed(chunk) for chunk in split(text, cuts)), stream.finish()])
    assert (released, stream.counts) == redact(text, compiled)


@settings(max_examples=300, deadline=None)
@given(pattern=patterns, text=texts)
def test_what_waits_is_narrower_than_the_widest_match(pattern: str, text: str) -> None:
    (compiled,) = compile_redactions([redaction(pattern)])
    horizon = compiled.horizon(text, 0)
    assert len(text) - horizon < max(1, widest_match(pattern))


def test_a_match_that_nothing_can_extend_leaves_at_once() -> None:
    stream = StreamRedactor(compile_redactions([redaction("[0-9]{4}")]))
    assert [stream.feed(digit) for digit in "1234"] == ["", "", "", "#"]


def test_text_that_no_match_can_begin_with_leaves_at_once() -> None:
    stream = StreamRedactor(compile_redactions([redaction(EMAIL, "[email]")]))
    assert [stream.feed(chunk) for chunk in ["Write ", "to bob", "@example.or", "g, ", "please"]] == [
        "Write ", "to ", "", "[email], ", "",
    ]  # fmt: skip
    assert stream.finish() == "please"
    assert stream.counts == {"name": 1}


def test_every_split_in_two_and_character_by_character() -> None:
    text = "Mail bob@example.org or root@10.0.0.1, 10.20.30.40; a@b.co,c@d.org 1.2.3.4.5 x@y"
    compiled = compile_redactions([redaction(EMAIL, "[email]", "email"), redaction(IPV4, "[ip]", "ip")])
    expected = redact(text, compiled)
    assert expected[0] == "Mail [email] or root@[ip], [ip]; [email],[email] [ip].5 x@y"
    for chunks in [[text[:cut], text[cut:]] for cut in range(len(text) + 1)] + [list(text)]:
        stream = StreamRedactor(compiled)
        assert "".join([*map(stream.feed, chunks), stream.finish()]) == expected[0]
        assert stream.counts == expected[1]


def test_a_long_hostile_stream_is_redacted_in_linear_time() -> None:
    stream = StreamRedactor(compile_redactions([redaction(EMAIL), redaction(IPV4, name="ip")]))
    released = "".join([*(stream.feed("a.") for _ in range(5_000)), stream.finish()])
    assert released == "a." * 5_000


@settings(max_examples=300, deadline=None)
@given(pattern=patterns, text=texts)
def test_the_tree_that_widths_are_computed_from_is_what_re2_matches(pattern: str, text: str) -> None:
    original = [match.span() for match in re2.finditer(pattern, text)]
    assert original == [match.span() for match in re2.finditer(as_re2(pattern), text)]
    assert all(end - start <= widest_match(pattern) for start, end in original)


@settings(max_examples=300, deadline=None)
@given(pattern=patterns, text=texts)
def test_every_proper_beginning_of_a_match_is_known_as_one(pattern: str, text: str) -> None:
    beginning = re2.compile(beginning_of_match(pattern))
    for match in re2.finditer(pattern, text):
        for end in range(*match.span()):
            assert beginning.fullmatch(text[match.start() : end]) is not None
