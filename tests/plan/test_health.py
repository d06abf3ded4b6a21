"""How resources are, from a plan and what is known beside it."""

import pytest
from tests.plan.world import World, desired_of

from forge.plan.health import Health, health_of

SUSPEND = {"models/model.yaml": ("metadata: {name: small}", 'metadata: {name: small, annotations: {forge/suspend: "true"}}')}


@pytest.fixture
def world() -> World:
    world = World()
    world.apply(desired_of())
    return world


def test_what_is_done_is_in_sync_and_what_is_to_be_done_progresses(world: World) -> None:
    assert {found.health for found in health_of(world.plan(desired_of())).values()} == {Health.IN_SYNC}
    changed = health_of(world.plan(desired_of(corpus=b"other")))
    assert changed["DataRecipe/small"].health is Health.PROGRESSING
    assert "curate/small is to run: input changed" in changed["DataRecipe/small"].message


def test_a_failed_step_degrades_its_resource_until_it_is_done(world: World) -> None:
    failures = {"curate/small": "no words\x1b[31m left"}
    found = health_of(world.plan(desired_of(corpus=b"other")), failures=failures)["DataRecipe/small"]
    assert found.health is Health.DEGRADED
    assert "\x1b" not in found.message
    assert health_of(world.plan(desired_of()), failures=failures)["DataRecipe/small"].health is Health.IN_SYNC


def test_a_gate_that_says_no_degrades_the_deployment(world: World) -> None:
    no_go = desired_of({"models/deployment.yaml": ("max: 7.0", "max: 0.1")})
    world.apply(no_go, verdict="NO-GO")
    assert health_of(world.plan(no_go))["Deployment/small-local"].health is Health.DEGRADED


def test_what_is_suspended_says_so_whether_or_not_something_is_to_be_done(world: World) -> None:
    for corpus in (b"text", b"other"):
        commit = desired_of(SUSPEND, corpus=corpus)
        found = health_of(world.plan(commit), commit.suspended)
        assert found["Model/small"].health is Health.SUSPENDED


def test_an_agent_that_is_not_well_is_the_deployments_matter(world: World) -> None:
    serving = {"local": (Health.DEGRADED, "its agent has stopped"), "other": (Health.DEGRADED, "not ours")}
    found = health_of(world.plan(desired_of()), serving=serving)
    assert found["Deployment/small-local"].health is Health.DEGRADED
    assert found["Deployment/small-local"].message == "local: its agent has stopped"
    assert found["Model/small"].health is Health.IN_SYNC
