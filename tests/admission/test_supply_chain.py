"""A release under a supply chain that the root signed: what it needs, and what is refused."""

import base64
import datetime
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from tests.admission.test_attacks import bodies_of, rewrite
from tests.conftest import git, new_repository, run_forge, write_small
from tests.governed import Governed, commit_as, govern, make_governed, write_key
from tests.made import lay_made

from forge.admission.verdict import Rule, Verdict
from forge.admission.verify import verify
from forge.attest.delegation import delegation_payloads
from forge.attest.envelope import seal
from forge.attest.keys import signer_for
from forge.attest.statements import release_statement
from forge.attest.trust import read_trust_root
from forge.canonical import canonical_json, digest_of_bytes
from forge.contract.charter import Charter
from forge.contract.kinds import Role
from forge.contract.record import Approval, Delegation, Release
from forge.ledger.ledger import Ledger
from forge.repo.repository import Repository
from forge.store.store import Store

REF = "refs/forge/ledger"


@pytest.fixture(scope="session")
def governed(tmp_path_factory: pytest.TempPathFactory) -> Governed:
    return make_governed(tmp_path_factory.mktemp("governed"))


@pytest.fixture(scope="session")
def released_once(tmp_path_factory: pytest.TempPathFactory, governed: Governed, applied: Path) -> Path:
    """Written and signed by cleo, delegated by the root, approved by ana, released."""
    folder = new_repository(tmp_path_factory.mktemp("released") / "repository")
    write_small(folder)
    lay_made(applied, folder)
    chain = governed.supply_chain()
    chain["roles"]["releaser"]["keys"][0]["valid_until"] = "2099-01-01T00:00:00Z"
    govern(folder, chain, governed.people())
    commit_as(folder, governed, "cleo", "the small example, governed")
    refused = run_forge(folder, governed.config, "apply", code=4)
    assert "forge keys delegate" in refused.stderr
    run_forge(folder, governed.config, "keys", "delegate")
    blocked = run_forge(folder, governed.config, "apply", code=1)
    assert "needs 1, has 0" in blocked.stderr
    run_forge(folder, governed.config, "approve", "release/local", "--key", str(governed.ssh / "ana"))
    run_forge(folder, governed.config, "apply")
    return folder


