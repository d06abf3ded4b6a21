"""Carrying out again what several steps of a kind made: who may sign the link of all of them, and when only that is lacking."""

import shutil
from pathlib import Path

import pytest
from tests.admission.test_attacks import bodies_of, record_of, store_of
from tests.admission.test_supply_chain import verdict_of
from tests.conftest import DEPLOYMENT, SUITE, TASK, new_repository, run_forge, write_small
from tests.governed import Governed, commit_as, govern, make_governed

from forge.canonical import hex_of
from forge.contract.record import Record, Reproduction

STEPS = ("evaluate/small.small", "evaluate/small.other", "gate/small-local")


@pytest.fixture(scope="module")
def governed(tmp_path_factory: pytest.TempPathFactory) -> Governed:
    return make_governed(tmp_path_factory.mktemp("governed"))


@pytest.fixture(scope="module")
def waiting(tmp_path_factory: pytest.TempPathFactory, governed: Governed) -> Path:
    """A model that two suites judge; the configurations of two more evaluators lie beside the repository."""
    folder = new_repository(tmp_path_factory.mktemp("waiting") / "repository")
    write_small(folder)
    more = folder / "evals" / "more"
    more.mkdir()
    shutil.copy(folder / "evals" / "tasks" / "small_bpb.jsonl", more)
    (more / "other_bpb.yaml").write_text(TASK.replace("task: small_bpb", "task: other_bpb"))
    other = SUITE.replace("{name: small}", "{name: other}").replace("evals/tasks/*", "evals/more/*")
    (folder / "evals" / "other.yaml").write_text(other.replace("small_bpb", "other_bpb"))
    head, gate = DEPLOYMENT.split("    - suite: EvalSuite/small\n")
    both = f"    - suite: EvalSuite/small\n{gate}    - suite: EvalSuite/other\n{gate.replace('small_bpb', 'other_bpb')}"
    (folder / "models" / "deployment.yaml").write_text(head + both)
    chain = governed.supply_chain(release={})
    keys = [governed.another("evaluator", name, folder.parent / name) for name in ("second", "third")]
    chain["roles"]["evaluator"] |= {"threshold": 2, "keys": [*chain["roles"]["evaluator"]["keys"], *keys]}
    govern(folder, chain, governed.people())
    commit_as(folder, governed, "cleo", "two suites")
    run_forge(folder, governed.config, "keys", "delegate")
    blocked = run_forge(folder, governed.config, "apply", code=1)
    for step in STEPS:
        assert f"{step} needs 2 functionaries, has 1 (evaluator evaluator-1)" in blocked.stderr
    return folder


def reproduced(folder: Path, who: str, step: str) -> str:
    return run_forge(folder, folder.parent / who, "reproduce", step).stderr


def test_the_link_of_a_kind_is_signed_by_who_carried_out_all_of_it(waiting: Path, governed: Governed) -> None:
    assert "chain-" not in reproduced(waiting, "second", STEPS[0])
    assert "chain-" not in reproduced(waiting, "third", STEPS[1])
    assert "signed with it: chain-gate" in reproduced(waiting, "second", STEPS[2])
    blocked = run_forge(waiting, governed.config, "apply", code=1).stderr
    assert "the link of all evaluate steps needs 2 functionaries, has 1 (the release's own)" in blocked
    assert "gate" not in blocked.replace("`forge", "")
    assert "signed with it: chain-evaluate" in reproduced(waiting, "second", STEPS[1])
    run_forge(waiting, governed.config, "apply")
    verdict = verdict_of(waiting, governed.config)
    assert verdict.holds, verdict.findings
    assert any("evaluate/small.other was carried out by 3" in check.message for check in verdict.checks)
    _renamed(waiting, governed)


def _renamed(waiting: Path, governed: Governed) -> None:
    """Another name is another link, of what was carried out before: it is signed, and nothing is run."""
    path = waiting / "models" / "deployment.yaml"
    path.write_text(path.read_text().replace("{name: small-local}", "{name: small-here, previous_name: small-local}"))
    commit_as(waiting, governed, "cleo", "another name")
    blocked = run_forge(waiting, governed.config, "apply", code=1).stderr
    assert "the link of all gate steps needs 2 functionaries, has 1" in blocked
    assert "`forge reproduce gate/small-here` by who has carried out each of gate/small-here signs it" in blocked
    assert "gate/small-here was carried out before; signed by evaluator second; signed with it: chain-gate" in reproduced(
        waiting, "second", "gate/small-here"
    )
    first, again = (
        body for body in bodies_of(waiting) if isinstance(body, Reproduction) and body.step_id == "gate/small-local"
    )
    assert first.attestations["link"] == again.attestations["link"]
    assert first.attestations["chain-gate"] != again.attestations["chain-gate"]
    run_forge(waiting, governed.config, "apply")
    assert verdict_of(waiting, governed.config).holds
    refused = run_forge(waiting, waiting.parent / "second", "reproduce", "gate/small-here", code=4)
    assert "and counts once" in refused.stderr
    assert sum(isinstance(body, Record) and body.step_id.startswith("gate/") for body in bodies_of(waiting)) == 1


def test_inputs_that_the_store_has_lost_are_named(waiting: Path, governed: Governed, tmp_path: Path) -> None:
    copy = tmp_path / "parent" / "copy"
    shutil.copytree(waiting, copy, symlinks=True)
    weights = record_of(copy, "train/small").products["weights"]
    store_of(copy).remove(weights)
    refused = run_forge(copy, waiting.parent / "third", "reproduce", STEPS[0], code=4).stderr
    assert "evaluate/small.small is not carried out again, for its record" in refused
    assert hex_of(weights)[:12] in refused
    assert "[bytes]" in refused
