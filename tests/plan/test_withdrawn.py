"""What is withdrawn holds back every step that descends from it, and nothing else; what is lifted goes on."""

from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.conftest import DATA, SPECS
from tests.plan.world import ALL, PastOf, World, desired_of

from forge.canonical import digest_of_bytes
from forge.plan import render
from forge.plan.action import Action, ActionKind, Plan
from forge.plan.desired import Bundle, BundleFile, Desired
from forge.plan.explain import explain
from forge.plan.explanation import to_text
from forge.plan.graph import build_graph
from forge.plan.health import Health, health_of
from forge.plan.markdown import to_markdown
from forge.plan.plan import make_plan
from forge.plan.reason import ReasonKind
from forge.plan.recorded import Scope
from forge.plan.review import FindingKind, review
from forge.plan.saved import Reading, SavedPlan, from_bytes, to_bytes
from forge.plan.withdrawn import is_withdrawn
from forge.spec.load import load
from forge.spec.resolve import resolve

KEY = "key:" + "5" * 64


def withdrawing(*subjects: str, serving: str = "stop", metadata: str = "{name: withdrawn}") -> str:
    rows = "".join(
        f'\n    - {{subject: "{subject}", reason: "no. {n}", serving: {serving}}}' for n, subject in enumerate(subjects)
    )
    return f"apiVersion: forge/v1\nkind: Withdrawals\nmetadata: {metadata}\nspec:\n  withdrawn:{rows or ' []'}\n"


def commit_of(
    texts: Iterable[str] = SPECS.values(), *, corpus: bytes = b"text", withdrawn: str | None = None, commit: str = "c"
) -> Desired:
    """A commit of some specs, and one more file."""
    texts = [*texts, *([withdrawn] if withdrawn is not None else [])]
    loaded = load((f"{number}.yaml", text.encode()) for number, text in enumerate(texts))
    resolved = resolve(loaded.resources)
    assert (loaded.diagnostics, resolved.diagnostics) == ((), ())
    bytes_of = {"DataRecipe": ("source-0", corpus), "EvalSuite": ("tasks", b"tasks"), "InferencePolicy": ("policy", b"{}")}
    bundles = {}
    for address in resolved.resources:
        name, data = bytes_of.get(address.split("/")[0], ("", b""))
        if name:
            bundles[address, name] = Bundle({"file": BundleFile(len(data), digest_of_bytes(data), origin="corpus/file")})
    return Desired(commit * 40, desired_of().settings, resolved.resources, bundles)


@pytest.fixture
def world() -> World:
    world = World()
    world.apply(commit_of())
    return world


def held(plan: Plan) -> list[str]:
    assert all(action.kind is ActionKind.BLOCKED for action in plan.actions if is_withdrawn(action))
    return [action.id for action in plan.actions if is_withdrawn(action)]


def of(plan: Plan, step_id: str) -> Action:
    return next(action for action in plan.actions if action.id == step_id)


def test_every_descendant_is_blocked_although_it_is_in_sync(world: World) -> None:
    train, evaluate = world.newest["train/small"], world.newest["evaluate/small.small"]
    table = {
        "DataRecipe/small": ALL,
        digest_of_bytes(b"text"): ALL,  # a file's bytes
        world.newest["curate/small"].inputs["source-0"]: ALL,  # the artifact of the source's files
        world.newest["curate/small"].products["report"]: ALL,  # a sibling of what the others read
        world.newest["tokenizer/small"].products["tokenizer"]: ALL[1:],
        train.products["weights"]: ALL[3:],
        train.byproducts["checkpoint"]: ALL[3:],
        "Model/small": ALL[3:],
        "EvalSuite/small": ALL[4:],
        digest_of_bytes(b"tasks"): ALL[4:],
        evaluate.products["report"]: ALL[4:],
        digest_of_bytes(b"{}"): ALL[6:],  # the policy
        "DataRecipe/other": [],
        digest_of_bytes(b"nowhere"): [],
    }
    for subject, expected in table.items():
        plan = world.plan(commit_of(withdrawn=withdrawing(subject)))
        assert held(plan) == expected, subject
        assert [action.id for action in plan.changes] == [f"withdraw/{subject}"]
        for action in plan.blocked:
            (reason,) = action.reasons
            assert (reason.kind, reason.subject, reason.new) == (ReasonKind.WITHDRAWN, subject, "no. 0")