@pytest.fixture
def released(released_once: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "copy"
    shutil.copytree(released_once, folder, symlinks=True)
    return folder


def verdict_of(folder: Path, config: Path) -> Verdict:
    with Repository(folder) as repository:
        snapshot = Ledger(repository, REF).snapshot()
        return verify("release/local", repository, snapshot, Store(".forge/store", folder), read_trust_root(config))


def change_policy(folder: Path, old: str = "max_tokens: 32", new: str = "max_tokens: 16") -> None:
    path = folder / "policies" / "small.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_governed_release_holds_and_says_what_it_rests_on(released: Path, governed: Governed) -> None:
    verdict = verdict_of(released, governed.config)
    assert verdict.holds, [str(item) for item in verdict.findings]
    rules = {check.rule for check in verdict.checks}
    assert {Rule.AUTHORITY, Rule.LAYOUT, Rule.APPROVAL, Rule.PREREGISTERED} <= rules
    assert any("approved by ana" in check.message for check in verdict.checks)
    assert "DEVELOPMENT" not in verdict.trust


def test_the_plan_after_a_governed_release_is_empty(released: Path, governed: Governed) -> None:
    run_forge(released, governed.config, "plan", "--exit-code")


def test_a_supply_chain_swapped_for_a_weaker_one_is_refused(released: Path, governed: Governed) -> None:
    govern(released, governed.supply_chain(release={}), governed.people())
    change_policy(released)
    commit_as(released, governed, "cleo", "nobody has to approve")
    refused = run_forge(released, governed.config, "apply", code=4)
    assert "is not the one that the root signed" in refused.stderr


def test_a_supply_chain_that_is_removed_is_missed(released: Path, governed: Governed) -> None:
    (released / "policies" / "supply-chain.yaml").unlink()
    change_policy(released)
    commit_as(released, governed, "cleo", "no rules")
    assert "this commit has none" in run_forge(released, governed.config, "apply", code=4).stderr


@pytest.mark.parametrize("role", ["trainer", "stranger"])
def test_a_layout_swapped_for_a_weaker_one_in_the_ledger_is_refused(
    released: Path, governed: Governed, role: str, tmp_path: Path
) -> None:
    """Whoever can write the ref: the delegation's layout lacks the gate, and is signed by a key that is not the root's."""
    delegation = next(body for body in bodies_of(released) if isinstance(body, Delegation))
    with Repository(released) as repository:
        envelope = json.loads(Ledger(repository, REF).snapshot().attestation(delegation.attestations["layout-pretrain"]))
    layout = json.loads(base64.b64decode(envelope["payload"]))
    layout["steps"] = [step for step in layout["steps"] if step["name"] != "gate"]
    config = governed.config if role == "trainer" else make_governed(tmp_path / "other").config
    weaker = seal(canonical_json(layout), signer_for(Role.TRAINER if role == "trainer" else Role.ROOT, config))
    names = {**delegation.attestations, "layout-pretrain": str(digest_of_bytes(weaker))}
    swapped = delegation.model_copy(update={"attestations": names})
    rewrite(released, [swapped if body == delegation else body for body in bodies_of(released)], [weaker], fresh=True)
    said = "\n".join(map(str, verdict_of(released, governed.config).findings))
    assert "layout-pretrain: no valid signature of the role root" in said


def test_a_supply_chain_that_names_no_approver_is_refused_in_the_ledger(released: Path, governed: Governed) -> None:
    """Whoever can write the ref: the delegation's charter asks for no approval, and the root has signed another."""
    delegation = next(body for body in bodies_of(released) if isinstance(body, Delegation))
    document = json.loads(json.dumps(delegation.charter))
    del document["supply_chain"]["release"]
    weaker = Charter.from_document(document)
    swapped = delegation.model_copy(update={"charter": weaker.to_document(), "digest": str(weaker.digest)})
    rewrite(released, [swapped if body == delegation else body for body in bodies_of(released)], fresh=True)
    said = "\n".join(map(str, verdict_of(released, governed.config).findings))
    assert "what the root signed as delegation is not what the delegation says" in said


def test_an_expired_key_signs_nothing_that_counts(released: Path, governed: Governed) -> None:
    """The releaser's key, a day after it expired: the rest of the move is in order."""
    release = next(body for body in bodies_of(released) if isinstance(body, Release))
    late = release.model_copy(update={"moved": "2099-01-02T00:00:00.000+00:00"})
    sealed = seal(release_statement(late), signer_for(Role.RELEASER, governed.config))
    names = {**release.attestations, "release": str(digest_of_bytes(sealed))}
    late = late.model_copy(update={"attestations": names})
    rewrite(released, [late if body == release else body for body in bodies_of(released)], [sealed], fresh=True)
    said = "\n".join(map(str, verdict_of(released, governed.config).findings))
    assert "[signature] release of local: the key releaser releaser-1 expired at 2099-01-01T00:00:00Z" in said


def test_only_the_root_delegates(released: Path, governed: Governed, tmp_path: Path) -> None:
    config = tmp_path / "config"
    shutil.copytree(governed.config, config)
    shutil.copy(config / "keys" / "trainer.pem", config / "keys" / "root.pem")
    govern(released, governed.supply_chain(release={}), governed.people())
    commit_as(released, governed, "cleo", "nobody has to approve")
    assert "is not one that the root" in run_forge(released, config, "keys", "delegate", code=4).stderr


def test_a_change_of_policy_needs_no_new_approval_of_the_same_model(released: Path, governed: Governed) -> None:
    change_policy(released)
    commit_as(released, governed, "cleo", "shorter answers")
    run_forge(released, governed.config, "apply")
    assert verdict_of(released, governed.config).holds


def test_where_approvals_cover_releases_a_change_of_policy_or_engine_asks_anew(released: Path, governed: Governed) -> None:
    """What was approved without saying so is not about any policy; reverting gives the approval back."""
    chain = governed.supply_chain(release={"approvals": {"local": 1}, "approvals_cover": "release"})
    govern(released, chain, governed.people())
    change_policy(released)
    commit_as(released, governed, "cleo", "approvals cover releases")
    run_forge(released, governed.config, "keys", "delegate")
    said = run_forge(released, governed.config, "apply", code=1).stderr
    assert "ana's does not count: it is not about this policy and these engine settings" in said
    ana = ("approve", "release/local", "--key", str(governed.ssh / "ana"))
    assert "with this policy and these engine settings" in run_forge(released, governed.config, *ana).stdout
    run_forge(released, governed.config, "apply")
    assert verdict_of(released, governed.config).holds
    path = released / "models" / "deployment.yaml"
    for change in ("policy", "engine"):
        if change == "policy":
            change_policy(released, "max_tokens: 16", "max_tokens: 100")
        else:
            path.write_text(path.read_text().replace("  policy:", "  engine: {max_num_seqs: 7}\n  policy:"))
        commit_as(released, governed, "cleo", change)
        assert "needs 1, has 0" in run_forge(released, governed.config, "apply", code=1).stderr
        run_forge(released, governed.config, *ana)
        run_forge(released, governed.config, "apply")
        assert verdict_of(released, governed.config).holds
    approvals = [body for body in bodies_of(released) if isinstance(body, Approval)]
    assert [body.release is None for body in approvals] == [True, False, False, False]
    assert len({body.release for body in approvals}) == 4


def gate_of(folder: Path, old: str, new: str) -> None:
    path = folder / "models" / "deployment.yaml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def test_thresholds_that_are_loosened_refuse_the_release_however_often_it_is_measured(
    released: Path, governed: Governed
) -> None:
    gate_of(released, "max: 7.0", "max: 7.5")
    commit_as(released, governed, "cleo", "a laxer gate")
    blocked = run_forge(released, governed.config, "apply", code=1)
    assert "needs 1, has 0" in blocked.stderr
    run_forge(released, governed.config, "approve", "release/local", "--key", str(governed.ssh / "ana"))
    for again in ((), ("--force", "evaluate/small.small"), ("--force", "evaluate/small.small")):
        refused = run_forge(released, governed.config, "apply", *again, code=4).stderr
        assert "[pre-registered]" in refused
        assert "were loosened after these weights were first measured" in refused
        assert "small_bpb bits_per_byte had max 7, and has max 7.5" in refused
        assert "keep what stood there, or train another model" in refused


