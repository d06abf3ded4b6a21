"""What is made under a plan that people have to approve names their approvals, and a verifier judges them anew.

Attacker, where a test has one: holds every role's key and writes the ledger, but is no approver.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.admission.test_attacks import bodies_of, entries_of, rewrite
from tests.admission.test_supply_chain import change_policy, verdict_of
from tests.conftest import new_repository, run_forge, write_small
from tests.governed import Governed, apply_approved, commit_as, govern, make_governed
from tests.made import lay_made

from forge.admission.history import read_history
from forge.admission.plans import Done, judge_plans
from forge.admission.verdict import Finding, Rule
from forge.attest.delegation import delegation_payloads
from forge.attest.envelope import seal
from forge.attest.keys import signer_for
from forge.attest.statements import release_statement
from forge.attest.trust import read_trust_root
from forge.canonical import digest_of_bytes
from forge.contract.charter import Charter
from forge.contract.kinds import Role, StepKind
from forge.contract.record import Approval, Delegation, Record, Release, Spent
from forge.ledger.entry import Entry
from forge.spec.supply_chain import PeopleSpec, SupplyChainSpec

DIGEST = f"sha256:{'1' * 64}"
PLANS: dict[str, Any] = {"plans": {"approvals": 1}, "release": {}}


@pytest.fixture(scope="module")
def governed(tmp_path_factory: pytest.TempPathFactory) -> Governed:
    return make_governed(tmp_path_factory.mktemp("governed"))


@pytest.fixture(scope="module")
def built_once(tmp_path_factory: pytest.TempPathFactory, governed: Governed, applied: Path) -> Path:
    """Written by cleo; one plan, approved by ana, made and released everything; a second one, by ben, another policy."""
    folder = new_repository(tmp_path_factory.mktemp("built") / "repository")
    write_small(folder)
    lay_made(applied, folder)
    govern(folder, governed.supply_chain(**PLANS), governed.people())
    commit_as(folder, governed, "cleo", "the small example, governed")
    run_forge(folder, governed.config, "keys", "delegate")
    apply_approved(folder, governed, "ana")
    change_policy(folder)
    commit_as(folder, governed, "cleo", "shorter answers")
    apply_approved(folder, governed, "ben")
    return folder


@pytest.fixture
def built(built_once: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "copy"
    shutil.copytree(built_once, folder, symlinks=True)
    return folder


def said(folder: Path, governed: Governed) -> list[str]:
    return [str(finding) for finding in verdict_of(folder, governed.config).findings]


def approvals_of(folder: Path) -> dict[str, str]:
    """Entry digests of approvals of plans, by the person."""
    return {entry.body.person: str(entry.digest) for entry in entries_of(folder) if isinstance(entry.body, Approval)}


def move_again(folder: Path, governed: Governed, change: Callable[[Release], Release], *, instead: bool = True) -> None:
    """The releaser's key signs a changed move, in place of the last one or after it."""
    bodies = bodies_of(folder)
    place = max(number for number, body in enumerate(bodies) if isinstance(body, Release))
    last = bodies[place]
    assert isinstance(last, Release)
    moved = change(last)
    sealed = seal(release_statement(moved), signer_for(Role.RELEASER, governed.config))
    moved = moved.model_copy(update={"attestations": {**last.attestations, "release": str(digest_of_bytes(sealed))}})
    changed = [*bodies[:place], moved, *bodies[place + 1 :]] if instead else [*bodies, moved]
    rewrite(folder, changed, [sealed], fresh=True)


def test_records_and_the_release_name_the_approvals_of_their_plan(built: Path, governed: Governed) -> None:
    verdict = verdict_of(built, governed.config)
    assert verdict.holds, [str(item) for item in verdict.findings]
    assert "8 of 8 steps and moves were made under plans approved by ana, ben" in [check.message for check in verdict.checks]
    given = approvals_of(built)
    done = [body for body in bodies_of(built) if isinstance(body, Record | Release)]
    assert {body.plan_approvals for body in done} == {(given["ana"],), (given["ben"],)}
    gate = next(body for body in done if isinstance(body, Record) and body.step is StepKind.GATE)
    assert gate.plan_approvals == (given["ana"],)


def test_an_approval_that_is_removed_from_the_ledger_is_missed(built: Path, governed: Governed) -> None:
    rewrite(built, [body for body in bodies_of(built) if not isinstance(body, Approval)], fresh=True)
    assert any("[approval]" in line and "is no approval of a plan in the ledger" in line for line in said(built, governed))


def test_a_release_without_the_approvals_that_its_plan_needed_is_refused(built: Path, governed: Governed) -> None:
    move_again(built, governed, lambda last: last.model_copy(update={"plan_approvals": ()}))
    (finding,) = said(built, governed)
    assert finding.startswith("[approval] release of local: its plan needs 1, has 0: `forge plan --out FILE`")


def test_the_approval_of_another_commits_plan_is_refused(built: Path, governed: Governed) -> None:
    ana = approvals_of(built)["ana"]
    move_again(built, governed, lambda last: last.model_copy(update={"plan_approvals": (ana,)}))
    (finding,) = said(built, governed)
    assert "[approval] release of local: the plan that ana approved" in finding
    assert "is of commit" in finding