def test_a_file_that_is_fetched_is_withdrawn_by_its_pinned_digest() -> None:
    pinned = f'files: [{{url: "https://example.org/a.jsonl", sha256: {"a" * 64}}}]'
    specs = [text.replace("path: corpus/*.jsonl.gz", pinned) for text in SPECS.values()]
    assert World().plan(commit_of(specs, withdrawn=withdrawing("sha256:" + "2" * 64))).blocked == ()
    plan = World().plan(commit_of(specs, withdrawn=withdrawing("sha256:" + "a" * 64)))
    assert "source-0/0" in str(of(plan, "curate/small").reasons[0])
    assert set(ALL) == set(held(plan))


def test_what_a_key_signed_is_withdrawn_with_all_that_follows(world: World) -> None:
    world.signers = {world.newest["tokenize/small"].key: "5" * 64}
    assert held(world.plan(commit_of(withdrawn=withdrawing(KEY)))) == ALL[2:]
    assert held(world.plan(commit_of(withdrawn=withdrawing("key:" + "6" * 64)))) == []


def test_a_release_that_is_not_there_yet_is_not_made_and_nothing_runs() -> None:
    world = World()
    commit = commit_of(withdrawn=withdrawing("DataRecipe/small"))
    plan, done = world.apply(commit)
    assert done == ["withdraw/DataRecipe/small"]
    assert held(plan) == ALL
    assert (world.records, world.moves) == ({}, {})


def test_evaluations_of_others_and_the_training_before_go_on() -> None:
    world = World()
    plan, done = world.apply(commit_of(withdrawn=withdrawing("EvalSuite/small")))
    assert sorted(done) == sorted(["withdraw/EvalSuite/small", *ALL[:4]])
    assert held(plan) == ALL[4:]


def test_lifting_restores_what_was_there_and_the_ledger_hears_of_both(world: World) -> None:
    withdrawn = commit_of(withdrawn=withdrawing("DataRecipe/small"), commit="d")
    world.apply(withdrawn)
    assert not world.withdrawn["DataRecipe/small"].lifted
    assert world.plan(withdrawn).changes == ()
    for lifting in (commit_of(commit="e"), commit_of(withdrawn=withdrawing(), commit="e")):
        plan = world.plan(lifting)
        (lift,) = plan.changes
        assert lift.withdraw is not None
        assert (lift.kind, lift.withdraw.lifted, held(plan)) == (ActionKind.WITHDRAW, True, [])
        assert "withdrawal lifted: DataRecipe/small" in render.to_text(plan)
    plan, done = world.apply(commit_of(commit="e"))
    assert done == ["withdraw/DataRecipe/small"]
    assert {action.kind for action in plan.actions} == {ActionKind.NOTHING}
    assert world.plan(withdrawn).changes[0].withdraw is not None  # and again


def test_another_reason_or_another_way_of_serving_is_noted_anew(world: World) -> None:
    world.apply(commit_of(withdrawn=withdrawing("Model/small")))
    (change,) = world.plan(commit_of(withdrawn=withdrawing("Model/small", serving="refuse"))).changes
    assert change.withdraw is not None
    assert (change.withdraw.serving, change.withdraw.lifted) == ("refuse", False)


def test_a_file_of_withdrawals_that_was_protected_lifts_nothing_by_leaving(world: World) -> None:
    world.apply(commit_of(withdrawn=withdrawing("Model/small", metadata="{name: withdrawn, protect: true}")))
    plan = world.plan(commit_of(commit="e"))
    assert plan.changes == ()
    assert of(plan, "withdraw/Model/small").reasons[0].kind is ReasonKind.PROTECTED
    (lift,) = world.plan(commit_of(withdrawn=withdrawing(metadata="{name: withdrawn, protect: true}"))).changes
    assert lift.withdraw is not None