def test_thresholds_may_be_tightened_and_what_was_measured_before_is_told(released: Path, governed: Governed) -> None:
    """A NO-GO, a second measuring and what the release rests on at last."""
    gate_of(released, "max: 7.0", "max: 3.0")
    commit_as(released, governed, "cleo", "a gate that it misses")
    run_forge(released, governed.config, "apply", code=1)
    gate_of(released, "max: 3.0", "max: 6.5")
    commit_as(released, governed, "cleo", "one that it passes")
    run_forge(released, governed.config, "apply", "--force", "evaluate/small.small", code=1)
    run_forge(released, governed.config, "approve", "release/local", "--key", str(governed.ssh / "ana"))
    run_forge(released, governed.config, "apply")
    verdict = verdict_of(released, governed.config)
    assert verdict.holds, [str(item) for item in verdict.findings]
    told = "\n".join(check.message for check in verdict.checks if check.rule is Rule.PREREGISTERED)
    assert "these weights were measured 2 times before: evaluate/small.small (entry " in told
    assert "NO-GO by gate/small-local (entry " in told
    run_forge(released, governed.config, "report", "release/local", "--out", str(released.parent / "report"))
    page = (released.parent / "report" / "index.html").read_text()
    assert "Measured and decided before" in page
    assert "NO-GO" in page


