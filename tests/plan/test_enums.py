"""Every reason and every class of action says in the source what it means."""

import ast
import inspect
from enum import StrEnum
from types import ModuleType

import pytest

from forge.plan import action, health, reason


def undocumented(module: ModuleType, enum: type[StrEnum]) -> list[str]:
    (found,) = [node for node in ast.parse(inspect.getsource(module)).body if getattr(node, "name", "") == enum.__name__]
    assert isinstance(found, ast.ClassDef)
    followed = list(zip(found.body, [*found.body[1:], ast.Pass()], strict=True))
    named = [(node.targets[0], after) for node, after in followed if isinstance(node, ast.Assign)]
    assert len(named) == len(enum)
    return [
        name.id
        for name, after in named
        if isinstance(name, ast.Name)
        and not (isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str))
    ]


@pytest.mark.parametrize(
    ("module", "enum"), [(reason, reason.ReasonKind), (action, action.ActionKind), (health, health.Health)]
)
def test_each_member_has_a_docstring(module: ModuleType, enum: type[StrEnum]) -> None:
    assert undocumented(module, enum) == []
