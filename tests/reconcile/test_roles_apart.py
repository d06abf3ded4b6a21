"""Roles on machines of their own: each does and signs what is its own, and the releaser's machine needs no other role's key.

Attacker: writes the ledger's ref, and holds the key of another role.
"""

import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from tests.admission.test_attacks import bodies_of, record_of, rewrite
from tests.admission.test_supply_chain import verdict_of
from tests.admission.test_withdrawals import withdraw
from tests.conftest import DEPLOYMENT, MODEL, new_repository, run_forge, write_small
from tests.governed import STEPS, Governed, commit_as, govern, make_governed, write_key
from tests.outside.conftest import list_shapes
from tests.searching import write_search

from forge.attest.authority import public_key
from forge.attest.bundle import payload_of
from forge.attest.envelope import seal
from forge.attest.keys import signer_for
from forge.attest.trust import TRUST_FILE
from forge.canonical import canonical_json, digest_of_bytes
from forge.contract.kinds import Role
from forge.contract.record import Links, Record, Release
from forge.ledger.ledger import Ledger
from forge.repo.repository import Repository

ORDER = ("data-steward", "trainer", "evaluator", "releaser")
REF = "refs/forge/ledger"


@pytest.fixture(scope="module")
def governed(tmp_path_factory: pytest.TempPathFactory) -> Governed:
    return make_governed(tmp_path_factory.mktemp("governed"))


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory, governed: Governed) -> dict[str, Path]:
    """The configuration of each role's machine: the trust root and that role's keys."""
    found = {}
    for role in ORDER:
        config = found[role] = tmp_path_factory.mktemp(role)
        (config / "keys").mkdir()
        for name in (role, "weights") if role == "trainer" else (role,):
            shutil.copy(governed.config / "keys" / f"{name}.pem", config / "keys")
        shutil.copy(governed.config / TRUST_FILE, config)
    return found


@pytest.fixture(scope="module")
def delegated(tmp_path_factory: pytest.TempPathFactory, governed: Governed) -> Path:
    folder = new_repository(tmp_path_factory.mktemp("delegated") / "repository")
    write_small(folder)
    govern(folder, governed.supply_chain(release={}), governed.people())
    commit_as(folder, governed, "cleo", "the small example, governed")
    run_forge(folder, governed.config, "keys", "delegate")
    return folder


@pytest.fixture(scope="module")
def evaluated_once(tmp_path_factory: pytest.TempPathFactory, delegated: Path, machines: dict[str, Path]) -> Path:
    """Everything but the release is recorded, each step by its role's machine."""
    folder = tmp_path_factory.mktemp("evaluated") / "copy"
    shutil.copytree(delegated, folder, symlinks=True)
    for role in ORDER[:3]:
        run_as(folder, machines, role)
    return folder