def test_a_new_name_hides_nothing(world: World) -> None:
    renamed = DATA.replace("{name: small, owners: [tests]}", "{name: manuals, previous_name: small}")
    copied = DATA.replace("{name: small, owners: [tests]}", "{name: manuals}")
    others = [
        text.replace("DataRecipe/small", "DataRecipe/manuals") for path, text in SPECS.items() if path != "models/data.yaml"
    ]
    for recipe in (renamed, copied):
        plan = world.plan(commit_of([recipe, *others], withdrawn=withdrawing("DataRecipe/small")))
        assert "curate/manuals" in held(plan), recipe
        assert len(held(plan)) == 7
    changed = renamed.replace("seed: 3", "seed: 4")  # another key, the same recipe under its new name
    assert len(held(world.plan(commit_of([changed, *others], withdrawn=withdrawing("DataRecipe/small"))))) == 7
    changed = copied.replace("seed: 3", "seed: 4")  # a recipe of its own: files are withdrawn by their bytes
    assert held(world.plan(commit_of([changed, *others], withdrawn=withdrawing("DataRecipe/small")))) == []


def test_no_run_goes_on_from_what_is_withdrawn(world: World) -> None:
    longer = [text.replace("tokens: 40k", "tokens: 80k") for text in SPECS.values()]
    assert of(world.plan(commit_of(longer)), "train/small").kind is ActionKind.EXTEND
    train = world.newest["train/small"]
    for subject in (train.products["weights"], train.byproducts["checkpoint"]):
        action = of(world.plan(commit_of(longer, withdrawn=withdrawing(subject))), "train/small")
        assert (action.kind, action.continues) == (ActionKind.RUN, None)
        assert "withdrawn" in next(r.subject for r in action.reasons if r.kind is ReasonKind.FROM_SCRATCH)


def test_neither_force_nor_a_target_gets_past_a_withdrawal(world: World) -> None:
    commit = commit_of(withdrawn=withdrawing("Model/small"))
    for scope in (Scope(force=frozenset(ALL)), Scope(frozenset({"Deployment/small-local"}), frozenset(ALL[3:]))):
        plan = world.plan(commit, scope)
        assert held(plan) == ALL[3:]
        assert not any(action.id in ALL[3:] for action in plan.changes)


def test_a_withdrawal_is_worse_than_a_suspension_or_a_no_go() -> None:
    world = World()
    world.apply(commit_of(), verdict="NO-GO")
    suspended = [
        text.replace("metadata: {name: small}", 'metadata: {name: small, annotations: {forge/suspend: "true"}}')
        for text in SPECS.values()
    ]
    commit = commit_of(suspended, withdrawn=withdrawing("DataRecipe/small"))
    plan = world.plan(commit)
    assert held(plan) == ALL
    health = health_of(plan, commit.suspended)
    for address in ("DataRecipe/small", "Tokenizer/small", "Model/small", "Deployment/small-local"):
        assert health[address].health is Health.DEGRADED
        assert "DataRecipe/small" in health[address].message


def test_the_explanation_leads_down_to_what_is_withdrawn(world: World) -> None:
    commit = commit_of(withdrawn=withdrawing(digest_of_bytes(b"text")))
    text = to_text(explain(world.plan(commit), "release/small-local", commit, world, PastOf(world)))
    order = [
        text.index(f"{name}: blocked") for name in ("release/small-local", "train/small", "tokenize/small", "curate/small")
    ]
    assert order == sorted(order)
    assert f"because {digest_of_bytes(b'text')[:19]} is withdrawn, and this descends from it by tokenize/small: no. 0" in text
    assert "and this descends from it by corpus/file: no. 0" in text


def test_a_saved_plan_is_stale_when_the_ledger_says_otherwise_of_withdrawals(world: World) -> None:
    plan = world.plan(commit_of(withdrawn=withdrawing("Model/small", serving="refuse")))
    assert render.from_data(render.to_data(plan)) == plan
    saved = SavedPlan(plan, Scope(), "0.1.0", "d")
    assert from_bytes(to_bytes(saved), "plan") == saved

    def digest() -> str:
        reading = Reading(world)
        make_plan(commit_of(), reading, world.live)
        return reading.digest

    before = digest()
    world.apply(commit_of(withdrawn=withdrawing("Model/gone")))
    assert digest() != before


