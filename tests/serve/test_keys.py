"""A key that cannot be resolved is an error at start, never an open door."""

from pathlib import Path

import pytest

from forge.errors import ServeError
from forge.serve.keys import find_key, resolve_keys
from forge.spec.inference_policy import InferencePolicySpec

GOOD = "0123456789abcdef"


def policy(*references: str) -> InferencePolicySpec:
    limits = {"max_tokens": 1, "requests_per_minute": 1}
    roles = [{"name": f"role{i}", "keys": [reference], "limits": limits} for i, reference in enumerate(references)]
    return InferencePolicySpec.model_validate({"roles": roles, "access": '@id("all") permit (principal, action, resource);'})


@pytest.mark.parametrize(
    "value", [None, "", "short", " " * 20, "with space 0123456789", "umlaut-ä-0123456789", "a" * 20 + "\n"]
)
def test_a_key_that_is_missing_or_weak_is_refused_by_its_reference(value: str | None) -> None:
    with pytest.raises(ServeError, match="env:SECRET") as caught:
        resolve_keys(policy("env:SECRET"), {} if value is None else {"SECRET": value})
    assert not value or value not in str(caught.value)


def test_a_key_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(GOOD + "\n")
    (key,) = resolve_keys(policy(f"file:{tmp_path}/key"), {})
    assert find_key([key], GOOD) is key
    with pytest.raises(ServeError, match="absent"):
        resolve_keys(policy(f"file:{tmp_path}/absent"), {})
    (tmp_path / "key").write_bytes(b"\xff" * 20)
    with pytest.raises(ServeError, match="cannot be read"):
        resolve_keys(policy(f"file:{tmp_path}/key"), {})


def test_one_key_for_two_roles_is_refused() -> None:
    with pytest.raises(ServeError, match="env:A"):
        resolve_keys(policy("env:A", "env:B"), {"A": GOOD, "B": GOOD})


def test_a_key_is_found_wherever_it_stands_and_no_other_is() -> None:
    values = {name: GOOD + name for name in "ABC"}
    keys = resolve_keys(policy("env:A", "env:B", "env:C"), values)
    assert [find_key(keys, GOOD + name).role.name for name in "ABC"] == ["role0", "role1", "role2"]
    assert find_key(keys, "") is None
    assert find_key(keys, GOOD) is None
    assert find_key((), GOOD) is None
