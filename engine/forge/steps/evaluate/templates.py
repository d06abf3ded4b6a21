"""May this Jinja template of a task be rendered? An allow-list over its syntax tree.

lm-eval renders templates in an environment without a sandbox, where ``{{ ''.__class__ }}`` reaches any Python object. What
tasks need is little: fields of the document, a few filters, string methods, conditions and loops. Everything else is
refused by name, so that a new construct of Jinja is refused too.
"""

from jinja2 import Environment, TemplateSyntaxError, nodes

_SYNTAX = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Const, nodes.List, nodes.Tuple, nodes.If,
    nodes.For, nodes.Assign, nodes.CondExpr, nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.Add,
    nodes.Sub, nodes.Neg, nodes.Concat, nodes.Slice, nodes.Keyword,
)  # fmt: skip
_FILTERS = {
    "abs", "capitalize", "count", "default", "first", "float", "int", "join", "last", "length", "list", "lower",
    "replace", "reverse", "round", "string", "title", "tojson", "trim", "upper",
}  # fmt: skip
_TESTS = {"defined", "even", "none", "number", "odd", "string"}
_METHODS = {
    "capitalize", "count", "endswith", "find", "index", "items", "join", "keys", "lower", "lstrip", "replace", "rstrip",
    "split", "splitlines", "startswith", "strip", "title", "upper", "values",
}  # fmt: skip


def fault_of_template(text: str) -> str | None:
    """Why a template is refused; None for one that is allowed, or for text without any template in it."""
    if not any(mark in text for mark in ("{{", "{%", "{#")):
        return None
    try:
        tree = Environment(autoescape=False).parse(text)  # noqa: S701 (parsed, never rendered)
    except (TemplateSyntaxError, RecursionError) as error:
        return f"not a valid template: {error}"
    pending: list[nodes.Node] = [tree]
    while pending:
        node = pending.pop()
        if fault := _fault_of_node(node):
            return fault
        pending.extend(node.iter_child_nodes())
    return None


def _fault_of_node(node: nodes.Node) -> str | None:
    fault: str | None = None
    match node:
        case nodes.Getattr(attr=str() as name) | nodes.Getitem(arg=nodes.Const(value=str() as name)):
            fault = f"reaches for the attribute {name!r}" if name.startswith("_") else None
        case nodes.Getitem(arg=nodes.Const() | nodes.Slice() | nodes.Neg()):
            pass
        case nodes.Getitem():  # with a name in a variable, Jinja would fall back to an attribute of that name
            fault = "computes what it looks up"
        case nodes.Call(node=nodes.Getattr(attr=str() as name)) if name in _METHODS:
            pass
        case nodes.Call(node=nodes.Getattr(attr=str() as name) | nodes.Name(name=str() as name)):
            fault = f"calls {name!r}"
        case nodes.Filter(name=str() as name, kwargs=list() as arguments):
            by_attribute = any(argument.key == "attribute" for argument in arguments)
            fault = f"uses the filter {name!r}" if name not in _FILTERS or by_attribute else None
        case nodes.Test(name=str() as name):
            fault = f"uses the test {name!r}" if name not in _TESTS else None
        case _ if not isinstance(node, _SYNTAX):
            fault = f"uses {type(node).__name__.lower()}"
    return fault
