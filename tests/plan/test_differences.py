"""What differs is told as small as it can be, and two texts of a difference are never the same."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from forge.plan.differences import differences, shown, written


def told(old: Any, new: Any) -> list[tuple[str, str | None, str | None]]:
    return [(written(each.path), *shown(each)) for each in differences(old, new)]


def test_long_texts_are_cut_around_the_place_where_they_part() -> None:
    rule = "permit (principal, action, resource) when { context.tokens < %s };"
    text = "// who may ask\n" * 20
    ((path, old, new),) = told({"access": text + rule % 100}, {"access": text + rule % 200})
    assert path == "access"
    assert old is not None
    assert "context.tokens < 100" in old
    assert new is not None
    assert "context.tokens < 200" in new
    assert len(old) <= 80


def test_an_added_item_is_told_alone_and_by_its_name() -> None:
    reader = {"name": "reader", "keys": ["env:READER"]}
    admin = {"name": "admin", "keys": ["env:ADMIN"], "limits": {"max_tokens": 99999, "requests_per_minute": 6000}}
    assert told({"roles": [reader]}, {"roles": [admin, reader]}) == [
        ("roles[admin].keys", None, "['env:ADMIN']"),
        ("roles[admin].limits", None, "{'max_tokens': 99999, 'requests_per_minute': 6000}"),
        ("roles[admin].name", None, "admin"),
    ]
    assert told({"roles": [admin, reader]}, {"roles": [admin]}) == [
        ("roles[reader]", "{'name': 'reader', 'keys': ['env:READER']}", None)
    ]


def test_an_item_that_knows_who_it_is_may_stand_elsewhere() -> None:
    first, second = ({"task": "a", "metric": "acc", "min": 0.1}, {"task": "b", "metric": "acc", "min": 0.2})
    new = [{**second, "min": 0.3}, first]
    assert told([first, second], new) == [
        ("[b acc].min", "0.2", "0.3"),
        ("", "in the order a acc, b acc", "in the order b acc, a acc"),
    ]


def test_a_renamed_item_is_the_same_item() -> None:
    assert told([{"name": "a", "limit": 1}], [{"name": "b", "limit": 1}]) == [("[a].name", "a", "b")]


def test_items_that_nothing_tells_apart_are_told_by_their_place() -> None:
    assert told({"sources": [{}]}, {"sources": [{}, {}]}) == [("sources[1]", None, "{}")]
    assert told([1, 2, 3], [1, 9, 2, 3]) == [("[1]", None, "9")]
    assert told([1, 2, 3], [1, 4, 3]) == [("[1]", "2", "4")]
    twice = {"task": "a", "metric": "acc"}
    assert told([{**twice, "min": 0.5}], [{**twice, "min": 0.5}, {**twice, "max": 0.9}]) == [
        ("[1]", None, "{'task': 'a', 'metric': 'acc', 'max': 0.9}")
    ]


def test_many_differences_of_one_list_are_counted() -> None:
    old = [{"url": f"s3://bucket/{number}", "sha256": "a"} for number in range(100)]
    new = [{**item, "sha256": "b"} for item in old[:60]] + [{"url": "s3://bucket/more", "sha256": "c"}]
    assert told({"files": old}, {"files": new}) == [("files", "100 items", "61 items: 1 added, 40 removed, 60 changed")]


def test_a_default_is_no_value_that_is_spelt_so() -> None:
    assert told({}, {"name": "default"}) == [("name", "default", "'default'")]
    assert told({"n": 1}, {"n": "1"}) == [("n", "1", "'1'")]
    assert told({"n": 1}, {"n": True}) == [("n", "1", "True")]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=200),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["name", "path", "task", "metric"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(VALUES, VALUES)
def test_values_that_differ_are_told_to_and_no_two_texts_are_alike(old: Any, new: Any) -> None:
    found = told(old, new)
    assert bool(found) == (json.dumps(old, sort_keys=True) != json.dumps(new, sort_keys=True))
    for _, before, after in found:
        assert before != after
    assert told(old, old) == []
