"""Who descends from what, over records alone: the same in any order of the records, and no detour hides anything."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.plan.full import desired_from, full_documents

from forge.admission.descent import Cause, Descent, Known
from forge.admission.evidence import Evidence
from forge.admission.withdrawals import _aliases
from forge.contract.kinds import StepKind
from forge.contract.messages import Continued
from forge.contract.record import Record, Spent
from forge.plan.graph import build_graph


def digest(name: str) -> str:
    return "sha256:" + hashlib.sha256(name.encode()).hexdigest()


def record(
    name: str, reads: list[str], makes: list[str], *, step: StepKind = StepKind.CURATE, subject: str = "", **more: object
) -> Record:
    return Record(
        key=digest(f"key {step} {name}"), step=step, step_version=1, step_id=f"{step}/{name}",
        subject=subject or f"DataRecipe/{name}",
        parameters={}, inputs={f"in-{n}": digest(each) for n, each in enumerate(reads)},
        products={f"out-{n}": digest(each) for n, each in enumerate(makes)}, commit="c" * 40, attempt=1, started="a",
        finished="b", environment={}, actual=Spent(seconds=1), attestations={}, **more,  # type: ignore[arg-type]
    )  # fmt: skip


def descend(records: list[Record], *subjects: str, known: Known | None = None) -> list[str]:
    return [each.step_id for each in Descent(records, subjects, known or Known()).descendants()]


def test_a_name_a_digest_a_file_and_a_key_reach_everything_after_them() -> None:
    chain = [
        record("a", ["source"], ["documents", "report"]),
        record("b", ["documents"], ["tokens"]),
        record("c", ["tokens"], ["weights"]),
    ]
    other = record("d", ["elsewhere"], ["more"])
    records = [*chain, other]
    everything = ["curate/a", "curate/b", "curate/c"]
    assert descend(records, "DataRecipe/a") == everything
    assert descend(records, digest("source")) == everything
    assert descend(records, digest("report")) == everything
    assert descend(records, digest("tokens")) == everything[1:]
    assert descend(records, "Model/none") == []
    files = Known(files={digest("source"): {digest("one line"): "corpus/one.jsonl"}})
    assert descend(records, digest("one line"), known=files) == everything
    (cause,) = Descent(records, [digest("one line")], files).causes(chain[2])
    assert cause == Cause(digest("one line"), "curate/a", "in-0/corpus/one.jsonl")
    signers = Known(signers={chain[1].key: frozenset({"5" * 64})})
    assert descend(records, "key:" + "5" * 64, known=signers) == everything[1:]


def test_a_file_that_was_fetched_is_found_by_its_pin_and_a_file_of_a_commit_by_the_inventory() -> None:
    pins = {"sources": [{}, {"files": [{"sha256": "1" * 64}]}, {"git": {"commit": "2" * 40}}]}
    fetched = record("curated", [], ["documents"], byproducts={"inventory": digest("inventory")})
    fetched = fetched.model_copy(update={"parameters": pins})
    reader = record("trained", ["documents"], ["weights"], step=StepKind.TRAIN)
    known = Known(files={digest("inventory"): {"sha256:" + "3" * 64: "source-2/a.py"}})
    for name in ("1", "3"):
        assert descend([fetched, reader], "sha256:" + name * 64, known=known) == ["curate/curated", "train/trained"]
    assert descend([fetched, reader], "sha256:" + "2" * 64, known=known) == []


@pytest.mark.parametrize(
    "sources", [5, None, [5], [{"files": 5}], [{"files": [5, {}]}], [{"git": "x"}], [{"git": {"commit": 5}}], {"git": 1}]
)
def test_parameters_that_nobody_can_read_pin_nothing(sources: object) -> None:
    curated = record("curated", [], ["documents"]).model_copy(update={"parameters": {"sources": sources}})
    assert descend([curated], "sha256:" + "1" * 64) == []


def test_an_artifact_with_a_clean_maker_does_not_descend() -> None:
    """Two models give the same report, or a corpus gives the same documents without a file."""
    withdrawn, clean = record("a", ["one"], ["report"]), record("b", ["two"], ["report"])
    gate = record("g", ["report"], ["verdict"])
    for records in ([withdrawn, clean, gate], [clean, gate, withdrawn], [withdrawn, gate, clean]):
        assert descend(records, digest("one")) == ["curate/a"]
        assert set(descend(records, digest("one"), digest("two"))) == {"curate/a", "curate/b", "curate/g"}
        assert set(descend(records, digest("report"))) == {"curate/a", "curate/b", "curate/g"}


def test_records_that_vouch_for_each_other_clear_nothing() -> None:
    circle = [record("x", ["two"], ["one"]), record("y", ["one"], ["two"])]
    maker, reader = record("m", ["bad"], ["one"]), record("r", ["one"], ["out"])
    assert set(descend([*circle, maker, reader], digest("bad"))) == {"curate/x", "curate/y", "curate/m", "curate/r"}


def test_a_continued_run_descends_from_the_checkpoint_it_went_on_from() -> None:
    first = record("m", ["tokens"], ["w1"], step=StepKind.TRAIN, subject="Model/m", byproducts={"checkpoint": digest("c1")})
    went_on = Continued(key=first.key, checkpoint=digest("c1"), tokens=1)
    second = record("n", ["tokens"], ["w2"], step=StepKind.TRAIN, subject="Model/n", continued=went_on)
    assert descend([first, second], digest("c1")) == ["train/m", "train/n"]
    assert descend([first, second], "Model/m") == ["train/m", "train/n"]
    assert descend([first, second], "Model/n") == ["train/n"]


def test_an_evaluation_is_named_by_its_suite() -> None:
    evaluate = record("m.harm", ["w"], ["r"], step=StepKind.EVALUATE, subject="Model/m")
    assert descend([evaluate], "EvalSuite/harm") == ["evaluate/m.harm"]
    assert descend([evaluate], "EvalSuite/m") == []


artifacts = st.integers(0, 7)
graphs = st.lists(st.tuples(st.lists(artifacts, max_size=3), st.lists(artifacts, min_size=1, max_size=2)), max_size=8)


@settings(deadline=None, max_examples=200)
@given(graphs, st.sets(artifacts, max_size=2), st.randoms())
def test_the_order_of_records_changes_nothing_and_more_subjects_never_clear(
    graph: list[tuple[list[int], list[int]]], subjects: set[int], shuffled: object
) -> None:
    records = [record(f"r{n}", [f"{x}" for x in reads], [f"{x}" for x in makes]) for n, (reads, makes) in enumerate(graph)]
    wanted = [digest(f"{each}") for each in sorted(subjects)]
    found = set(descend(records, *wanted))
    mixed = list(records)
    shuffled.shuffle(mixed)  # type: ignore[attr-defined]
    assert set(descend(mixed, *wanted)) == found
    for fewer in wanted:
        assert set(descend(records, fewer)) <= found
    descent = Descent(records, wanted, Known())
    derivable = {f"{n}" for n in range(8) if not any(digest(f"{n}") in each.products.values() for each in records)}
    unnamed = [each for each in records if not {*each.inputs.values(), *each.products.values()} & {*wanted}]
    while True:  # what can be made from commits without a step that is named
        there = {digest(x) for x in derivable}
        makers = [each for each in unnamed if set(each.inputs.values()) <= there]
        more = {n for n in map(str, range(8)) if any(digest(n) in each.products.values() for each in makers)}
        if more <= derivable:
            break
        derivable |= more
    for n in map(str, range(8)):
        made = any(digest(n) in each.products.values() for each in records)
        assert descent.artifact(digest(n)) == (made and n not in derivable)


def test_what_was_made_under_a_later_name_is_named_by_the_earlier_one() -> None:
    graph = build_graph(desired_from(full_documents()))  # every resource there was called old-NAME before
    evidence = Evidence(graphs={"c" * 40: graph})
    trained = record("a", ["t"], ["w"], step=StepKind.TRAIN, subject="Model/a")
    evaluated = record("a.a", ["w"], ["r"], step=StepKind.EVALUATE, subject="Model/a")
    curated = record("a", ["s"], ["t"], step=StepKind.CURATE, subject="DataRecipe/a")
    evidence.records = {each.key: each for each in (trained, evaluated, curated)}
    known = Known(aliases=_aliases(evidence))
    for subject, expected in (
        ("DataRecipe/old-a", ["train/a", "evaluate/a.a", "curate/a"]),
        ("Model/old-a", ["train/a", "evaluate/a.a"]),
        ("EvalSuite/old-a", ["evaluate/a.a"]),
        ("Model/old-b", []),
    ):
        assert descend([trained, evaluated, curated], subject, known=known) == expected
