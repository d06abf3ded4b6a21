"""Laws of planning under edits that say nothing about products: renames, protection, suspension; and under lost artifacts."""

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.conftest import SPECS
from tests.plan.world import World, desired_of

from forge.contract.kinds import StepKind
from forge.plan.action import SETTLED, Action, ActionKind, Plan
from forge.plan.desired import Desired
from forge.plan.graph import build_graph
from forge.plan.reason import ReasonKind
from forge.plan.step import FromStep, Step

DEPLOYMENT = "models/deployment.yaml"
KINDS = [kind.value for kind in (StepKind.CURATE, StepKind.TOKENIZE, StepKind.TRAIN, StepKind.GATE, StepKind.RELEASE)]
edits = st.fixed_dictionaries(
    {
        "seed": st.sampled_from([5, 6]),
        "corpus": st.sampled_from([b"text", b"other"]),
        "name": st.sampled_from(["small", "handbook", "manual"]),
        "deployed": st.booleans(),
        "protected": st.booleans(),
        "suspended": st.sampled_from([None, None, "models/data.yaml", "models/model.yaml", DEPLOYMENT]),
        "lost": st.sets(st.sampled_from(KINDS), max_size=2),
    }
)
Edit = dict[str, object]


@dataclass
class History:
    """A world, and the edits that led to it."""

    world: World = field(default_factory=World)
    name: str = "small"
    """Of the model, in the last commit."""
    protected: bool = False
    """What the last commit that held the deployment says of it."""
    number: int = 0

    def commit(self, edit: Edit) -> Desired:
        """The commit that an edit makes; a model that has another name says what it was called."""
        texts = dict(SPECS)
        renamed = f", previous_name: {self.name}" if edit["name"] != self.name else ""
        model = texts["models/model.yaml"].replace("{name: small}", f"{{name: {edit['name']}{renamed}}}")
        texts["models/model.yaml"] = model.replace("seed: 5", f"seed: {edit['seed']}")
        protect = ", protect: true" if edit["protected"] else ""
        texts[DEPLOYMENT] = texts[DEPLOYMENT].replace("Model/small", f"Model/{edit['name']}")
        texts[DEPLOYMENT] = texts[DEPLOYMENT].replace("{name: small-local}", f"{{name: small-local{protect}}}")
        if edit["suspended"] is not None:
            path = str(edit["suspended"])
            texts[path] = texts[path].replace("metadata: {", 'metadata: {annotations: {forge/suspend: "true"}, ')
        self.number += 1
        self.name = str(edit["name"])
        return desired_of(
            {path: (SPECS[path], text) for path, text in texts.items()},
            corpus=edit["corpus"],  # type: ignore[arg-type]
            commit=f"{self.number % 16:x}",
            without=[] if edit["deployed"] else [DEPLOYMENT],
        )

    def lose(self, kinds: object) -> set[str]:
        """The store loses what the newest steps of some kinds made; returns the keys of all that it has lost by now."""
        world = self.world
        for record in world.newest.values():
            if record.step.value in kinds:  # type: ignore[operator]
                world.stored.difference_update(record.products.values())
        return {key for key, record in world.records.items() if not world.live.has_all(record.products.values())}


def reads(step: Step) -> set[str]:
    return {source.step_id for source in step.inputs.values() if isinstance(source, FromStep)}


def held(graph: dict[str, Step]) -> set[str]:
    """Steps that are suspended, or that read from one that is."""
    found: set[str] = set()
    for step in graph.values():
        if step.suspended or reads(step) & found:
            found.add(step.id)
    return found


@settings(deadline=None, max_examples=60)
@given(st.lists(edits, min_size=1, max_size=6))
def test_whatever_is_edited_suspended_protected_renamed_or_lost_the_laws_hold(sequence: list[Edit]) -> None:
    history = History()
    world = history.world
    for edit in sequence:
        commit = history.commit(edit)
        lost = history.lose(edit["lost"])
        known, told = set(world.records), len(world._history)
        graph = build_graph(commit)
        plan, done = world.apply(commit)
        made = [record for _, record in world._history[told:]]
        keys = [record.key for record in made]
        assert plan.changes == (), "what was applied is in sync"
        assert len(set(done)) == len(done), "nothing is done twice"
        assert len(set(keys)) == len(keys), "no key is completed twice"
        assert set(keys) <= (set(keys) - known) | lost, "what is recorded and stored is never made again, whatever its name is"
        assert not {record.step_id for record in made} & {step.id for step in graph.values() if step.suspended}
        for action in plan.actions:
            check(action, held(graph), world)
        check_protection(history, edit, plan)
        history.protected = bool(edit["protected"]) if edit["deployed"] else history.protected


def check(action: Action, may_wait: set[str], world: World) -> None:
    """A step is in sync and its products are there, or it is suspended or waits for one that is."""
    if action.step is None:
        return
    if action.kind in SETTLED:
        assert action.products
        assert world.live.has_all(action.products.values())
    else:
        assert action.kind is ActionKind.BLOCKED
        assert action.id in may_wait, action
        assert action.reasons[0].kind in (ReasonKind.SUSPENDED, ReasonKind.WAITS)


def check_protection(history: History, edit: Edit, plan: Plan) -> None:
    """A deployment that leaves is retired and serves nothing more, unless the last commit that held it protects it."""
    world, left = history.world, not edit["deployed"]
    known = world.subjects().get("Deployment/small-local")
    if left and known is not None and history.protected:
        assert known.retired is None
        (action,) = [action for action in plan.blocked if action.id == "Deployment/small-local"]
        assert action.reasons[0].kind is ReasonKind.PROTECTED
    elif left and known is not None:
        assert known.retired is not None
        assert world.release("local") is None


@settings(deadline=None, max_examples=30)
@given(edits, st.sampled_from(["handbook", "manual"]), st.booleans())
def test_a_renaming_alone_makes_nothing(edit: Edit, name: str, protect: bool) -> None:
    """A renaming asks for a note of it, and for a pointer that says the model's new name; nothing is made again."""
    history = History()
    first = {**edit, "name": "small", "suspended": None, "deployed": True}
    history.world.apply(history.commit(first))
    _, done = history.world.apply(history.commit({**first, "name": name, "protected": protect}))
    expected = {
        "release/small-local",
        f"rename/Model/{name}",
        *({"Deployment/small-local"} if protect is not edit["protected"] else ()),
    }
    assert set(done) == expected
    assert len({record.products["weights"] for record in history.world.records.values() if record.step is StepKind.TRAIN}) == 1


@settings(deadline=None, max_examples=30)
@given(edits, edits)
def test_what_was_suspended_is_done_once_it_is_not(first: Edit, second: Edit) -> None:
    """Suspended and let go on, a world ends where one ends that was never suspended."""
    ends = []
    for suspended in (first["suspended"], None):
        history = History()
        history.world.apply(history.commit({**first, "suspended": None, "lost": set(), "deployed": True}))
        history.world.apply(history.commit({**second, "suspended": suspended, "deployed": True}))
        plan, _ = history.world.apply(history.commit({**second, "suspended": None, "deployed": True}))
        release = history.world.release("local")
        assert release is not None
        ends.append(({action.id: action.key for action in plan.actions if action.step}, release.release))
    assert ends[0] == ends[1]
