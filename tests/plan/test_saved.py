"""A saved plan is applied as it was shown, or refused: never something else, and never with a traceback."""

import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.conftest import SETTINGS
from tests.plan.world import World, desired_of

from forge.canonical import canonical_json, digest_of_bytes
from forge.contract.record import Spent
from forge.errors import RefusedError
from forge.plan.desired import Desired
from forge.plan.plan import make_plan
from forge.plan.recorded import EVERYTHING
from forge.plan.saved import Reading, SavedPlan, exceeds, from_bytes, to_bytes, what_moved

CHANGED = {"models/model.yaml": ("seed: 5", "seed: 6")}


def saved_of(world: World, desired: Desired, engine: str = "0.1.0") -> SavedPlan:
    reading = Reading(world)
    plan = make_plan(desired, reading, world.live)
    return SavedPlan(plan, EVERYTHING, engine, reading.digest)


@pytest.fixture
def world() -> World:
    world = World()
    world.apply(desired_of())
    return world


FILE = to_bytes(saved_of(World(), desired_of()))


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(FILE) - 1), st.integers(1, 255))
def test_any_flipped_byte_is_refused(place: int, flip: int) -> None:
    damaged = bytearray(FILE)
    damaged[place] ^= flip
    with pytest.raises(RefusedError):
        from_bytes(bytes(damaged), "plan")


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b"null", FILE[:-1], FILE + b"\n", FILE[:200], b"\xff" * 40, b"[" * 100_000]
)
def test_what_is_no_plan_is_refused(data: bytes) -> None:
    with pytest.raises(RefusedError):
        from_bytes(data, "plan")


def test_a_plan_that_was_altered_with_its_digest_is_found_when_it_is_made_again(world: World) -> None:
    """Whoever can write the file can compute a digest; the plan that is made again cannot be persuaded."""
    saved = saved_of(world, desired_of(CHANGED))
    cheaper = dataclasses.replace(saved.plan, actions=saved.plan.actions[:-1])
    forged = to_bytes(dataclasses.replace(saved, plan=cheaper))
    assert what_moved(from_bytes(forged, "plan"), saved)


def test_nothing_moved_when_nothing_happened(world: World) -> None:
    assert what_moved(saved_of(world, desired_of(CHANGED)), saved_of(world, desired_of(CHANGED))) == []


def test_an_append_that_the_plan_did_not_ask_about_does_not_stale_it(world: World) -> None:
    before = saved_of(world, desired_of(CHANGED))
    other = world.newest["curate/small"].model_copy(
        update={"key": digest_of_bytes(b"another"), "step_id": "curate/elsewhere", "actual": Spent(seconds=1)}
    )
    world.records[other.key] = world.newest["curate/elsewhere"] = other
    assert what_moved(before, saved_of(world, desired_of(CHANGED))) == []


def test_each_thing_that_moved_is_named(world: World) -> None:
    before = saved_of(world, desired_of(CHANGED))
    assert "this is Forge 0.2.0" in what_moved(before, saved_of(world, desired_of(CHANGED), engine="0.2.0"))[0]
    assert "the commit to apply is dddd" in what_moved(before, saved_of(world, desired_of(CHANGED, commit="d")))[0]
    world.stored.discard(world.newest["curate/small"].products["documents"])
    assert any("curate/small" in row for row in what_moved(before, saved_of(world, desired_of(CHANGED))))
    world.apply(desired_of(CHANGED))
    assert "the ledger was asked otherwise, or answers otherwise" in what_moved(before, saved_of(world, desired_of(CHANGED)))


def test_a_step_that_was_not_to_be_done_goes_beyond_the_plan(world: World) -> None:
    allowed = world.plan(desired_of(CHANGED))
    world.stored.discard(world.newest["curate/small"].products["documents"])
    assert "curate/small was not to be done, and now is to run" in exceeds(allowed, world.plan(desired_of(CHANGED)), 0.0)


def test_a_dearer_step_goes_beyond_the_plan(world: World) -> None:
    allowed = world.plan(desired_of(CHANGED))
    dearer = world.plan(desired_of(CHANGED, settings=SETTINGS.replace("0.08", "0.8")))
    assert "it may now cost" in exceeds(allowed, dearer, 0.0)[0]


def test_a_plan_file_holds_no_more_than_its_canonical_form() -> None:
    assert canonical_json(json.loads(FILE)) + b"\n" == FILE