@pytest.fixture
def evaluated(evaluated_once: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "copy"
    shutil.copytree(evaluated_once, folder, symlinks=True)
    return folder


def run_as(folder: Path, machines: dict[str, Path], role: str, code: int = 0) -> str:
    return run_forge(folder, machines[role], "apply", "--as", role, code=code).stderr


def steps_of(folder: Path) -> set[str]:
    return {body.step.value for body in bodies_of(folder) if isinstance(body, Record)}


def links_of(folder: Path) -> set[str]:
    return {name for body in bodies_of(folder) if isinstance(body, Links) for name in body.attestations}


def attestation(folder: Path, digest: str) -> bytes:
    with Repository(folder) as repository:
        return Ledger(repository, REF).snapshot().attestation(digest)


def test_each_machine_does_its_part_and_the_last_one_releases(
    delegated: Path, machines: dict[str, Path], governed: Governed, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(delegated, folder, symlinks=True)
    early = run_as(folder, machines, "trainer")
    assert "Left to others: data-steward curate/small; evaluator evaluate/small" in early
    assert steps_of(folder) == set()
    done: set[str] = set()
    for role in ORDER[:3]:
        said = run_as(folder, machines, role)
        done |= set(STEPS[role])
        assert f"Done as {role} (" in said
        assert "releaser release/small-local" in said
        assert steps_of(folder) == done
        assert links_of(folder) == {f"chain-{step}" for step in done}
        count = len(bodies_of(folder))
        run_as(folder, machines, role)  # nothing is signed twice
        assert len(bodies_of(folder)) == count
    assert "In sync" in run_as(folder, machines, "releaser")
    verdict = verdict_of(folder, governed.config)
    assert verdict.holds, verdict.findings
    assert any("7 signed links" in check.message for check in verdict.checks)
    run_forge(folder, machines["releaser"], "plan", "--exit-code")


def test_a_search_is_done_by_turns(delegated: Path, machines: dict[str, Path], governed: Governed, tmp_path: Path) -> None:
    """Trainings, then their evaluations, then the pick, which is the trainer's, and what follows from it."""
    folder = tmp_path / "copy"
    shutil.copytree(delegated, folder, symlinks=True)
    write_search(folder)
    list_shapes(folder, governed, ["pretrain-sweep"], "a search, and its shape")
    for role in ("data-steward", "trainer", "evaluator"):
        run_as(folder, machines, role)
    assert "sweep/small: done in" in run_as(folder, machines, "trainer")
    run_as(folder, machines, "evaluator")
    assert "In sync" in run_as(folder, machines, "releaser")
    verdict = verdict_of(folder, governed.config)
    assert verdict.holds, verdict.findings
    assert any("8 signed links, one for each kind of step, fit the layout pretrain-sweep" in c.message for c in verdict.checks)


def test_without_a_role_all_of_them_are_asked_for(delegated: Path, machines: dict[str, Path]) -> None:
    refused = run_forge(delegated, machines["trainer"], "apply", code=None)
    assert refused.returncode == 4
    assert "data-steward" in refused.stderr


def test_the_releaser_changes_a_policy_alone(evaluated: Path, machines: dict[str, Path], governed: Governed) -> None:
    run_as(evaluated, machines, "releaser")
    policy = evaluated / "policies" / "small.yaml"
    policy.write_text(policy.read_text().replace("max_tokens: 32", "max_tokens: 48"))
    commit_as(evaluated, governed, "cleo", "longer answers")
    run_forge(evaluated, machines["releaser"], "apply")  # as every role: nothing is asked of the others
    releases = [body for body in bodies_of(evaluated) if isinstance(body, Release)]
    assert len(releases) == 2
    assert verdict_of(evaluated, governed.config).holds


def test_a_release_waits_for_a_link_that_nobody_signed(evaluated: Path, machines: dict[str, Path]) -> None:
    rewrite(evaluated, [body for body in bodies_of(evaluated) if "chain-gate" not in body.attestations], fresh=True)
    refused = run_as(evaluated, machines, "releaser", code=1)
    assert "the link of its steps of the kind gate is not signed" in refused
    assert "`forge apply --as evaluator` signs it on the machine that does" in refused
    assert "Not released yet, for others have to sign first: release/small-local" in refused
    once = run_forge(evaluated, machines["releaser"], "reconcile", "--as", "releaser")  # it waits, and nothing is degraded
    assert "degraded" not in once.stderr
    assert run_forge(evaluated, machines["releaser"], "reconcile", "--as", "releasr", code=2).stderr.startswith("--as: releasr")
    assert not any(isinstance(body, Release) for body in bodies_of(evaluated))
    run_as(evaluated, machines, "evaluator")
    assert "In sync" in run_as(evaluated, machines, "releaser")


def test_nobody_signs_for_what_is_withdrawn(evaluated: Path, machines: dict[str, Path], governed: Governed) -> None:
    rewrite(evaluated, [body for body in bodies_of(evaluated) if not isinstance(body, Links)], fresh=True)
    withdraw(evaluated, "DataRecipe/small")
    run_as(evaluated, machines, "releaser", code=1)
    assert "release/small-local is blocked: withdrawn" in run_as(evaluated, machines, "releaser", code=1)
    run_as(evaluated, machines, "trainer", code=1)
    assert links_of(evaluated) == set()


@pytest.mark.parametrize("what", ["key", "content", "lost"])
def test_a_link_of_somebody_else_or_about_something_else_is_not_taken(
    evaluated: Path, machines: dict[str, Path], what: str
) -> None:
    bodies = bodies_of(evaluated)
    number, body = next((n, each) for n, each in enumerate(bodies) if "chain-train" in each.attestations)
    before = attestation(evaluated, body.attestations["chain-train"])
    document = payload_of(before)
    if what != "key":
        document["products"] = {}
    role = "evaluator" if what == "key" else "trainer"
    forged = seal(canonical_json(document), signer_for(Role(role), machines[role]))
    named = {**body.attestations, "chain-train": str(digest_of_bytes(forged))}
    bodies[number] = body.model_copy(update={"attestations": named})
    rewrite(evaluated, bodies, [] if what == "lost" else [forged], fresh=True)
    assert "the link of its steps of the kind train is not signed" in run_as(evaluated, machines, "releaser", code=1)


def test_no_link_is_signed_over_a_record_that_does_not_hold(evaluated: Path, machines: dict[str, Path]) -> None:
    """To whoever checks with in-toto alone the link is the trainer's word: it must not vouch for what others wrote there."""
    record = record_of(evaluated, "train/small")
    other = record_of(evaluated, "tokenizer/small").products["tokenizer"]
    forged = record.model_copy(update={"products": {**record.products, "weights": other}})
    kept = [body for body in bodies_of(evaluated) if not isinstance(body, Links) and body.attestations != record.attestations]
    kept = [body for body in kept if not isinstance(body, Record) or body.step.value not in ("evaluate", "gate")]
    rewrite(evaluated, [*kept, forged], fresh=True)
    refused = run_as(evaluated, machines, "trainer", code=4)
    assert "is not signed, for its record does not hold" in refused
    assert "train/small provenance: what was signed" in refused
    assert not any("chain-train" in body.attestations for body in bodies_of(evaluated))


@pytest.mark.parametrize(
    ("role", "said"),
    [("agent", "--as: the agent signs no step"), ("trainr", "--as: trainr is no role; did you mean `trainer`?")],
)
def test_who_signs_no_step_cannot_apply(delegated: Path, machines: dict[str, Path], role: str, said: str) -> None:
    assert said in run_forge(delegated, machines["trainer"], "apply", "--as", role, code=2).stderr


def test_a_verdict_of_no_go_is_told_to_who_made_it(evaluated: Path, machines: dict[str, Path], governed: Governed) -> None:
    (evaluated / "models" / "deployment.yaml").write_text(DEPLOYMENT.replace("max: 7.0", "max: 0.1"))
    commit_as(evaluated, governed, "cleo", "a gate that is not passed")
    for role in ("evaluator", "trainer"):
        said = run_as(evaluated, machines, role)
        assert "Blocked for others: release/small-local (gate" in said
        assert "In sync" not in said


def test_what_fails_keeps_no_link_from_being_signed(
    delegated: Path, machines: dict[str, Path], governed: Governed, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(delegated, folder, symlinks=True)
    broken = MODEL.replace("name: small", "name: broken", 1).replace("lr: 5.0e-3", "lr: 1.0e+30")
    (folder / "models" / "broken.yaml").write_text(broken)
    other = DEPLOYMENT.replace("small-local", "other").replace("environment: local", "environment: other")
    (folder / "models" / "other.yaml").write_text(other.replace("Model/small", "Model/broken"))
    commit_as(folder, governed, "cleo", "a model that cannot be trained")
    run_as(folder, machines, "data-steward")
    run_forge(folder, machines["trainer"], "apply", "--as", "trainer", "--keep-going", code=1)
    assert {"chain-train", "chain-tokenize", "chain-tokenizer"} <= links_of(folder)
    run_as(folder, machines, "evaluator")
    run_as(folder, machines, "releaser")
    assert [body.environment for body in bodies_of(folder) if isinstance(body, Release)] == ["local"]


def test_a_key_that_does_not_count_any_more_is_in_nobodys_way(
    evaluated: Path, machines: dict[str, Path], tmp_path: Path
) -> None:
    """Who made a machine of each role out of one machine for all may have left an old key on it."""
    config = tmp_path / "releaser"
    shutil.copytree(machines["releaser"], config)
    write_key(config_with_public(config), "evaluator", ed25519.Ed25519PrivateKey.generate())
    assert "In sync" in run_forge(evaluated, config, "apply").stderr


def config_with_public(config: Path) -> Path:
    (config / "public").mkdir()
    return config


def test_a_target_is_enough_to_sign_and_who_has_nothing_to_do_needs_no_approval(
    machines: dict[str, Path], governed: Governed, tmp_path: Path
) -> None:
    folder = new_repository(tmp_path / "repository")
    write_small(folder)
    govern(folder, governed.supply_chain(release={}, plans={"approvals": 1}), governed.people())
    commit_as(folder, governed, "cleo", "plans are approved")
    run_forge(folder, governed.config, "keys", "delegate")
    file = tmp_path / "curation.plan"
    run_forge(folder, machines["data-steward"], "plan", "--target", "DataRecipe/small", "--out", str(file))
    run_forge(folder, machines["data-steward"], "approve", str(file), "--key", str(governed.ssh / "ana"))
    run_forge(folder, machines["data-steward"], "apply", str(file), "--as", "data-steward")
    assert links_of(folder) == {"chain-curate"}
    assert "Left to others: evaluator" in run_as(folder, machines, "data-steward")
    assert "needs the approval" in run_as(folder, machines, "trainer", code=4)


def test_with_a_threshold_the_releases_own_link_is_by_who_has_signed_no_other(governed: Governed, tmp_path: Path) -> None:
    """A link counts once: the second steward's lies beside the reproduction, so the first one's has to be the release's."""
    chain = governed.supply_chain(release={})
    steward = chain["roles"]["data-steward"]
    second = governed.another("data-steward", "second", tmp_path / "second")
    chain["roles"]["data-steward"] = {**steward, "threshold": 2, "keys": [*steward["keys"], second]}
    folder = new_repository(tmp_path / "repository")
    write_small(folder)
    govern(folder, chain, governed.people())
    commit_as(folder, governed, "cleo", "curated twice")
    run_forge(folder, governed.config, "keys", "delegate")
    everybody = dict.fromkeys(ORDER, governed.config)
    run_as(folder, everybody, "data-steward")
    run_forge(folder, tmp_path / "second", "reproduce", "curate/small")
    run_as(folder, everybody, "trainer")
    run_as(folder, everybody, "evaluator")
    run_as(folder, everybody, "releaser")
    other = DEPLOYMENT.replace("small-local", "small-eu").replace("environment: local", "environment: eu")
    (folder / "models" / "other.yaml").write_text(other)
    commit_as(folder, governed, "cleo", "another environment")
    count = len(bodies_of(folder))
    run_forge(folder, tmp_path / "second", "apply", "--as", "data-steward")
    assert len(bodies_of(folder)) == count  # its link is there
    for role in ("trainer", "evaluator", "data-steward", "releaser"):
        run_as(folder, everybody, role)
    assert "the chain holds" in run_forge(folder, governed.config, "verify", "release/eu").stdout


def test_a_withdrawn_key_signs_no_link(evaluated: Path, machines: dict[str, Path], governed: Governed) -> None:
    rewrite(evaluated, [body for body in bodies_of(evaluated) if not isinstance(body, Links)], fresh=True)
    keyid = public_key(governed.public("evaluator")).keyid
    withdraw(evaluated, f"key:{keyid}")
    run_forge(evaluated, machines["releaser"], "apply", "--as", "releaser", code=1)
    run_forge(evaluated, machines["evaluator"], "apply", "--as", "evaluator", code=None)
    assert links_of(evaluated) == set()
