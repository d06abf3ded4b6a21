"""Searches in plans: which steps there are and who reads what, what an edit plans anew, and what holds a search back."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.conftest import MODEL, SUITE
from tests.plan.test_properties import Sequential, product
from tests.plan.test_withdrawn import held, withdrawing
from tests.plan.world import PastOf, World, desired_of
from tests.searching import searched

from forge.contract.kinds import StepKind
from forge.plan.action import Action, ActionKind, Plan
from forge.plan.blame import same_field
from forge.plan.desired import Desired
from forge.plan.explain import explain
from forge.plan.explanation import to_text
from forge.plan.graph import build_graph
from forge.plan.reason import ReasonKind
from forge.plan.recorded import Scope
from forge.plan.review import review
from forge.plan.step import FromCommit, FromStep, Step

SWEEP = """\
apiVersion: forge/v1
kind: Sweep
metadata: {name: small}
spec:
  objective: {suite: EvalSuite/search, task: search_bpb, metric: bits_per_byte, direction: minimize}
  rounds:
    - trials: 2
      sampler: {name: tpe, startup_trials: 2}
      space: {training.optimizer.lr: {low: 1.0e-3, high: 1.0e-2, log: true}}
"""
"""Trials 0 and 1 know nothing, trial 2 the figures of both."""
GRID = """\
    - sampler: {name: grid}
      space: {training.optimizer.lr: {choices: [2.0e-3, 4.0e-3]}}
