"""What a pull request adds, and what in it somebody has to answer for."""

import pytest
from tests.conftest import SETTINGS
from tests.plan.full import desired_from, full_documents
from tests.plan.world import World, desired_of

from forge.plan.action import ActionKind, Plan
from forge.plan.desired import Desired
from forge.plan.graph import build_graph, unchanged_steps
from forge.plan.live import EVERY_ARTIFACT, Live
from forge.plan.plan import make_plan
from forge.plan.review import Finding, FindingKind, review

MODEL, DATA, POLICY, DEPLOYMENT = (
    f"{path}.yaml" for path in ("models/model", "models/data", "policies/small", "models/deployment")
)
SEED = {MODEL: ("seed: 5", "seed: 6")}


def added(world: World, desired: Desired, base: Desired) -> Plan:
    unchanged = unchanged_steps(build_graph(desired), build_graph(base))
    return world.plan(desired).beyond(world.plan(base), unchanged)


def found(desired: Desired, base: Desired) -> list[Finding]:
    return list(review(Plan(None, "USD", ()), desired, base).findings)


def ids(plan: Plan) -> list[str]:
    return [action.id for action in plan.changes]


def test_a_change_adds_what_its_base_does_not_need() -> None:
    world = World()
    world.apply(desired_of())
    assert ids(added(world, desired_of(SEED, commit="d"), desired_of())) == [
        "train/small",
        "evaluate/small.small",
        "gate/small-local",
        "release/small-local",
    ]


def test_a_change_is_seen_although_nothing_was_ever_applied() -> None:
    """Both trainings are "decided after" the same tokenization: the actions are equal, what is trained is not."""
    plan = added(World(), desired_of(SEED, commit="d"), desired_of())
    assert ids(plan)[0] == "train/small"
    assert "curate/small" not in ids(plan)
    policy = added(World(), desired_of(policy=b"{ }", commit="d"), desired_of())
    assert ids(policy) == ["release/small-local"]


def test_what_the_base_needs_as_well_is_left_out() -> None:
    world = World()
    world.apply(desired_of())
    unapplied = desired_of(SEED, commit="d")
    both = desired_of({**SEED, DEPLOYMENT: ("max: 7.0", "max: 6.0")}, commit="e")
    assert ids(added(world, both, unapplied)) == ["gate/small-local", "release/small-local"]
    world.stored.clear()
    assert ids(added(world, desired_of(commit="e"), desired_of())) == []


def test_a_new_price_adds_no_work() -> None:
    dearer = desired_of(settings=SETTINGS.replace("0.08", "8.0"), commit="d")
    assert ids(added(World(), dearer, desired_of())) == []


def test_what_was_held_back_before_is_not_held_back_by_the_change() -> None:
    world = World()
    strict = desired_of({DEPLOYMENT: ("max: 7.0", "max: 0.1")})
    world.apply(strict, verdict="NO-GO")
    assert [action.id for action in world.plan(strict).blocked] == ["release/small-local"]
    assert added(world, desired_of({DEPLOYMENT: ("max: 7.0", "max: 0.1")}, commit="d"), strict).blocked == ()
    stricter = desired_of({DEPLOYMENT: ("max: 7.0", "max: 0.05")}, commit="d")
    assert ids(added(world, stricter, strict)) == ["gate/small-local", "release/small-local"]


def test_a_removed_spec_is_added_as_a_retirement_and_found() -> None:
    world = World()
    world.apply(desired_of())
    plan = added(world, desired_of(without=[DEPLOYMENT], commit="d"), desired_of())
    assert ids(plan) == ["Deployment/small-local"]
    assert [item.kind for item in review(plan, desired_of(without=[DEPLOYMENT])).findings] == [FindingKind.STOPS_SERVING]


def test_without_its_store_a_machine_plans_what_the_ledger_tells() -> None:
    """A pull request is planned where no credentials for the store are: an empty store would rebuild everything."""
    world = World()
    world.apply(desired_of())
    desired = desired_of({MODEL: ("tokens: 40k", "tokens: 80k")})
    blind = make_plan(desired, world, Live(EVERY_ARTIFACT))
    assert blind == world.plan(desired)
    assert blind.changes[0].kind is ActionKind.EXTEND
    empty = make_plan(desired, world, Live())
    assert empty.changes[0].id == "curate/small"