@pytest.mark.parametrize("takes_the_name", [False, True], ids=["in its own gate", "by a claim of being renamed"])
def test_a_lax_gate_of_another_deployment_registers_nothing(released: Path, governed: Governed, takes_the_name: bool) -> None:
    """The evaluation is run for a commit in which only the gate of ``dev`` is lax; then the one of ``local`` becomes as lax."""
    path = released / "models" / "deployment.yaml"
    lax = path.read_text().replace("max: 7.0", "max: 7.5")
    dev = lax.replace("small-local", "small-dev").replace("environment: local", "environment: dev")
    (released / "models" / "dev.yaml").write_text(dev)
    commit_as(released, governed, "cleo", "a lax gate for dev")
    refused = run_forge(released, governed.config, "apply", "--force", "evaluate/small.small", code=4).stderr
    assert "release/dev is not moved" in refused
    if takes_the_name:
        (released / "models" / "dev.yaml").unlink()
        lax = lax.replace("{name: small-local}", "{name: small-other, previous_name: small-dev}")
    path.write_text(lax)
    commit_as(released, governed, "cleo", "the same gate for local")
    run_forge(released, governed.config, "apply", code=1 if takes_the_name else 4)  # of dev there is nothing left then
    run_forge(released, governed.config, "approve", "release/local", "--key", str(governed.ssh / "ana"))
    refused = run_forge(released, governed.config, "apply", code=4).stderr
    assert "small_bpb bits_per_byte had max 7, and has max 7.5" in refused
    assert "[pre-registered]" in run_forge(released, governed.config, "apply", "--force", "evaluate/small.small", code=4).stderr


def test_a_deployment_that_was_renamed_keeps_what_it_registered(released: Path, governed: Governed) -> None:
    path = released / "models" / "deployment.yaml"
    path.write_text(path.read_text().replace("{name: small-local}", "{name: small-here}"))
    commit_as(released, governed, "cleo", "another name")
    run_forge(released, governed.config, "approve", "release/local", "--key", str(governed.ssh / "ana"), code=None)
    run_forge(released, governed.config, "apply")
    assert verdict_of(released, governed.config).holds


def test_an_environment_that_is_added_takes_what_was_registered(released: Path, governed: Governed) -> None:
    """Promotion: the same thresholds, and no second evaluation; others are refused as ever."""
    text = (released / "models" / "deployment.yaml").read_text()
    prod = text.replace("small-local", "small-prod").replace("environment: local", "environment: prod")
    for thresholds, code in (("max: 7.5", 4), ("max: 7.0", 0)):
        (released / "models" / "prod.yaml").write_text(prod.replace("max: 7.0", thresholds))
        commit_as(released, governed, "cleo", f"prod, {thresholds}")
        run_forge(released, governed.config, "apply", code=None)
        run_forge(released, governed.config, "approve", "release/prod", "--key", str(governed.ssh / "ana"))
        assert ("[pre-registered]" in run_forge(released, governed.config, "apply", code=code).stderr) == bool(code)


def test_an_environment_that_is_added_is_no_laxer_than_the_strictest_there_was(released: Path, governed: Governed) -> None:
    """Environments on trial, of which nobody knows yet what for; the one that is meant comes when the figure is known."""
    text = (released / "models" / "deployment.yaml").read_text()
    for number, bound in enumerate(("3.0", "6.9", "9.0")):
        place = text.replace("small-local", f"small-trial{number}").replace("environment: local", f"environment: trial{number}")
        (released / "models" / f"trial{number}.yaml").write_text(place.replace("max: 7.0", f"max: {bound}"))
    path = released / "models" / "model.yaml"
    path.write_text(path.read_text().replace("seed: 5", "seed: 6"))
    commit_as(released, governed, "cleo", "another model, and trials")
    run_forge(released, governed.config, "apply", code=None)
    prod = text.replace("small-local", "small-prod").replace("environment: local", "environment: prod")
    for bound in ("9.0", "6.9"):
        (released / "models" / "prod.yaml").write_text(prod.replace("max: 7.0", f"max: {bound}"))
        commit_as(released, governed, "cleo", f"prod, {bound}")
        refused = run_forge(released, governed.config, "apply", code=None).stderr
        assert "release/prod is not moved" in refused
        assert f"small_bpb bits_per_byte had max 3, and has max {float(bound):g}" in refused