"""
CHEAP = "  trial: {training.tokens: 20k}\n"
SEARCH = SUITE.replace("small_bpb", "search_bpb").replace("name: small", "name: search")
SERVED = ["evaluate/small.small", "gate/small-local", "release/small-local"]
"""What reads the model itself."""
DEPLOYMENT = "models/deployment.yaml"


def commit(sweep: str = SWEEP, model: str = "", *more: str, suite: str = SEARCH, **others: Any) -> Desired:
    """The small example, whose model is searched for."""
    return desired_of({"models/model.yaml": (MODEL, model or searched(MODEL))}, models=[sweep, suite, *more], **others)


def edited(old: str, new: str, text: str) -> str:
    assert old in text
    return text.replace(old, new)


def of_trials(*numbers: int, model: str = "small") -> list[str]:
    return [
        f"{kind}/{model}.{n}{suite}" for n in numbers for kind, suite in (("sweep", ""), ("train", ""), ("evaluate", ".search"))
    ]


ALL = [*of_trials(0, 1, 2), "sweep/small", "train/small"]


def best_is(number: int) -> Callable[[Step, str], str]:
    """Products of a world in which a trial is the best: the model is to have its values."""
    same = (f"sweep/small.{number}", "sweep/small")
    return lambda step, key: f"values of trial {number}" if step.id in same else key


def of(plan: Plan, step_id: str) -> Action:
    return next(action for action in plan.actions if action.id == step_id)


def ids(plan: Plan) -> set[str]:
    """What is planned; without what waits for the search, and is told afterwards."""
    waits = [action.id for action in plan.changes if action.id in (*SERVED, "train/small")]
    for name in waits:
        assert {reason.kind for reason in of(plan, name).reasons} == {ReasonKind.UPSTREAM}, of(plan, name)
    return {action.id for action in plan.changes} - set(waits)


@pytest.fixture
def world() -> World:
    """Everything done once; trial 1 was the best."""
    world = World()
    world.apply(commit(), product=best_is(1))
    return world


def test_a_searched_model_has_three_steps_for_each_trial_and_one_that_picks() -> None:
    graph = build_graph(commit())
    assert [step.id for step in graph.values() if step.subject == "Model/small"][: len(ALL)] == ALL
    assert [graph[name].trial for name in ALL] == [0, 0, 0, 1, 1, 1, 2, 2, 2, None, None]
    assert {graph[name].subject for name in ALL} == {"Model/small"}
    tasks = FromCommit("EvalSuite/search", commit().bundles["EvalSuite/search", "tasks"])
    assert graph["evaluate/small.1.search"].inputs == {"weights": FromStep("train/small.1", "weights"), "tasks": tasks}
    data = {"tokens": FromStep("tokenize/small", "tokens"), "tokenizer": FromStep("tokenizer/small", "tokenizer")}
    for name in ("small.0", "small.1", "small.2", "small"):
        assert graph[f"train/{name}"].inputs == {**data, "hyperparameters": FromStep(f"sweep/{name}", "hyperparameters")}
    assert graph["evaluate/small.small"].inputs["weights"] == FromStep("train/small", "weights")


def test_a_choice_reads_what_is_known_before_it_and_the_pick_reads_all() -> None:
    at_once = edited("- trials: 2", "- trials: 4", edited("startup_trials: 2", "startup_trials: 2, trials_at_once: 2", SWEEP))
    graph = build_graph(commit(at_once + GRID))

    def read(name: str) -> set[str]:
        assert all(isinstance(source, FromStep) for source in graph[name].inputs.values())
        return set(graph[name].inputs)

    assert read("sweep/small.0") == read("sweep/small.1") == read("sweep/small.5") == set()
    reports = {"report-0", "report-1"}
    assert read("sweep/small.2") == reports | {"hyperparameters-0", "hyperparameters-1"}
    assert read("sweep/small.3") == reports | {f"hyperparameters-{n}" for n in range(3)}  # the third is at work beside it
    assert read("sweep/small.4") == {f"{name}-{n}" for n in range(4) for name in ("hyperparameters", "report")}
    assert read("sweep/small") == {f"{name}-{n}" for n in range(7) for name in ("hyperparameters", "report")}
    assert graph["sweep/small"].inputs["report-6"] == FromStep("evaluate/small.6.search", "report")
    assert graph["sweep/small"].inputs["hyperparameters-6"] == FromStep("sweep/small.6", "hyperparameters")


def test_a_choice_is_told_by_what_it_is_drawn_from_alone() -> None:
    graph = build_graph(commit(SWEEP + GRID))
    assert graph["sweep/small.0"].parameters == {"pick": "written", "values": {"training.optimizer.lr": 0.005}}
    drawn = {
        "sampler": {"name": "tpe", "startup_trials": 2},
        "space": {"training.optimizer.lr": {"low": 0.001, "high": 0.01, "log": True}},
    }
    compared = {"task": "search_bpb", "metric": "bits_per_byte", "direction": "minimize"}
    assert graph["sweep/small.1"].parameters == {"pick": "next", "round": 0, "number": 0, **drawn}
    assert graph["sweep/small.2"].parameters == {"pick": "next", "round": 0, "number": 1, **drawn, "objective": compared}
    assert graph["sweep/small.4"].parameters["number"] == 1
    assert graph["sweep/small"].parameters == {"pick": "best", "objective": compared}


def test_trials_and_model_are_one_training_but_for_what_trials_alone_are_to_have() -> None:
    graph = build_graph(commit())
    shared = {graph[f"train/small.{n}"].canonical_parameters for n in range(3)}
    assert shared == {graph["train/small"].canonical_parameters}
    parameters = graph["train/small"].parameters
    assert (parameters["sweep"], parameters["training"]["optimizer"]) == (["training.optimizer.lr"], {})
    other = build_graph(commit(model=edited("lr: 5.0e-3", "lr: 4.0e-3", searched(MODEL))))
    assert other["train/small"].canonical_parameters == graph["train/small"].canonical_parameters
    cheap = build_graph(commit(SWEEP + CHEAP))
    assert cheap["train/small"].canonical_parameters == graph["train/small"].canonical_parameters
    tokens = [cheap[f"train/{name}"].parameters["training"]["tokens"] for name in ("small.0", "small.2", "small")]
    assert tokens == [20_000, 20_000, 40_000]


def test_what_trials_are_to_have_and_the_model_has_anyway_makes_no_other_training() -> None:
    """Written or at its default: so the best trial is still the model."""
    plain, said = (
        commit(),
        commit(SWEEP + "  trial: {training.tokens: 40k, training.seed: 5, training.optimizer.eps: 1.0e-8}\n"),
    )
    for step_id in ("train/small.0", "train/small"):
        assert build_graph(said)[step_id].canonical_parameters == build_graph(plain)[step_id].canonical_parameters


def test_the_model_costs_nothing_where_it_will_be_a_trial_that_is_done() -> None:
    plan = World().plan(commit())
    assert (of(plan, "train/small").estimate.cost, of(plan, "train/small").estimate.seconds) == (0.0, 0.0)
    assert of(plan, "train/small.0").estimate.cost
    cheap = World().plan(commit(SWEEP + CHEAP))
    assert (of(cheap, "train/small").estimate.cost or 0) > (of(cheap, "train/small.0").estimate.cost or 0) > 0


def test_two_models_are_searched_each_on_its_own() -> None:
    twin = edited("{name: small}", "{name: twin}", searched(MODEL))
    graph = build_graph(commit(SWEEP, "", twin))
    assert set(of_trials(0, 1, 2, model="twin")) < set(graph)
    assert graph["sweep/twin"].inputs["report-1"] == FromStep("evaluate/twin.1.search", "report")
    _, done = World().apply(commit(SWEEP, "", twin))
    assert not [name for name in done if "twin" in name]  # it is the same search, which is made once
    _, done = World().apply(commit(SWEEP, "", edited("seed: 5", "seed: 6", twin)))
    again = {*of_trials(0, 1, 2, model="twin"), "sweep/twin", "train/twin"} - {"sweep/twin.0", "sweep/twin.1"}
    assert {name for name in done if "twin" in name} == again


def test_after_everything_is_done_a_plan_is_empty() -> None:
    world = World()
    plan, done = world.apply(commit())
    assert plan.changes == plan.blocked == ()
    assert {action.kind for action in plan.actions} == {ActionKind.NOTHING}
    assert set(ALL) < set(done)
    assert done.index("sweep/small.2") > max(done.index(f"evaluate/small.{n}.search") for n in (0, 1))
    assert len(done) == len(set(done))


def test_the_best_trial_is_the_model(world: World) -> None:
    plan = world.plan(commit())
    train, best = of(plan, "train/small"), of(plan, "train/small.1")
    assert (train.kind, str(train.reasons[0])) == (ActionKind.REUSE, "made under another name: train/small.1")
    assert (train.key, train.products) == (best.key, best.products)
    assert "train/small" not in world.newest
    assert world.newest["evaluate/small.small"].inputs["weights"] == best.products["weights"]
    assert plan.changes == ()


def test_where_trials_are_trained_on_fewer_tokens_the_model_is_trained_on_its_own() -> None:
    world = World()
    before = world.plan(commit(SWEEP + CHEAP))
    assert [of(before, f"train/{name}").estimate.tokens for name in ("small.0", "small.2", "small")] == [20_480, 20_480, 40_960]
    costs = [of(before, f"train/{name}").estimate.cost or 0.0 for name in ("small.0", "small")]
    assert costs[1] == pytest.approx(2 * costs[0])
    assert before.at_most == pytest.approx(3 * costs[0] + costs[1])
    compute = {item.step_id: item.flops or 0.0 for item in review(before, commit(SWEEP + CHEAP)).compute}
    assert compute["train/small"] == pytest.approx(2 * compute["train/small.1"])
    plan, done = world.apply(commit(SWEEP + CHEAP), product=best_is(1))
    assert "train/small" in done
    assert of(plan, "train/small").kind is ActionKind.NOTHING
    inputs = world.newest["train/small"].inputs
    assert inputs == world.newest["train/small.1"].inputs
    assert world.newest["train/small"].products != world.newest["train/small.1"].products


LONGER = edited("- trials: 2", "- trials: 4", SWEEP)


@pytest.mark.parametrize(
    ("sweep", "added"), [(LONGER, (3, 4)), (SWEEP + GRID, (3, 4)), (SWEEP + GRID.replace(", 4.0e-3", ""), (3,))]
)
def test_more_trials_are_planned_alone_and_then_the_best_is_picked_again(
    world: World, sweep: str, added: tuple[int, ...]
) -> None:
    assert ids(world.plan(commit(sweep))) == {*of_trials(*added), "sweep/small"}
    plan, done = world.apply(commit(sweep), product=best_is(1))
    assert set(done) == {*of_trials(*added), "sweep/small"}  # the best one stays: nothing else is made
    assert of(plan, "train/small").kind is ActionKind.REUSE
    assert plan.changes == ()


def test_a_round_that_is_longer_leaves_the_trials_of_those_after_it_as_they_were(world: World) -> None:
    """Their numbers are others: what is drawn is not, and so they are made already."""
    world.apply(commit(SWEEP + GRID), product=best_is(1))
    plan = world.plan(commit(edited("- trials: 2", "- trials: 3", SWEEP) + GRID))
    assert ids(plan) == {"sweep/small.3", "train/small.3", "evaluate/small.3.search", "sweep/small"}
    assert str(of(plan, "sweep/small.4").reasons[0]) == "made under another name: sweep/small.3"
    assert of(plan, "train/small.5").kind is ActionKind.REUSE


def test_another_best_trial_is_another_model_that_is_there(world: World) -> None:
    plan, done = world.apply(commit(LONGER), product=best_is(4))
    assert set(done) == {*of_trials(3, 4), "sweep/small", *SERVED}
    assert str(of(plan, "train/small").reasons[0]) == "made under another name: train/small.4"


def test_the_value_that_is_written_is_the_first_trials_and_of_those_that_know_it(world: World) -> None:
    desired = commit(model=edited("lr: 5.0e-3", "lr: 4.0e-3", searched(MODEL)), commit="d")
    plan = world.plan(desired)
    assert ids(plan) == {*of_trials(0, 2), "sweep/small"}
    assert str(of(plan, "sweep/small.0").reasons[0]) == "field changed: values.training.optimizer.lr: 0.005 -> 0.004 (rebuild)"
    for name, before in (("sweep/small.2", ("sweep/small.0", "evaluate/small.0.search")), ("train/small", ("sweep/small",))):
        assert str(of(plan, name).reasons[0]) == f"decided after {', '.join(before)}"
    random = edited("{name: tpe, startup_trials: 2}", "{name: random}", SWEEP)
    world.apply(commit(random))
    assert ids(world.plan(commit(random, edited("lr: 5.0e-3", "lr: 4.0e-3", searched(MODEL))))) == {
        *of_trials(0),
        "sweep/small",
    }


def test_a_field_that_is_not_searched_changes_every_training_and_no_choice_without_figures(world: World) -> None:
    plan = world.plan(commit(model=edited("seed: 5", "seed: 6", searched(MODEL))))
    assert {action.id for action in plan.changes} == {*ALL, *SERVED} - {"sweep/small.0", "sweep/small.1"}
    for number in (0, 1):
        assert str(of(plan, f"train/small.{number}").reasons[0]) == "field changed: training.seed: 5 -> 6 (rebuild)"


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("startup_trials: 2", "startup_trials: 2, seed: 3", "sampler.seed: default -> 3 (rebuild)"),
        ("low: 1.0e-3", "low: 2.0e-3", "space.training.optimizer.lr.low: 0.001 -> 0.002 (rebuild)"),
        ("log: true", "step: 1.0e-3", "space.training.optimizer.lr.log: True -> default (rebuild)"),
    ],
)
def test_a_choice_says_which_field_of_the_sweep_changed_and_by_which_commit(
    world: World, old: str, new: str, told: str
) -> None:
    desired = commit(edited(old, new, SWEEP), commit="d")
    plan = world.plan(desired)
    assert str(of(plan, "sweep/small.1").reasons[0]) == f"field changed: {told}"
    world.blamed["Sweep/small"] = "b" * 40
    text = to_text(explain(plan, "Sweep/small", desired, world, PastOf(world)))
    assert "no step is its own; what reads it: sweep/small.0 (nothing), sweep/small.1 (run)" in text
    text = to_text(explain(plan, "sweep/small.2", desired, world, PastOf(world)))
    assert "because sweep/small.1, evaluate/small.1.search must be done first" in text
    assert "by commit bbbbbbbbbbbb; a change of it means rebuild" in text


def test_the_figure_that_is_compared_is_told_where_it_is_read(world: World) -> None:
    plan = world.plan(commit(edited("minimize", "maximize", SWEEP)))
    assert ids(plan) == {*of_trials(2), "sweep/small"}
    assert str(of(plan, "sweep/small.2").reasons[0]) == "field changed: objective.direction: minimize -> maximize (rebuild)"


def test_another_suite_is_another_evaluation_of_each_trial_and_of_no_training_at_once(world: World) -> None:
    other = edited("name: search", "name: other", SEARCH).replace("search_bpb", "search_bpb, other_bpb")
    plan = world.plan(commit(edited("EvalSuite/search", "EvalSuite/other", SWEEP), "", other))
    measured = {f"evaluate/small.{n}.other" for n in range(3)}
    assert {action.id for action in plan.changes if action.key} == measured - {"evaluate/small.2.other"}
    assert ids(plan) == {*measured, "sweep/small.2", "train/small.2", "sweep/small"}
    assert [of(plan, f"train/small.{n}").kind for n in range(2)] == [ActionKind.NOTHING] * 2


def test_what_a_sweep_chooses_is_not_told_as_a_default() -> None:
    world, before = World(), desired_of(models=[SWEEP, SEARCH])
    world.apply(before)
    cheap = commit(SWEEP + CHEAP)
    for _ in range(20):
        action = next((each for each in world.plan(cheap).changes if each.key and each.id != "train/small"), None)
        if action is None:
            break
        world.finish(cheap, action)
    told = [str(reason) for reason in of(world.plan(cheap), "train/small").reasons]
    assert told[:2] == [
        "field changed: sweep: default -> ['training.optimizer.lr'] (rebuild)",
        "field changed: training.optimizer.lr: 0.005 -> as its sweep chooses (rebuild)",
    ]
    assert told[2].startswith("input changed: hyperparameters (sweep/small)")
    world.apply(cheap)
    back = [
        str(reason)
        for reason in of(world.plan(desired_of({"models/model.yaml": ("seed: 5", "seed: 6")})), "train/small").reasons
    ]
    assert "field changed: training.optimizer.lr: as its sweep chooses -> 0.005 (rebuild)" in back


def test_a_sweep_was_brought_by_the_commit_in_which_the_model_came_to_name_it() -> None:
    then, now = (desired.compiled["Model/small"] for desired in (desired_of(models=[SWEEP, SEARCH]), commit()))
    alike = same_field(build_graph(commit())["train/small"], ("sweep",))
    assert alike(now, now)
    assert not alike(then, now)


def test_a_longer_training_of_a_searched_model_does_not_go_on_from_the_shorter_one_and_says_why(world: World) -> None:
    longer = edited("tokens: 40k", "tokens: 80k", searched(MODEL))
    why = "not continued: some of its fields are a sweep's choice, which a longer training may have otherwise"
    for number in (0, 1):
        action = of(world.plan(commit(model=longer)), f"train/small.{number}")
        assert (action.kind, action.continues) == (ActionKind.RUN, None)
        assert [str(reason) for reason in action.reasons] == ["field changed: training.tokens: 40000 -> 80000 (extend)", why]
    cheap = World()
    cheap.apply(commit(SWEEP + CHEAP), product=best_is(1))
    plan = cheap.plan(commit(SWEEP + CHEAP, longer))
    assert {action.id for action in plan.changes} == {"train/small", *SERVED}
    action = of(plan, "train/small")
    assert (action.kind, action.continues, action.estimate.tokens) == (ActionKind.RUN, None, 79 * 1024)
    assert [str(reason) for reason in action.reasons] == ["field changed: training.tokens: 40000 -> 80000 (extend)", why]


def test_a_renamed_model_keeps_its_search(world: World) -> None:
    world.apply(commit(without=[DEPLOYMENT]), product=best_is(1))
    renamed = edited("{name: small}", "{name: little, previous_name: small}", searched(MODEL))
    plan = world.plan(commit(model=renamed, without=[DEPLOYMENT]))
    assert [action.id for action in plan.changes] == ["rename/Model/little"]
    graph = build_graph(commit(model=renamed, without=[DEPLOYMENT]))
    assert graph["evaluate/little.1.search"].previous_ids == ("evaluate/small.1.search",)
    assert (graph["sweep/little.1"].previous_ids, graph["sweep/little"].previous_ids) == (("sweep/small.1",), ("sweep/small",))
    world.apply(commit(model=renamed, without=[DEPLOYMENT]))
    plan = world.plan(commit(LONGER, edited(", previous_name: small", "", renamed), without=[DEPLOYMENT]))
    assert {action.id for action in plan.changes} == {*of_trials(3, 4, model="little"), "sweep/little", "train/little"}
    other = edited("low: 1.0e-3", "low: 2.0e-3", SWEEP)
    action = of(world.plan(commit(other, renamed, without=[DEPLOYMENT])), "sweep/little.1")
    assert str(action.reasons[0]) == "field changed: space.training.optimizer.lr.low: 0.001 -> 0.002 (rebuild)"


def test_a_renamed_suite_keeps_its_figures(world: World) -> None:
    suite = edited("{name: search}", "{name: held-out, previous_name: search}", SEARCH)
    sweep = edited("EvalSuite/search", "EvalSuite/held-out", SWEEP)
    plan = world.plan(commit(sweep, suite=suite))
    assert [action.id for action in plan.changes] == ["rename/EvalSuite/held-out"]
    world.apply(commit(sweep, suite=suite))
    more = edited("[search_bpb]", "[search_bpb, more_bpb]", edited(", previous_name: search", "", suite))
    action = of(world.plan(commit(sweep, suite=more)), "evaluate/small.0.held-out")
    assert (action.kind, action.reasons[0].kind) == (ActionKind.RE_EVALUATE, ReasonKind.FIELD_CHANGED)


def test_another_name_of_a_sweep_is_no_other_search(world: World) -> None:
    sweep = edited("{name: small}", "{name: rates, previous_name: small}", SWEEP)
    plan = world.plan(commit(sweep, searched(MODEL, "rates")))
    assert plan.changes == plan.blocked == ()


PAUSED = 'metadata: {annotations: {forge/suspend: "true"}, '


@pytest.mark.parametrize("paused", ["Sweep/small", "EvalSuite/search", "Model/small"])
def test_a_suspended_search_is_held_with_the_model_and_its_data_is_made(paused: str) -> None:
    texts = {"Sweep/small": SWEEP, "EvalSuite/search": SEARCH, "Model/small": searched(MODEL)}
    texts[paused] = edited("metadata: {", PAUSED, texts[paused])
    desired = commit(texts["Sweep/small"], texts["Model/small"], suite=texts["EvalSuite/search"])
    plan, done = World().apply(desired)
    data = {"curate/small", "tokenizer/small"}
    assert set(done) == data if paused == "Model/small" else {*data, "tokenize/small"}
    assert {action.id for action in plan.blocked} >= {*ALL, *SERVED}
    for name in ALL:
        assert of(plan, name).reasons[0].subject == paused or of(plan, name).reasons[0].kind is ReasonKind.WAITS
    world = World()
    world.apply(commit())
    assert world.plan(desired).blocked == ()  # what is there is in sync


def test_a_suspended_search_takes_no_new_trials_and_keeps_what_it_chose(world: World) -> None:
    paused = edited("metadata: {", PAUSED, LONGER)
    plan = world.plan(commit(paused))
    assert plan.changes == ()
    assert {action.id for action in plan.blocked} == {*of_trials(3, 4), "sweep/small", "train/small", *SERVED}
    assert str(of(plan, "sweep/small.3").reasons[0]) == "suspended: Sweep/small"
    assert of(plan, "train/small.1").kind is ActionKind.NOTHING


def test_what_descends_from_a_withdrawn_trial_is_held_with_the_model(world: World) -> None:
    first, second = world.newest["train/small.0"], world.newest["train/small.2"]
    rest = ["sweep/small", "train/small", *SERVED]
    later = of_trials(2)
    table = {
        first.products["weights"]: ["train/small.0", "evaluate/small.0.search", *later, *rest],
        first.byproducts["checkpoint"]: ["train/small.0", "evaluate/small.0.search", *later, *rest],
        world.newest["sweep/small.0"].products["hyperparameters"]: [*of_trials(0), *later, *rest],
        world.newest["evaluate/small.1.search"].products["report"]: ["evaluate/small.1.search", *later, *rest],
        second.products["weights"]: ["train/small.2", "evaluate/small.2.search", *rest],
        "EvalSuite/search": [*(f"evaluate/small.{n}.search" for n in (0, 1)), *later, *rest],
        "Model/small": [*ALL, *SERVED],
    }
    for subject, expected in table.items():
        plan = world.plan(commit(SWEEP, "", withdrawing(subject)))
        assert sorted(held(plan)) == sorted(expected), subject
        assert [action.id for action in plan.changes] == [f"withdraw/{subject}"]
    reason = of(world.plan(commit(SWEEP, "", withdrawing("EvalSuite/search"))), "train/small").reasons[0]
    assert (reason.subject, reason.old) == ("EvalSuite/search", "sweep/small")


def test_a_target_brings_the_whole_search_along() -> None:
    world = World()
    for target in ("Model/small", "Deployment/small-local"):
        found = {action.id for action in world.plan(commit(), Scope(frozenset({target}))).actions}
        assert found >= set(ALL)


def test_a_model_with_a_searched_base_waits_for_the_search() -> None:
    following = MODEL.replace("{name: small}", "{name: next}").replace("objective: pretrain", "objective: continue")
    begin, end = following.index("  tokenizer:"), following.index("  training:")
    following = following[:begin] + "  base: {model: Model/small}\n" + following[end:]
    desired = commit(SWEEP, "", following)
    assert build_graph(desired)["train/next"].inputs["base"] == FromStep("train/small", "weights")
    assert str(of(World().plan(desired), "train/next").reasons[0]).endswith(", train/small")
    world = World()
    _, done = world.apply(desired)
    assert done.index("train/next") > done.index("sweep/small")


edits = st.fixed_dictionaries(
    {
        "trials": st.integers(1, 4),
        "startup": st.integers(1, 3),
        "at_once": st.integers(1, 2),
        "grid": st.booleans(),
        "cheap": st.booleans(),
        "searched": st.booleans(),
        "lr": st.sampled_from(["5.0e-3", "4.0e-3"]),
        "seed": st.sampled_from([5, 6]),
    }
)


def made(edit: dict[str, Any], number: int) -> Desired:
    """The commit that an edit makes."""
    sweep = edited("startup_trials: 2", f"startup_trials: {edit['startup']}, trials_at_once: {edit['at_once']}", SWEEP)
    sweep = edited("- trials: 2", f"- trials: {edit['trials']}", sweep) + GRID * edit["grid"] + CHEAP * edit["cheap"]
    model = MODEL.replace("lr: 5.0e-3", f"lr: {edit['lr']}").replace("seed: 5", f"seed: {edit['seed']}")
    return commit(sweep, searched(model) if edit["searched"] else model, commit=f"{number % 16:x}")


@settings(deadline=None, max_examples=25)
@given(st.lists(edits, min_size=1, max_size=4))
def test_any_sequence_of_searches_ends_where_a_sequential_model_ends(sequence: list[dict[str, Any]]) -> None:
    world, model = World(), Sequential()
    for number, edit in enumerate(sequence):
        desired, before = made(edit, number), set(world.records)
        plan, done = world.apply(desired, product=product(b"text"))  # type: ignore[arg-type]
        expected = model.apply(desired, b"text")
        assert plan.changes == ()
        assert sorted(record.step_id for key, record in world.records.items() if key not in before) == sorted(expected)
        assert len(set(done)) == len(done)
        trained = [record for record in world.records.values() if record.step is StepKind.TRAIN]
        assert len({record.key for record in trained}) == len(trained)
