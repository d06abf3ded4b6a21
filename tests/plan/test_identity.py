"""Step keys that no upgrade may change: a corpus of committed (spec, key) pairs, and the laws they follow."""

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from tests.plan.world import World, desired_of

from forge.contract.kinds import StepKind
from forge.plan.graph import step_key

CORPUS = Path(__file__).with_name("step_keys.json")


def keys_of_the_small_example() -> dict[str, str]:
    world = World()
    world.apply(desired_of(), product=lambda step, key: step.id)
    return {step_id: record.key for step_id, record in world.newest.items()}


def test_no_upgrade_changes_a_step_key() -> None:
    """To accept a deliberate change (a raised step version), write the printed keys to step_keys.json."""
    found = keys_of_the_small_example()
    assert found == json.loads(CORPUS.read_text()), json.dumps(found, indent=2)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=8), values, max_size=5))
def test_the_order_of_keys_does_not_change_an_identity(parameters: dict[str, object]) -> None:
    turned = dict(reversed(list(parameters.items())))
    assert step_key(StepKind.TRAIN, 1, parameters, {}) == step_key(StepKind.TRAIN, 1, turned, {})


@given(st.integers(1, 9), st.integers(1, 9))
def test_kind_version_and_inputs_are_part_of_an_identity(first: int, second: int) -> None:
    same = first == second
    assert (step_key(StepKind.TRAIN, first, {}, {}) == step_key(StepKind.TRAIN, second, {}, {})) is same
    assert (step_key(StepKind.TRAIN, 1, {}, {"a": str(first)}) == step_key(StepKind.TRAIN, 1, {}, {"a": str(second)})) is same
    assert step_key(StepKind.TRAIN, 1, {}, {}) != step_key(StepKind.GATE, 1, {}, {})