@pytest.mark.parametrize(
    ("author", "approver", "told"),
    [
        ("ana", "ana", "who wrote a change may not approve it"),
        (None, "ana", "its author is unknown"),
    ],
)
def test_an_approval_that_does_not_count_releases_nothing(
    released: Path, governed: Governed, author: str | None, approver: str, told: str
) -> None:
    path = released / "models" / "model.yaml"
    path.write_text(path.read_text().replace("seed: 5", "seed: 6"))
    commit_as(released, governed, author, "another model")
    commit_as(released, governed, "cleo", "on top of it")
    run_forge(released, governed.config, "apply", code=1)
    run_forge(released, governed.config, "approve", "release/local", "--key", str(governed.ssh / approver))
    assert told in run_forge(released, governed.config, "apply", code=1).stderr
    run_forge(released, governed.config, "approve", "release/local", "--key", str(governed.ssh / "ben"))
    run_forge(released, governed.config, "apply", code=1 if author is None else 0)


def test_who_trained_does_not_approve_once_the_trainers_key_is_replaced(
    released: Path, governed: Governed, tmp_path: Path
) -> None:
    """The approval that she gave before it was known whose key it is does not count either."""
    chain = governed.supply_chain(separation_of_duties=[["author", "approver"], ["trainer", "approver"]])
    steps, weights = chain["roles"]["trainer"]["keys"]
    steps["holder"] = "ana"
    weights["holder"] = "ana"
    govern(released, chain, governed.people())
    change_policy(released)
    commit_as(released, governed, "cleo", "the trainer's key is ana's")
    run_forge(released, governed.config, "keys", "delegate")
    assert "who holds a key of the trainer may not approve" in run_forge(released, governed.config, "apply", code=1).stderr
    config = tmp_path / "config"
    shutil.copytree(governed.config, config)
    (config / "keys" / "trainer.pem").unlink()
    write_key(config, "trainer", ed25519.Ed25519PrivateKey.generate())
    public = (config / "public" / "trainer.pem").read_text()
    new = {"name": "trainer-2", "public": public, "valid_from": "2020-01-01T00:00:00Z", "holder": "cleo"}
    chain["roles"]["trainer"]["keys"] = [new, {**weights, "holder": "cleo"}]
    govern(released, chain, governed.people())
    commit_as(released, governed, "cleo", "another trainer")
    run_forge(released, config, "keys", "delegate")
    assert "as trainer may not approve what came of it" in run_forge(released, config, "apply", code=1).stderr
    run_forge(released, config, "approve", "release/local", "--key", str(governed.ssh / "ana"))
    assert "needs 1, has 0" in run_forge(released, config, "apply", code=1).stderr
    run_forge(released, config, "approve", "release/local", "--key", str(governed.ssh / "ben"))
    run_forge(released, config, "apply")
    assert verdict_of(released, config).holds


def test_who_is_no_approver_cannot_approve(released: Path, governed: Governed) -> None:
    path = released / "models" / "deployment.yaml"
    path.write_text(path.read_text().replace("max: 7.0", "max: 6.9"))
    commit_as(released, governed, "ana", "another gate")
    run_forge(released, governed.config, "apply", code=1)
    done = run_forge(released, governed.config, "approve", "release/local", "--key", str(governed.ssh / "cleo"), code=4)
    assert "cleo is no approver" in done.stderr


def test_the_pointer_does_not_go_back_without_a_commit(released: Path, governed: Governed) -> None:
    before = git(released, "rev-parse", "HEAD")
    change_policy(released)
    commit_as(released, governed, "cleo", "shorter answers")
    run_forge(released, governed.config, "apply")
    refused = run_forge(released, governed.config, "apply", "--ref", before, code=4)
    assert "[order]" in refused.stderr
    git(released, "-c", "gpg.format=ssh", "-c", f"user.signingKey={governed.ssh / 'cleo'}", "revert", "--no-edit", "-S", "HEAD")
    run_forge(released, governed.config, "apply")
    assert verdict_of(released, governed.config).holds


