r"""What a redaction's pattern can match: how much text at most, and which texts are the beginning of a match.

A redaction is matched by RE2. RE2 shows neither its syntax tree nor whether text that ends here could still become a
match, so the pattern is read here by Python's own parser. Invariant: a pattern that passes is read alike by both
parsers. Whatever they read differently is refused, because a width that was computed from another reading is a leak:
``a{,9}`` is five literal characters to RE2, ``a{01}`` likewise, ``[[:alpha:]]`` is two things to Python, and so on.
"""

import re
import re._constants as constants  # type: ignore[import-not-found]
import re._parser as parser  # type: ignore[import-not-found]
from collections.abc import Sequence
from typing import Any

_READ_DIFFERENTLY = (
    (re.compile(r"\[:"), "POSIX classes ([:alpha:]) are not supported: write the ranges, as in [A-Za-z]"),
    (re.compile(r"\{,"), "a repetition without a lower bound ({,9}) is literal text to RE2: write {0,9}"),
    (re.compile(r"\{(?:0\d|\d+,0\d)"), "a repetition with leading zeros ({01}) is literal text to RE2: write {1}"),
)
_CATEGORIES = {
    constants.CATEGORY_DIGIT: r"\d",
    constants.CATEGORY_NOT_DIGIT: r"\D",
    constants.CATEGORY_SPACE: r"\s",
    constants.CATEGORY_NOT_SPACE: r"\S",
    constants.CATEGORY_WORD: r"\w",
    constants.CATEGORY_NOT_WORD: r"\W",
}
_FLAGS = {re.IGNORECASE.value: "i", re.DOTALL.value: "s", re.MULTILINE.value: "m"}
_Node = tuple[Any, Any]
_DEEPEST = 40


def widest_match(pattern: str) -> int:
    """Most characters that the pattern can match; raises ``ValueError`` for a pattern that a stream cannot be redacted by."""
    return int(_parse(pattern).getwidth()[1])


def beginning_of_match(pattern: str) -> str:
    r"""An RE2 pattern for the texts that one more character could turn into a match, or into a longer one.

    ``ab{1,2}`` gives the texts ``""``, ``a`` and ``ab``, but not ``abb``, which nothing can extend. Searched for at the
    end of a text (``\z``), its leftmost match is where the undecided part of the text begins.
    """
    tree = _parse(pattern)
    flags = _flags(tree.state.flags)
    beginnings = _beginnings(tree.data)
    return (f"(?{flags})" if flags else "") + (_alternatives([beginnings]) if beginnings is not None else "")


def as_re2(pattern: str) -> str:
    """The pattern, written again from the tree that the two functions above work on; tests compare it with the original."""
    tree = _parse(pattern)
    flags = _flags(tree.state.flags)
    return (f"(?{flags})" if flags else "") + _write(tree.data)


def _parse(pattern: str) -> Any:
    for form, message in _READ_DIFFERENTLY:
        if form.search(pattern):
            raise ValueError(message)
    try:
        tree = parser.parse(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"not a valid pattern: {error}") from error
    _refuse_unknown(tree.data)
    return tree


def _refuse_unknown(items: Sequence[_Node], depth: int = 0) -> None:
    """Only what matches by itself may stand in a pattern: characters, classes, groups, alternatives and repetitions."""
    if depth > _DEEPEST:
        raise ValueError(f"the pattern nests more than {_DEEPEST} groups")
    for operation, value in items:
        if operation in (constants.LITERAL, constants.NOT_LITERAL, constants.ANY, constants.IN):
            continue
        if operation is constants.BRANCH:
            for branch in value[1]:
                _refuse_unknown(branch.data, depth + 1)
        elif operation is constants.SUBPATTERN:
            _refuse_unknown(value[3].data, depth + 1)
        elif operation in (constants.MAX_REPEAT, constants.MIN_REPEAT):
            _refuse_unknown(value[2].data, depth + 1)
        elif operation in (constants.AT, constants.ASSERT, constants.ASSERT_NOT):
            raise ValueError("anchors (^, $, \\b) and look-around have no place in a redaction: a stream has no lines")
        else:
            raise ValueError(f"{str(operation).lower()} has no place in a redaction: RE2 does not know it")


def _flags(value: int) -> str:
    return "".join(letter for flag, letter in _FLAGS.items() if value & flag)


def _alternatives(branches: Sequence[str]) -> str:
    return "(?:" + "|".join(branches) + ")"


def _write(items: Sequence[_Node]) -> str:
    return "".join(_write_item(item) for item in items)


def _write_item(item: _Node) -> str:  # noqa: PLR0911 (one return per kind of node)
    operation, value = item
    if operation is constants.LITERAL:
        return _character(value)
    if operation is constants.NOT_LITERAL:
        return f"[^{_character(value)}]"
    if operation is constants.ANY:
        return "."
    if operation is constants.IN:
        return "[" + "".join(_write_class_item(part) for part in value) + "]"
    if operation is constants.BRANCH:
        return _alternatives([_write(branch.data) for branch in value[1]])
    if operation is constants.SUBPATTERN:
        return _scope(value) + _write(value[3].data) + ")"
    low, high, repeated = value
    lazy = "?" if operation is constants.MIN_REPEAT else ""
    return f"(?:{_write(repeated.data)}){_bounds(low, high)}{lazy}"


def _write_class_item(part: _Node) -> str:
    operation, value = part
    if operation is constants.NEGATE:
        return "^"
    if operation is constants.RANGE:
        return f"{_character(value[0])}-{_character(value[1])}"
    if operation is constants.CATEGORY:
        return _CATEGORIES[value]
    return _character(value)


def _character(code_point: int) -> str:
    return f"\\x{{{code_point:x}}}"


def _bounds(low: int, high: Any) -> str:
    return f"{{{low},}}" if high is constants.MAXREPEAT else f"{{{low},{high}}}"


def _scope(group: tuple[Any, int, int, Any]) -> str:
    """The opening of a group, with the flags that it switches on and off."""
    on, off = _flags(group[1]), _flags(group[2])
    return f"(?{on}{'-' + off if off else ''}:"


def _beginnings(items: Sequence[_Node]) -> str | None:
    """The proper beginnings of a sequence, as a pattern; None where nothing can be begun."""
    result: str | None = None
    for item in reversed(items):
        inside = _beginnings_of_item(item)
        after = None if result is None else _write_item(item) + result
        found = [branch for branch in (inside, after) if branch is not None]
        result = _alternatives(found) if found else None
    return result


def _beginnings_of_item(item: _Node) -> str | None:
    operation, value = item
    if operation is constants.BRANCH:
        found = [beginning for branch in value[1] if (beginning := _beginnings(branch.data)) is not None]
        return _alternatives(found) if found else None
    if operation is constants.SUBPATTERN:
        inside = _beginnings(value[3].data)
        return None if inside is None else _scope(value) + inside + ")"
    if operation in (constants.MAX_REPEAT, constants.MIN_REPEAT):
        _, high, repeated = value
        inside = _beginnings(repeated.data)
        if inside is None or high == 0:
            return None
        before = "*" if high is constants.MAXREPEAT else _bounds(0, high - 1)
        return f"(?:{_write(repeated.data)}){before}{inside}"
    return ""  # one character: before it stands nothing
