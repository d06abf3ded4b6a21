"""YAML text -> nodes, by the C parser where it reads as the reference parser does, and by that one otherwise.

libyaml is twenty times faster than ruamel.yaml's Python parser, but it is a YAML 1.1 parser, its messages are poorer, and
its composer follows nesting on the C stack until the process dies. So it only gets text without the few things that the two
read differently (``_READ_DIFFERENTLY``), scalars are resolved by YAML 1.2 here, nesting is bounded as it goes, and whatever
it refuses is read again by the reference parser, whose verdict and message count. tests/spec/test_composer.py compares the
two on generated text, places included.
"""

import re
from collections.abc import Iterator
from typing import Any

from yaml import YAMLError
from yaml._yaml import CParser
from yaml.nodes import Node, ScalarNode, SequenceNode

_TAG = "tag:yaml.org,2002:"
_READ_DIFFERENTLY = re.compile(
    r"[\t\r\x85\u2028\u2029\ufeff]|[^\x00-\uffff]"  # other spaces and line ends
    r"|(?:^|[\s,:?\[{-])%"  # directives, and plain scalars that look like one
    r"|(?:^|[\s,:?\[{-])!(?=[\s,\]}]|\Z)"  # the tag without a name
    r"|^\.\.\."  # the end of a document
    r"|[\"']:(?=[^\s,\]}])"  # a value that touches its quoted key
    r"|[|>][-+0-9]*\#"  # a comment that touches a block scalar's header
    r"|[|>][-+0-9]* *(?:\#[^\n]*)?\n(?! +[^ \n#])",  # a block scalar that does not begin with text
    re.MULTILINE,
)
_DEEPEST = 100

_BOOL = (_TAG + "bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"))
_FLOAT = (
    _TAG + "float",
    re.compile(
        r"(?:[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+"
        r"|[-+]?\.[0-9_]+(?:[eE][-+][0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"
    ),
)
_INT = (_TAG + "int", re.compile(r"(?:[-+]?0b[0-1_]+|[-+]?0o?[0-7_]+|[-+]?[0-9_]+|[-+]?0x[0-9a-fA-F_]+)\Z"))
_MERGE = (_TAG + "merge", re.compile(r"<<\Z"))
_NULL = (_TAG + "null", re.compile(r"(?:~|null|Null|NULL|)\Z"))
_TIMESTAMP = (
    _TAG + "timestamp",
    re.compile(
        r"(?:[0-9]{4}-[0-9]{2}-[0-9]{2}"
        r"|[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[Tt]|[ \t]+)[0-9]{1,2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]*)?"
        r"(?:[ \t]*(?:Z|[-+][0-9]{1,2}(?::[0-9]{2})?))?)\Z"
    ),
)
_VALUE = (_TAG + "value", re.compile(r"=\Z"))
_BY_FIRST = {
    **dict.fromkeys("tTfF", (_BOOL,)),
    **dict.fromkeys("-+", (_FLOAT, _INT)),
    **dict.fromkeys("0123456789", (_FLOAT, _INT, _TIMESTAMP)),
    ".": (_FLOAT,),
    "<": (_MERGE,),
    **dict.fromkeys(("~", "n", "N", ""), (_NULL,)),
    "=": (_VALUE,),
}
"""What a plain scalar can be, by its first character, in the order in which the forms are tried."""


class _DeepError(YAMLError):  # type: ignore[misc]
    """Nested too deeply to be followed."""


class _Composer(CParser):  # type: ignore[misc]
    """libyaml's composer with YAML 1.2's scalars; counts the nodes, and those of them that have a value and no tag."""

    depth = 0
    num_nodes = 0
    num_plain = 0

    def resolve(self, kind: type[Node], value: str | None, implicit: tuple[bool, bool] | bool) -> str:
        """The tag of a node that has none; called by the C code."""
        if value != "" or not implicit[0]:  # type: ignore[index]  # an absent value stands in another place for each parser
            self.num_plain += 1
        if kind is not ScalarNode:
            return _TAG + ("seq" if kind is SequenceNode else "map")
        if isinstance(implicit, tuple) and implicit[0] and value is not None:
            for tag, form in _BY_FIRST.get(value[:1], ()):
                if form.match(value):
                    return tag
        return _TAG + "str"

    def descend_resolver(self, _parent: Node | None, _index: Any) -> None:
        """Called by the C code before each node."""
        self.depth += 1
        self.num_nodes += 1
        if self.depth > _DEEPEST:
            raise _DeepError("nested too deeply")

    def ascend_resolver(self) -> None:
        """Called by the C code after each node."""
        self.depth -= 1


def compose(text: str) -> list[Any] | None:
    """The root nodes of all documents, as libyaml reads them; None where the reference parser has to judge."""
    if _READ_DIFFERENTLY.search(text):
        return None
    try:
        composer = _Composer(text)
        roots = []
        while composer.check_node():
            roots.append(composer.get_node())
    except (YAMLError, ValueError):  # ValueError: libyaml is given no lone surrogate
        return None
    return roots if composer.num_plain == composer.num_nodes else None


def compose_by_reference(text: str) -> Iterator[Any]:
    """The root nodes as ruamel.yaml's Python parser reads them; raises its errors."""
    from ruamel.yaml import YAML

    found: Iterator[Any] = YAML(typ="safe", pure=True).compose_all(text)
    return found
