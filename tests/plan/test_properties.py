"""Laws of planning: empty after apply, nothing twice, round trips, and the same end as a simple sequential model."""

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.conftest import SPECS
from tests.plan.world import World, desired_of

from forge.canonical import digest_of_json
from forge.contract.kinds import STEPS, StepKind
from forge.plan import render
from forge.plan.desired import Desired
from forge.plan.graph import build_graph
from forge.plan.recorded import Scope
from forge.plan.saved import Reading, SavedPlan, from_bytes, to_bytes
from forge.plan.step import FromCommit, step_key, version_of

DEPLOYMENT = "models/deployment.yaml"
edits = st.fixed_dictionaries(
    {
        "seed": st.sampled_from([5, 6]),
        "lr": st.sampled_from(["5.0e-3", "4.0e-3"]),
        "tokens": st.sampled_from(["40k", "80k"]),
        "corpus": st.sampled_from([b"text", b"other", b"third"]),
        "policy": st.sampled_from([b"{}", b"{ }"]),
        "limit": st.sampled_from(["7.0", "6.0"]),
        "deployed": st.booleans(),
    }
)
SAME = {b"text": "one", b"other": "one", b"third": "two"}
"""Two of the three corpora give the same documents: there an edit of the data stops."""


def desired(edit: dict[str, object], number: int) -> Desired:
    """The commit that an edit makes."""
    model = SPECS["models/model.yaml"]
    changed = model.replace("seed: 5", f"seed: {edit['seed']}").replace("5.0e-3", str(edit["lr"]))
    changed = changed.replace("tokens: 40k", f"tokens: {edit['tokens']}")
    changes = {"models/model.yaml": (model, changed)}
    if edit["deployed"]:
        changes[DEPLOYMENT] = ("max: 7.0", f"max: {edit['limit']}")
    return desired_of(
        changes,
        corpus=edit["corpus"],  # type: ignore[arg-type]
        policy=edit["policy"],  # type: ignore[arg-type]
        commit=f"{number % 16:x}",
        without=[] if edit["deployed"] else [DEPLOYMENT],
    )


def product(corpus: object) -> object:
    """Names of products, as if two corpora gave the same documents."""
    return lambda step, key: SAME[corpus] if step.kind is StepKind.CURATE else key  # type: ignore[index]


class Sequential:
    """The simplest thing that could be right: walk the graph, make what was never made, remember it."""

    def __init__(self) -> None:
        self.made: dict[str, dict[str, str]] = {}
        self.serves: str | None = None

    def apply(self, commit: Desired, corpus: object) -> list[str]:
        products: dict[str, dict[str, str]] = {}
        ran = []
        graph = build_graph(commit)
        for step in graph.values():
            inputs = {
                name: source.bundle.digest if isinstance(source, FromCommit) else products[source.step_id][source.product]
                for name, source in step.inputs.items()
            }
            key = step_key(step.kind, version_of(step.kind), step.parameters, inputs)
            if key not in self.made:
                ran.append(step.id)
                name = product(corpus)(step, key)  # type: ignore[operator]
                self.made[key] = {each: digest_of_json([each, name]) for each in STEPS[step.kind].products}
            products[step.id] = self.made[key]
            if step.kind is StepKind.RELEASE:
                self.serves = self.made[key]["release"]
        if not any(step.kind is StepKind.RELEASE for step in graph.values()):
            self.serves = None
        return ran


@settings(deadline=None, max_examples=40)
@given(st.lists(edits, min_size=1, max_size=5))
def test_any_sequence_of_edits_ends_where_a_sequential_model_ends(sequence: list[dict[str, object]]) -> None:
    world, model = World(), Sequential()
    names: dict[str, str] = {}
    for number, edit in enumerate(sequence):
        commit = desired(edit, number)
        before = set(world.records)
        plan, done = world.apply(commit, product=product(edit["corpus"]))  # type: ignore[arg-type]
        expected = model.apply(commit, edit["corpus"])
        assert plan.changes == ()
        ran = [record.step_id for key, record in world.records.items() if key not in before]
        assert sorted(ran) == sorted(expected)
        assert len(set(done)) == len(done)
        serving = world.release("local")
        if model.serves is None:
            assert serving is None
        else:
            assert serving is not None
            assert names.setdefault(model.serves, serving.release) == serving.release


@settings(deadline=None, max_examples=25)
@given(edits, edits)
def test_a_plan_reads_back_from_its_json_and_from_its_file(first: dict[str, object], second: dict[str, object]) -> None:
    world = World()
    world.apply(desired(first, 1))
    plan = world.plan(desired(second, 2))
    assert render.from_data(render.to_data(plan)) == plan
    saved = SavedPlan(plan, Scope(frozenset({"Model/small"})), "0.1.0", Reading(world).digest)
    assert from_bytes(to_bytes(saved), "plan") == saved


@settings(deadline=None, max_examples=25)
@given(edits, edits)
def test_what_is_decided_while_a_plan_is_applied_stays_within_it(first: dict[str, object], second: dict[str, object]) -> None:
    from forge.plan.saved import exceeds

    world = World()
    world.apply(desired(first, 1), product=product(first["corpus"]))  # type: ignore[arg-type]
    commit = desired(second, 2)
    allowed = now = world.plan(commit)
    while now.changes:
        assert exceeds(allowed, now, 0.0) == []
        action = next(action for action in now.changes if action.key is not None or action.step is None)
        world.finish(commit, action, product=product(second["corpus"]))  # type: ignore[arg-type]
        now = world.plan(commit)