@pytest.mark.parametrize(
    ("path", "old", "new", "kind", "said"),
    [
        (DATA, "license: GPL-2.0-or-later", "license: CC-BY-NC-4.0", FindingKind.LICENSE, ("GPL-2.0-or-later", "CC-BY-NC-4.0")),
        (
            DATA,
            "    - {path: corpus/*.jsonl.gz",
            "    - {path: other/*.jsonl, license: MIT, origin: here}\n    - {path: corpus/*.jsonl.gz",
            FindingKind.SOURCE,
            (None, "other/*.jsonl: MIT, here"),
        ),
        (DATA, "pii: {emails: true}", "pii: {emails: false}", FindingKind.PERSONAL_DATA, ("True", "False")),
        (DATA, "pii:", "allow_licenses: [GPL-2.0-or-later]\n  pii:", FindingKind.LICENSE, (None, "['GPL-2.0-or-later']")),
        (DATA, "pii:", "decontaminate_against: [EvalSuite/small]\n  pii:", FindingKind.DECONTAMINATION, (None, None)),
        (DEPLOYMENT, "max: 7.0", "max: 70.0", FindingKind.GATE, ("at most 7.0", "at most 70.0")),
        (DEPLOYMENT, "environment: local", "environment: prod", FindingKind.SERVED, None),
        (DEPLOYMENT, "{name: small-local", "{protect: true, name: small-local", FindingKind.PROTECTION, (None, None)),
        (MODEL, "{name: small}", '{name: small, annotations: {forge/suspend: "true"}}', FindingKind.SUSPENSION, (None, None)),
        (POLICY, "max_tokens: 32", "max_tokens: 4096", FindingKind.ACCESS, ("32", "4096")),
        (POLICY, '"env:FORGE_TEST_KEY"', '"env:FORGE_TEST_KEY", "env:OTHER"', FindingKind.ACCESS, None),
        (
            POLICY,
            "  access: |",
            '  redactions: [{name: cards, pattern: "[0-9]{16}", replacement: "[card]"}]\n  access: |',
            FindingKind.REDACTION,
            (None, None),
        ),
    ],
)
def test_what_somebody_answers_for_is_found_both_ways(
    path: str, old: str, new: str, kind: FindingKind, said: tuple[str | None, str | None] | None
) -> None:
    changed, before = desired_of({path: (old, new)}), desired_of()
    (finding,) = found(changed, before)
    assert finding.kind is kind
    if said is not None:
        assert (finding.old, finding.new) == said
    (back,) = found(before, changed)
    assert (back.kind, back.old, back.new) == (kind, finding.new, finding.old)


def test_a_policy_s_finding_names_the_environments_that_it_serves() -> None:
    rules = 'permit (principal == Role::"reader", action, resource);'
    (finding,) = found(desired_of({POLICY: (rules, "permit (principal, action, resource);")}), desired_of())
    assert "serves local" in finding.detail
    assert finding.new is not None
    assert "permit (principal, action" in finding.new


def test_a_budget_that_raises_itself_is_found() -> None:
    tight = desired_of(settings=SETTINGS + "[budgets]\nmax_cost_per_plan = 1.0\n")
    wide = desired_of(settings=SETTINGS + "[budgets]\nmax_cost_per_plan = 1000.0\n")
    assert found(wide, tight) == [Finding(FindingKind.SETTING, "budgets.max_cost_per_plan", "", "1.0", "1000.0")]


def test_comments_names_of_owners_and_equal_commits_are_no_findings() -> None:
    owners = desired_of({MODEL: ("name: small}", "name: small, owners: [someone]}  # a word")})
    assert found(owners, desired_of()) == []


def test_specs_of_files_that_did_not_change_are_not_read() -> None:
    class Unread(dict[str, object]):
        def __getitem__(self, address: str) -> object:
            assert address == "DataRecipe/small", address
            return super().__getitem__(address)

    commits = []
    for desired in (desired_of({DATA: ("license: GPL-2.0-or-later", "license: MIT")}), desired_of()):
        origins = {address: f"models/{address.split('/')[0]}.yaml" for address in desired.compiled}
        unread = Unread(desired.resources)
        commits.append(Desired(desired.commit, desired.settings, unread, desired.bundles, desired.compiled, origins=origins))  # type: ignore[arg-type]
    new, old = commits
    findings = review(Plan(None, "USD", ()), new, old, frozenset({"models/DataRecipe.yaml"})).findings
    assert [item.kind for item in findings] == [FindingKind.LICENSE]


def test_what_is_learnt_to_answer_from_and_how_it_is_cleaned_are_findings() -> None:
    """Somebody answers for a source that comes, and for personal data that is no longer replaced."""
    before, after = full_documents(), full_documents()
    before["Model/g"]["spec"]["preferences"] |= {"pii": {"emails": True}, "decontaminate_against": ["EvalSuite/b"]}
    after["Model/e"]["spec"]["conversations"]["license"] = "CC-BY-4.0"
    findings = {each.kind: each for each in found(desired_from(after), desired_from(before))}
    assert set(findings) == {FindingKind.SOURCE, FindingKind.PERSONAL_DATA, FindingKind.DECONTAMINATION}
    source, personal = findings[FindingKind.SOURCE], findings[FindingKind.PERSONAL_DATA]
    assert (source.subject, source.old, source.new) == (
        "Model/e",
        "chats/e/*.jsonl: MIT, somewhere",
        "chats/e/*.jsonl: CC-BY-4.0, somewhere",
    )
    assert (personal.subject, personal.detail, personal.old, personal.new) == ("Model/g", "emails", "True", "False")
    assert findings[FindingKind.DECONTAMINATION].detail == "no longer cleaned of EvalSuite/b"