def test_what_was_signed_before_a_revocation_stays_valid_and_what_came_after_is_refused(
    released: Path, governed: Governed
) -> None:
    chain = governed.supply_chain()
    releaser: dict[str, Any] = chain["roles"]["releaser"]["keys"][0]
    now = subprocess.run(["date", "-u", "+%Y-%m-%dT%H:%M:%SZ"], check=True, capture_output=True, text=True).stdout.strip()
    releaser["revoked"] = now
    chain["roles"]["releaser"]["keys"].append(
        {"name": "releaser-2", "public": governed.public("agent"), "valid_from": "2020-01-01T00:00:00Z"}
    )
    govern(released, chain, governed.people())
    commit_as(released, governed, "cleo", "the releaser's key is lost")
    run_forge(released, governed.config, "keys", "delegate")
    assert verdict_of(released, governed.config).holds
    change_policy(released)
    commit_as(released, governed, "cleo", "shorter answers")
    refused = run_forge(released, governed.config, "apply", code=4)
    assert "was revoked at" in refused.stderr


def test_an_expired_supply_chain_is_refused(released: Path, governed: Governed) -> None:
    with Repository(released) as repository:
        snapshot = Ledger(repository, REF).snapshot()
        later = datetime.datetime(2100, 1, 1, tzinfo=datetime.UTC)
        store, root = Store(".forge/store", released), read_trust_root(governed.config)
        verdict = verify("release/local", repository, snapshot, store, root, later)
    assert [finding.rule for finding in verdict.findings] == [Rule.AUTHORITY]
    assert "expired" in verdict.findings[0].message


def test_one_that_expires_before_retention_is_not_signed(released: Path, governed: Governed) -> None:
    govern(released, governed.supply_chain(expires="2026-01-01T00:00:00Z"), governed.people())
    commit_as(released, governed, "cleo", "soon over")
    assert "retention.days" in run_forge(released, governed.config, "keys", "delegate", code=4).stderr


def test_a_release_under_one_that_ended_before_its_retention_is_refused(released: Path, governed: Governed) -> None:
    """The root signs, by other means than this engine, a supply chain that ends ten days later; its commit keeps thirty."""
    delegation = next(body for body in bodies_of(released) if isinstance(body, Delegation))
    signed = datetime.datetime.fromisoformat(delegation.signed)
    charter = Charter.from_document(delegation.charter)
    ends = (signed + datetime.timedelta(days=10)).strftime("%Y-%m-%dT%H:%M:%SZ")
    short = charter.model_copy(update={"supply_chain": charter.supply_chain.model_copy(update={"expires": ends})})
    body = delegation.model_copy(update={"charter": short.to_document(), "digest": str(short.digest)})
    payloads = delegation_payloads(body, read_trust_root(governed.config))
    sealed = {name: seal(payload, signer_for(Role.ROOT, governed.config)) for name, payload in payloads.items()}
    body = body.model_copy(update={"attestations": {name: str(digest_of_bytes(data)) for name, data in sealed.items()}})
    bodies = [body if each == delegation else each for each in bodies_of(released)]
    rewrite(released, bodies, list(sealed.values()), fresh=True)
    said = [str(finding) for finding in verdict_of(released, governed.config).findings]
    assert any(line.startswith("[authority] delegation 1: it expires") and "retention.days" in line for line in said), said


def test_a_plan_warns_of_a_supply_chain_that_ends_within_retention(released: Path, governed: Governed) -> None:
    assert "within the" not in run_forge(released, governed.config, "plan").stderr
    soon = (datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=3)).strftime("%Y-%m-%dT%H:%M:%SZ")
    govern(released, governed.supply_chain(expires=soon), governed.people())
    said = run_forge(released, governed.config, "plan", "--worktree").stderr
    assert f"warning: the supply chain expires {soon}, within the 30 days that retention.days keeps" in said


