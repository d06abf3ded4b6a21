"""A plan that would move data out of its region is refused, and says which data, where to, and what to do."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.conftest import DATA, SETTINGS
from tests.plan.full import desired_from, full_documents
from tests.plan.world import ALL, World, desired_of

from forge.plan.desired import Desired
from forge.plan.graph import build_graph
from forge.plan.residency import residency_warnings, restrictions

BOUND = {"curate/small", "tokenizer/small", "tokenize/small", "train/small", "evaluate/small.small"}
SOURCE = "{path: corpus/*.jsonl.gz, "


def small(regions: str = "", store: str = "", executor: str = "", source: str = "") -> Desired:
    """The small example with regions of its recipe, its source, the store and the executor."""
    data = DATA.replace("  dedup:", f"  regions: [{regions}]\n  dedup:") if regions else DATA
    data = data.replace(SOURCE, f"{SOURCE}regions: [{source}], ") if source else data
    place = f'[store]\nregion = "{store}"\n' if store else ""
    own = SETTINGS.replace("[executor]", f'{place}[executor]\nregion = "{executor}"') if executor else SETTINGS + place
    return desired_of({"models/data.yaml": (DATA, data)}, settings=own)


def refusals(desired: Desired) -> tuple[str, ...]:
    return World().plan(desired).refusals


def test_nothing_declared_restricts_nothing() -> None:
    assert refusals(small()) == refusals(small("", "us", "cn")) == ()
    assert restrictions(build_graph(small()), small().compiled) == {}


def test_data_stays_where_it_may_be() -> None:
    assert refusals(small("eu", "eu", "eu")) == refusals(small("us, eu", "eu", "us")) == ()


def test_a_store_in_another_region_is_refused_with_the_data_the_place_and_the_remedy() -> None:
    (message,) = refusals(small("eu", "us", "eu"))
    assert message == (
        "residency: DataRecipe/small (`regions: [eu]`) may be in eu alone, and the store is in us (forge.toml): curate/small, "
        "tokenizer/small, tokenize/small, train/small, evaluate/small.small would put it there; plan with a store in one of "
        "these regions, or leave it out of the plan with --target"
    )


def test_an_executor_in_another_region_is_refused_too() -> None:
    (message,) = refusals(small("eu", "eu", "us"))
    assert "the executor is in us" in message


@pytest.mark.parametrize(("store", "executor", "missing"), [("", "eu", "store"), ("eu", "", "executor")])
def test_a_place_that_nobody_declared_is_in_no_region(store: str, executor: str, missing: str) -> None:
    (message,) = refusals(small("eu", store, executor))
    assert f"nobody says where the {missing} is" in message
    assert f"`[{missing}] region = ..`" in message


def test_a_source_restricts_its_recipe() -> None:
    assert refusals(small("eu, us", "us", "us", source="us")) == ()
    (message,) = refusals(small("", "eu", "us", source="us"))
    assert "`regions: [us]`" in message
    assert "the store is in eu" in message


def test_regions_change_no_key_and_a_plan_that_moves_nothing_is_not_refused() -> None:
    world = World()
    world.apply(small())
    plan = world.plan(small("eu", "us", "us"))
    assert plan.refusals == ()
    assert not plan.changes
    assert len(residency_warnings(small("eu", "us", "us"))) == 2
    assert residency_warnings(small("eu", "eu", "eu")) == residency_warnings(small()) == []


def test_figures_and_releases_are_free_and_everything_else_inherits() -> None:
    desired = small("eu", "eu", "eu")
    assert set(restrictions(build_graph(desired), desired.compiled)) == BOUND
    assert set(ALL) - BOUND == {"gate/small-local", "release/small-local"}


def full(**regions: list[str]) -> Desired:
    """The full documents with regions of some recipes; ``e`` stands for the conversations of Model/e."""
    documents = full_documents()
    for name, value in regions.items():
        body: Any = documents["Model/e"]["spec"]["conversations"] if name == "e" else documents[f"DataRecipe/{name}"]["spec"]
        body["regions"] = value
    return desired_from(documents)


def regions_of(desired: Desired, step: str) -> set[str] | None:
    found = restrictions(build_graph(desired), desired.compiled).get(step)
    return None if found is None else set(found.regions)


def test_a_replay_mixture_has_the_regions_that_its_parts_have_in_common() -> None:
    """Model/c continues Model/b (DataRecipe/a) on DataRecipe/c, and replays DataRecipe/d."""
    desired = full(a=["eu", "us", "cn"], c=["eu", "us"], d=["us", "cn"])
    assert regions_of(desired, "train/c") == {"us"}
    assert regions_of(desired, "tokenize/d.a") == {"us", "cn"}
    assert regions_of(full(c=["eu"]), "train/d") == {"eu"}
    assert regions_of(full(d=["eu"]), "train/d") is None


def test_data_that_is_mixed_in_binds_the_model_too() -> None:
    documents = full_documents()
    documents["DataRecipe/b"]["spec"]["regions"] = ["eu"]
    documents["Model/a"]["spec"]["mixture"] = [{"data": "DataRecipe/b", "fraction": 0.25}]
    desired = desired_from(documents)
    assert regions_of(desired, "train/a") == {"eu"}
    assert regions_of(desired, "tokenize/a") is None


def test_parts_without_a_common_region_can_be_trained_nowhere() -> None:
    desired = full(c=["eu"], d=["us"])
    plan = World().plan(desired)
    assert any(
        "DataRecipe/c (`regions: [eu]`) and DataRecipe/d (`regions: [us]`) have no region in common: train/c" in message
        for message in plan.refusals
    )


def test_a_model_that_continues_another_is_bound_by_what_that_one_was_trained_on() -> None:
    assert regions_of(full(a=["eu"]), "train/e") == {"eu"}
    assert regions_of(full(e=["us"]), "train/e") == {"us"}
    assert regions_of(full(a=["eu", "us"], e=["us"]), "train/e") == {"us"}


@settings(deadline=None, max_examples=25)
@given(st.dictionaries(st.sampled_from("abcd"), st.sets(st.sampled_from(["eu", "us", "cn"]), min_size=1)))
def test_no_step_may_be_where_something_that_it_reads_may_not(declared: dict[str, set[str]]) -> None:
    desired = full(**{name: sorted(value) for name, value in declared.items()})
    graph = build_graph(desired)
    found = restrictions(graph, desired.compiled)
    for step in graph.values():
        for source in step.inputs.values():
            before = found.get(getattr(source, "step_id", ""))
            if before is not None and getattr(source, "product", "") in ("documents", "tokenizer", "tokens"):
                assert found[step.id].regions <= before.regions