def test_the_approval_of_a_plan_without_this_step_is_refused(built: Path, governed: Governed) -> None:
    """A plan of the same commit that stops before the release."""
    path = built / "models" / "model.yaml"
    path.write_text(path.read_text().replace("seed: 5", "seed: 6"))
    commit_as(built, governed, "cleo", "another model")
    apply_approved(built, governed, "ana", target="Model/small")
    apply_approved(built, governed, "ben")
    assert verdict_of(built, governed.config).holds
    ana = approvals_of(built)["ana"]
    move_again(built, governed, lambda last: last.model_copy(update={"plan_approvals": (ana,)}))
    (finding,) = said(built, governed)
    assert "does not hold release/small-local" in finding


def test_an_approval_does_not_count_twice_for_the_same_move(built: Path, governed: Governed) -> None:
    move_again(built, governed, lambda last: last.model_copy(update={"moved": "2098-01-01T00:00:00.000+00:00"}), instead=False)
    assert any("[approval]" in line and "it counts once for each step" in line for line in said(built, governed))


def test_who_wrote_a_change_does_not_approve_its_plan(built: Path, governed: Governed) -> None:
    change_policy(built, "max_tokens: 16", "max_tokens: 8")
    commit_as(built, governed, "ana", "even shorter answers")
    assert "who wrote a change may not approve it" in apply_approved(built, governed, "ana", code=4)
    apply_approved(built, governed, "ben")
    assert verdict_of(built, governed.config).holds
    ana = approvals_of(built)["ana"]
    move_again(built, governed, lambda last: last.model_copy(update={"plan_approvals": (ana,)}))
    (finding,) = said(built, governed)
    assert "ana's does not count: who wrote a change may not approve it" in finding


def test_a_plan_that_was_exchanged_beside_its_approval_is_refused(built: Path, governed: Governed) -> None:
    """The approval of the first plan lists the second one's file; no signature is over that list."""
    first, second = [body for body in bodies_of(built) if isinstance(body, Approval)]
    exchanged = second.model_copy(update={"attestations": {**second.attestations, "plan": first.attestations["plan"]}})
    bodies = [exchanged if body == second else body for body in bodies_of(built)]
    rewrite(built, bodies, fresh=True)
    ben = approvals_of(built)["ben"]
    move_again(built, governed, lambda last: last.model_copy(update={"plan_approvals": (ben,)}))
    assert any("is kept with the approval" in line for line in said(built, governed))


def judged(governed: Governed, statements: int, step: StepKind, cost: float | None, **plans: Any) -> list[Finding]:
    """A record that names no approval, under a supply chain with these rules for plans."""
    charter = Charter(
        supply_chain=SupplyChainSpec.model_validate(governed.supply_chain(plans={"approvals": 1, **plans})),
        people=PeopleSpec.model_validate(governed.people()),
    )
    root = read_trust_root(governed.config)
    delegation = Delegation(
        version=1,
        charter=charter.to_document(),
        digest=charter.digest,
        commit="c" * 40,
        signed="2026-11-23T00:00:00.000+00:00",
        statements=2 if statements == 2 else 1,
    )
    sealed = {
        name: seal(payload, signer_for(Role.ROOT, governed.config))
        for name, payload in delegation_payloads(delegation, root).items()
    }
    names = {name: str(digest_of_bytes(data)) for name, data in sealed.items()}
    record = Record(
        key=DIGEST,
        step=step,
        step_version=1,
        step_id=f"{step.value}/small",
        subject="Model/small",
        parameters={},
        inputs={},
        products={},
        commit="c" * 40,
        attempt=1,
        started="2026-11-23T00:00:01.000+00:00",
        finished="2026-11-23T00:00:01.000+00:00",
        environment={},
        estimate=None if cost is None else Spent(seconds=1.0, cost=cost),
        actual=Spent(seconds=1.0, cost=cost),
        attestations={},
    )
    first = Entry(sequence=1, previous=None, body=delegation.model_copy(update={"attestations": names}))
    second = Entry(sequence=2, previous=first.digest, body=record)
    history = read_history([first, second], {str(digest_of_bytes(data)): data for data in sealed.values()}, root)
    assert not history.findings
    found = judge_plans([Done(record, 2)], [first, second], {}, {}, history)
    return [item for item in found if isinstance(item, Finding)]


def test_what_was_made_before_records_named_approvals_stays_valid(governed: Governed) -> None:
    assert judged(governed, 1, StepKind.TRAIN, 5.0) == []
    (finding,) = judged(governed, 2, StepKind.TRAIN, 5.0)
    assert finding.rule is Rule.APPROVAL
    assert "its plan needs 1, has 0" in finding.message


@pytest.mark.parametrize(
    ("step", "cost", "asked"),
    [
        (StepKind.TRAIN, 5.0, False),
        (StepKind.TRAIN, 5.1, True),
        (StepKind.TRAIN, None, True),
        (StepKind.EVALUATE, None, False),
    ],
)
def test_above_a_cost_a_training_proves_by_itself_that_its_plan_needed_approval(
    governed: Governed, step: StepKind, cost: float | None, asked: bool
) -> None:
    assert bool(judged(governed, 2, step, cost, above_cost=5.0)) == asked