def test_a_new_root_is_signed_by_the_old_one(released: Path, governed: Governed, tmp_path: Path) -> None:
    other = make_governed(tmp_path / "other")
    run_forge(released, governed.config, "keys", "rotate", str(other.config))
    assert verdict_of(released, governed.config).holds
    assert not verdict_of(released, other.config).holds, "who pins the new root has not seen the old one sign it"
    govern(released, governed.supply_chain(release={}), governed.people())
    commit_as(released, governed, "cleo", "another charter")
    assert "is not one that the root" in run_forge(released, governed.config, "keys", "delegate", code=4).stderr
    shutil.copy(other.config / "keys" / "root.pem", tmp_path / "root.pem")
    config = tmp_path / "config"
    shutil.copytree(governed.config, config)
    shutil.copy(tmp_path / "root.pem", config / "keys" / "root.pem")
    run_forge(released, config, "keys", "delegate")
    assert verdict_of(released, governed.config).holds


def test_a_plan_that_needs_approval_is_applied_only_from_its_file(released: Path, governed: Governed, tmp_path: Path) -> None:
    govern(released, governed.supply_chain(plans={"approvals": 1}), governed.people())
    change_policy(released)
    commit_as(released, governed, "cleo", "plans are approved")
    run_forge(released, governed.config, "keys", "delegate")
    file = tmp_path / "plan.json"
    assert "forge approve FILE" in run_forge(released, governed.config, "apply", code=4).stderr
    shown = run_forge(released, governed.config, "plan", "--out", str(file)).stdout
    assert "Needs the approval of 1 person" in shown
    assert "Needs the approval of 1 person" in run_forge(released, governed.config, "plan", "--format", "markdown").stdout
    assert "needs 1, has 0" in run_forge(released, governed.config, "apply", str(file), code=4).stderr
    run_forge(released, governed.config, "approve", str(file), "--key", str(governed.ssh / "ana"))
    run_forge(released, governed.config, "apply", str(file))


def test_an_approval_in_the_ledger_lets_exactly_that_plan_be_applied_without_its_file(
    released: Path, governed: Governed, tmp_path: Path
) -> None:
    govern(released, governed.supply_chain(plans={"approvals": 1}), governed.people())
    change_policy(released)
    commit_as(released, governed, "cleo", "plans are approved")
    run_forge(released, governed.config, "keys", "delegate")
    file = tmp_path / "plan.json"
    said = run_forge(released, governed.config, "reconcile", code=1).stderr
    assert "this plan needs the approval of 1" in said
    run_forge(released, governed.config, "plan", "--out", str(file))
    run_forge(released, governed.config, "approve", str(file), "--key", str(governed.ssh / "ana"))
    part = ["--target", "Deployment/small-local"]
    assert "forge approve FILE" in run_forge(released, governed.config, "apply", *part, code=4).stderr
    before = git(released, "rev-parse", "HEAD")
    commit_as(released, governed, "cleo", "another commit")
    assert "this plan needs the approval of 1" in run_forge(released, governed.config, "reconcile", code=1).stderr
    git(released, "reset", "--quiet", "--hard", before)
    assert "In sync with commit" in run_forge(released, governed.config, "apply").stderr
    assert "needs the approval" not in run_forge(released, governed.config, "reconcile").stderr


def test_the_approval_is_one_that_ssh_keygen_verifies(released: Path, governed: Governed, tmp_path: Path) -> None:
    import base64

    from forge.contract.record import Approval
    from forge.ledger.entry import APPROVALS

    with Repository(released) as repository:
        snapshot = Ledger(repository, REF).snapshot()
        (entry,) = snapshot.entries_in(f"{APPROVALS}/release/local")
        assert isinstance(entry.body, Approval)
        packed = json.loads(snapshot.attestation(entry.body.attestations["approval"]))
    (tmp_path / "sig").write_text(packed["sshsig"])
    (tmp_path / "allowed").write_text(f'ana namespaces="forge-approval" {governed.person("ana")}\n')
    check = ["ssh-keygen", "-Y", "verify", "-f", "allowed", "-I", "ana", "-n", "forge-approval", "-s", "sig"]
    statement = base64.b64decode(packed["statement"])
    assert subprocess.run(check, cwd=tmp_path, input=statement, capture_output=True, check=False).returncode == 0
    assert subprocess.run(check, cwd=tmp_path, input=statement + b" ", capture_output=True, check=False).returncode != 0
