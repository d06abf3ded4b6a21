"""What may be deleted: never anything that a release, a kept record, protection, the commit or open work can reach."""

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.plan.test_properties import desired, edits, product
from tests.plan.world import World, desired_of

from forge.plan.reach import History, Retention, reachable, removable

NOTHING_BY_AGE = Retention("9999-01-01T00:00:00.000+00:00", 1)


def history_of(world: World, **more: object) -> History:
    releases = {name: world.releases(name) for name in world.environments()}
    return History(list(world.records.values()), releases, **more)  # type: ignore[arg-type]


def test_what_is_released_keeps_its_whole_chain_and_what_was_replaced_goes() -> None:
    world = World()
    world.apply(desired_of())
    first = dict(world.newest)
    world.apply(desired_of({"models/model.yaml": ("seed: 5", "seed: 6")}, commit="d"))
    kept = reachable(history_of(world), NOTHING_BY_AGE)
    for record in world.newest.values():
        assert set(record.products.values()) <= set(kept)
        assert set(record.inputs.values()) <= set(kept)
    gone = removable(world.stored, kept)
    assert first["train/small"].products["weights"] in gone
    assert first["curate/small"].products["documents"] not in gone  # the newer model reads the same


def test_every_release_is_kept_unless_the_rule_says_how_many() -> None:
    world = World()
    world.apply(desired_of())
    world.apply(desired_of({"models/model.yaml": ("seed: 5", "seed: 6")}, commit="d"))
    everything = reachable(history_of(world), Retention(NOTHING_BY_AGE.since, None))
    assert removable(world.stored - {r.byproducts.get("checkpoint", "") for r in world.records.values()}, everything) == []


def test_age_protection_the_commit_and_open_work_keep() -> None:
    world = World()
    world.apply(desired_of())
    old = world.newest["train/small"].products["weights"]
    world.apply(desired_of({"models/model.yaml": ("seed: 5", "seed: 6")}, commit="d"))
    assert old in removable(world.stored, reachable(history_of(world), NOTHING_BY_AGE))
    for more in ({"protected": frozenset({"Model/small"})}, {"wanted": frozenset({old})}, {"at_work": frozenset({old})}):
        assert old in reachable(history_of(world, **more), NOTHING_BY_AGE)
    assert old in reachable(history_of(world), Retention("2026-01-01T00:00:10.000+00:00", 1))
    assert old not in reachable(history_of(world), Retention("2026-01-01T00:00:10.001+00:00", 1))


@settings(deadline=None, max_examples=30)
@given(st.lists(edits, min_size=1, max_size=4))
def test_after_deleting_what_nothing_reaches_the_last_commit_is_still_in_sync(sequence: list[dict[str, object]]) -> None:
    world = World()
    for number, edit in enumerate(sequence):
        commit = desired(edit, number)
        world.apply(commit, product=product(edit["corpus"]))  # type: ignore[arg-type]
    plan = world.plan(commit)
    wanted = frozenset(digest for action in plan.actions for digest in (*action.products.values(), *action.inputs.values()))
    kept = reachable(history_of(world, wanted=wanted), NOTHING_BY_AGE)
    world.stored -= set(removable(world.stored, kept))
    assert world.plan(commit).changes == ()