def test_a_reviewer_sees_what_is_withdrawn_what_that_holds_back_and_where_service_ends(world: World) -> None:
    commit = commit_of(withdrawn=withdrawing("Model/small", "Model/smal"))
    plan = world.plan(commit)
    found = {item.subject: item for item in review(plan, commit, commit_of()).findings}
    assert set(found) == {"Model/small", "Model/smal"}
    assert (found["Model/small"].detail, found["Model/small"].new) == ("holds back 4 steps; local stops serving", "no. 0")
    assert found["Model/smal"].detail == "nothing in this commit descends from it"
    text = to_markdown(plan, review(plan, commit, commit_of()))
    assert "- **withdrawn** `Model/small`: `holds back 4 steps; local stops serving`: nothing → `no. 0`" in text
    assert "| ! | blocked | `release/small-local` |" in text
    world.apply(commit)
    later = review(world.plan(commit), commit).findings  # the ledger knows: what is held back is said step by step
    assert [(item.kind, item.subject) for item in later] == [(FindingKind.BLOCKED, name) for name in ALL[3:]]
    lifted = world.plan(commit_of(commit="e"))
    (finding, *_) = review(lifted, commit_of(), commit).findings
    assert (finding.kind, finding.detail, finding.old) == (FindingKind.WITHDRAWN, "no longer", "no. 1")


def test_a_reason_brings_no_markup_and_no_escape_to_life(world: World) -> None:
    text = withdrawing("Model/small").replace('"no. 0"', '"`<b>\\n\\e[31m@all](x)"')
    commit = commit_of(withdrawn=text)
    plan = world.plan(commit)
    assert "\x1b" in plan.changes[0].withdraw.reason  # type: ignore[union-attr]
    for shown in (to_markdown(plan, review(plan, commit)), render.to_text(plan), render.to_json(plan)):
        assert "\x1b" not in shown
    assert "`'<b>" in to_markdown(plan, review(plan, commit))


subjects = st.lists(
    st.sampled_from([
        "DataRecipe/small", "Model/small", "EvalSuite/small", "Model/other", digest_of_bytes(b"text"),
        digest_of_bytes(b"other"), digest_of_bytes(b"tasks"), digest_of_bytes(b"{}"),
    ]),
    max_size=3, unique=True,
)  # fmt: skip
seeds, corpora = st.sampled_from([5, 6]), st.sampled_from([b"text", b"other"])
edits = st.tuples(seeds, corpora, subjects)


def made_from(commit: Desired, subject: str, step_id: str) -> bool:
    """Whether a step descends from a subject, told in the simplest way: by walking up the commit's graph."""
    step = build_graph(commit)[step_id]
    addresses = {step.subject, *(source.address for source in step.inputs.values() if hasattr(source, "address"))}
    files = {f.sha256 for s in step.inputs.values() if hasattr(s, "bundle") for f in s.bundle.files.values()}
    before = [source.step_id for source in step.inputs.values() if hasattr(source, "step_id")]
    return subject in addresses | files or any(made_from(commit, subject, name) for name in before)


@settings(deadline=None, max_examples=60)
@given(st.lists(edits, min_size=1, max_size=4))
def test_after_a_withdrawal_nothing_makes_or_releases_a_descendant(sequence: list[tuple[int, bytes, list[str]]]) -> None:
    world = World()
    for number, (seed, corpus, withdrawn) in enumerate(sequence):
        texts = [text.replace("seed: 5", f"seed: {seed}") for text in SPECS.values()]
        commit = commit_of(texts, corpus=corpus, withdrawn=withdrawing(*withdrawn), commit=f"{number}")
        plan, done = world.apply(commit)
        assert plan.changes == ()
        steps = build_graph(commit)
        descend = {name for name in steps if any(made_from(commit, subject, name) for subject in withdrawn)}
        assert not descend & set(done)
        assert set(held(plan)) == descend
        assert {s for s, noted in world.withdrawn.items() if not noted.lifted} == set(withdrawn)
        clean = commit_of(texts, corpus=corpus, commit=f"{number}")
        assert held(world.plan(clean)) == []


def test_nothing_withdrawn_asks_the_ledger_for_no_signer(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(_self: World, _keyid: str) -> frozenset[str]:
        raise AssertionError

    monkeypatch.setattr(World, "signed_by", asked)
    world.plan(commit_of())
    world.plan(commit_of(withdrawn=withdrawing("Model/small")))
