"""Withdrawn in a commit, kept by the ledger, refused by the verifier; and what somebody who only writes the ref achieves.

One story per repository, because applying and verifying take a second each.
"""

import json
from pathlib import Path

import pytest
from tests.admission.test_attacks import REF, bodies_of, entries_of, pulled, record_of, refused, rewrite, store_of, verdict_of
from tests.conftest import DEPLOYMENT, MODEL, commit_all, git, run_forge

from forge.admission.verdict import Rule
from forge.admission.verify import withdrawn_from
from forge.attest.envelope import seal
from forge.attest.keys import signer_for
from forge.attest.statements import withdrawal_statement
from forge.attest.trust import read_trust_root
from forge.canonical import digest_of_bytes
from forge.contract.kinds import Role
from forge.contract.record import Release, Renaming, Withdrawal
from forge.ledger.ledger import Draft, Ledger
from forge.repo.repository import Repository
from forge.serve.pull import WithdrawnError

FILE = "policies/withdrawn.yaml"


def withdraw(folder: Path, *subjects: str, serving: str = "stop") -> str:
    """Commit a file of withdrawals."""
    rows = "".join(
        f'\n    - {{subject: "{subject}", reason: "case {n}", serving: {serving}}}' for n, subject in enumerate(subjects)
    )
    head = "apiVersion: forge/v1\nkind: Withdrawals\nmetadata: {name: withdrawn}\nspec:\n  withdrawn:"
    (folder / FILE).write_text(head + (rows or " []") + "\n")
    return commit_all(folder, "withdraw")


def lift(folder: Path) -> str:
    (folder / FILE).unlink()
    return commit_all(folder, "lift")


def withdrawals_of(folder: Path) -> list[Withdrawal]:
    return [body for body in bodies_of(folder) if isinstance(body, Withdrawal)]


def append(folder: Path, config_home: Path, body: Withdrawal, role: Role | None) -> None:
    """Append a withdrawal as somebody who holds the key of a role, or none."""
    attestations: tuple[bytes, ...] = ()
    if role is not None:
        attestations = (seal(withdrawal_statement(body), signer_for(role, config_home)),)
        body = body.model_copy(update={"attestations": {"withdrawal": str(digest_of_bytes(attestations[0]))}})
    with Repository(folder) as repository:
        Ledger(repository, REF).append([Draft(body, attestations)])


def body_of(folder: Path, subject: str, **change: object) -> Withdrawal:
    known = [entry for entry in entries_of(folder) if isinstance(entry.body, Withdrawal) and entry.body.subject == subject]
    return Withdrawal.model_validate({
        "subject": subject, "reason": "why", "serving": "stop", "lifted": False, "commit": git(folder, "rev-parse", "HEAD"),
        "supersedes": known[-1].digest if known else None, "moved": "2999-01-01T00:00:00.000+00:00", **change,
    })  # fmt: skip


def test_a_withdrawal_reaches_what_was_made_after_the_previous_name_was_taken_out(
    copy_of_applied: Path, config_home: Path
) -> None:
    """The ledger remembers the renaming, and the commit that it names says so; a forged note's commit does not."""
    folder = copy_of_applied
    (folder / "models" / "deployment.yaml").write_text(DEPLOYMENT.replace("Model/small", "Model/mid"))
    for metadata, seed in (("{name: mid, previous_name: small}", "seed: 5"), ("{name: mid}", "seed: 6")):
        (folder / "models" / "model.yaml").write_text(MODEL.replace("{name: small}", metadata).replace("seed: 5", seed))
        commit_all(folder)
        run_forge(folder, config_home, "apply")
    with Repository(folder) as repository:
        head = git(folder, "rev-parse", "HEAD")
        forged = Renaming(subject="DataRecipe/small", previous="DataRecipe/other", commit=head)
        Ledger(repository, REF).append([Draft(forged)])
    withdraw(folder, "DataRecipe/other")
    run_forge(folder, config_home, "apply", code=None)
    assert "the chain holds" in run_forge(folder, config_home, "verify", "release/local").stdout
    withdraw(folder, "Model/small")
    run_forge(folder, config_home, "apply", code=1)
    said = run_forge(folder, config_home, "verify", "release/local", code=4)
    assert "[withdrawn]" in said.stdout + said.stderr
    assert "Model/small" in said.stdout + said.stderr


def test_a_commit_withdraws_and_another_lifts(copy_of_applied: Path, config_home: Path) -> None:
    folder = copy_of_applied
    commit = withdraw(folder, "DataRecipe/small", "Model/elsewhere")
    plan = run_forge(folder, config_home, "plan", "--exit-code", code=3).stdout
    assert "2 to withdraw or not, 7 blocked" in plan
    assert "withdraw/DataRecipe/small" in plan
    done = run_forge(folder, config_home, "apply", code=1)
    assert "withdraw/DataRecipe/small: withdrawn: case 0" in done.stderr
    assert "release/small-local is blocked: withdrawn: DataRecipe/small (by train/small): case 0" in done.stderr
    (kept, _other) = withdrawals_of(folder)
    assert (kept.subject, kept.reason, kept.lifted, kept.commit, kept.supersedes) == (
        "DataRecipe/small",
        "case 0",
        False,
        commit,
        None,
    )
    before = git(folder, "rev-parse", REF)
    run_forge(folder, config_home, "apply", code=1)
    assert git(folder, "rev-parse", REF) == before  # said once

    verified = json.loads(run_forge(folder, config_home, "verify", "release/local", "--format", "json", code=4).stdout)
    (finding,) = verified["findings"]
    assert (finding["rule"], finding["object"]) == ("withdrawn", "curate/small")
    for words in (
        "DataRecipe/small is withdrawn (case 0",
        f"entry {entries_of(folder)[-2].sequence}",
        commit,
        "remove the entry",
    ):
        assert words in finding["message"]
    with pytest.raises(WithdrawnError, match="DataRecipe/small is withdrawn"):
        pulled(folder, config_home)
    serve = run_forge(folder, config_home, "serve", "--env", "local", "--port", "0", code=4)
    assert "may not serve: DataRecipe/small is withdrawn" in serve.stderr
    status = json.loads(run_forge(folder, config_home, "status", "--format", "json").stdout)
    assert {step["status"] for step in status["steps"]} == {"blocked"}

    git(folder, "branch", "unaware", "HEAD~1")
    older = run_forge(folder, config_home, "apply", "--ref", "unaware", code=4)
    assert "cannot lift the withdrawal of DataRecipe/small: it does not descend from commit" in older.stderr
    assert git(folder, "rev-parse", REF) == before

    lifting = lift(folder)
    done = run_forge(folder, config_home, "apply")
    assert "withdraw/DataRecipe/small: no longer withdrawn" in done.stderr
    assert "started" not in done.stderr
    assert [(each.lifted, each.commit) for each in withdrawals_of(folder)[-2:]] == 2 * [(True, lifting)]
    verdict = verdict_of(folder, config_home)
    assert verdict.holds, verdict.findings
    assert not any(check.rule is Rule.WITHDRAWN for check in verdict.checks)

    append(folder, config_home, body_of(folder, "DataRecipe/small"), Role.RELEASER)
    assert "is withdrawn (why" in refused(folder, config_home)
    bodies = bodies_of(folder)
    old_lift = next(
        body for body in bodies if isinstance(body, Withdrawal) and body.lifted and body.subject == "DataRecipe/small"
    )
    rewrite(folder, [*bodies, old_lift])
    assert "the withdrawal of DataRecipe/small does not follow the one before it" in refused(folder, config_home)


def test_whatever_it_descends_from_is_enough(copy_of_applied: Path, config_home: Path) -> None:
    """Signed withdrawals of one repository, one after the other: each finding names the place."""
    folder = copy_of_applied
    root = read_trust_root(config_home)
    weights = record_of(folder, "train/small").products["weights"]
    made = {file.path: str(file.sha256) for file in store_of(folder).manifest(weights).files}
    subjects = {
        str(digest_of_bytes((folder / "corpus" / "part.jsonl.gz").read_bytes())): "source-0/corpus/part.jsonl.gz",
        made["model.safetensors"]: "weights/model.safetensors",
        record_of(folder, "curate/small").products["documents"]: "documents",
        weights: "weights",
        "Model/small": "it is made of it",
        "EvalSuite/small": "it is made of it",
        record_of(folder, "evaluate/small.small").products["report"]: "report",
        f"key:{root.roles[Role.DATA_STEWARD][0].keyid}": "this key signed its record",
        f"key:{root.roles[Role.RELEASER][0].keyid}": "this key signed it",
    }
    for subject, place in subjects.items():
        append(folder, config_home, body_of(folder, subject, reason=place), Role.RELEASER)
    verdict = verdict_of(folder, config_home)
    assert sorted(item.subject for item in verdict.withdrawn) == sorted(subjects)
    messages = {item.message.split(" ", 1)[0]: item.message for item in verdict.findings if item.rule is Rule.WITHDRAWN}
    assert len(messages) == len(verdict.findings) == len(subjects)
    for subject, place in subjects.items():
        assert place in messages[subject].split("; here: ")[1]
    release = next(body for body in bodies_of(folder) if isinstance(body, Release))
    with Repository(folder) as repository:  # what an agent asks, from records and commits alone
        snapshot = Ledger(repository, REF).snapshot()
        found = {item.subject for item in withdrawn_from(release.release, repository, snapshot, root)}
        keyid = root.roles[Role.DATA_STEWARD][0].keyid
        assert snapshot.signed_by(keyid) == {record_of(folder, "curate/small").key}
    assert found == set(subjects) - {made["model.safetensors"]}


def test_who_only_writes_the_ref_ends_no_service_and_starts_none(copy_of_applied: Path, config_home: Path) -> None:
    folder = copy_of_applied
    append(folder, config_home, body_of(folder, "Model/elsewhere"), None)
    assert verdict_of(folder, config_home).holds  # it concerns nothing here
    for role, said in ((None, "it is not signed"), (Role.TRAINER, "no valid signature of the role releaser")):
        append(folder, config_home, body_of(folder, "DataRecipe/small", reason=f"as {role}"), role)
        verdict = verdict_of(folder, config_home)
        assert verdict.withdrawn == ()
        (finding,) = verdict.findings
        assert said in finding.message
        assert "withdrawal of DataRecipe/small" in finding.object
    commit = withdraw(folder, "DataRecipe/small")
    append(folder, config_home, body_of(folder, "DataRecipe/small"), Role.RELEASER)  # who may, says it
    assert [item.subject for item in verdict_of(folder, config_home).withdrawn] == ["DataRecipe/small"]
    parent = git(folder, "rev-parse", "HEAD~1")
    for role, at, said in (
        (None, commit, "it is not signed"),
        (Role.AGENT, commit, "no valid signature of the role releaser"),
        (Role.RELEASER, parent, f"commit {parent} does not descend from commit {commit}"),
        (Role.RELEASER, commit, f"commit {commit} still withdraws it"),
    ):
        append(folder, config_home, body_of(folder, "DataRecipe/small", lifted=True, commit=at, reason=f"{role} {at}"), role)
        verdict = verdict_of(folder, config_home)
        assert [item.subject for item in verdict.withdrawn] == ["DataRecipe/small"], said  # it is in force all the same
        assert any(said in item.message and "end of the withdrawal" in item.object for item in verdict.findings)


def test_only_a_commit_that_knew_that_a_service_stops_lets_it_go_on(copy_of_applied: Path, config_home: Path) -> None:
    """Who has the releaser's key could withdraw again at an older commit, more softly, and an agent would go on."""
    folder = copy_of_applied

    def in_force() -> str:
        (item,) = verdict_of(folder, config_home).withdrawn
        return item.serving

    soft = withdraw(folder, "DataRecipe/small", serving="refuse")
    run_forge(folder, config_home, "apply", code=1)
    assert in_force() == "refuse"
    stop = withdraw(folder, "DataRecipe/small")
    run_forge(folder, config_home, "apply", code=1)
    assert in_force() == "stop"

    before = git(folder, "rev-parse", REF)
    refused = run_forge(folder, config_home, "apply", "--ref", soft, code=4).stderr
    assert f"commit {soft[:12]} cannot soften the withdrawal of DataRecipe/small: it does not descend from commit" in refused
    assert git(folder, "rev-parse", REF) == before
    for at, said in ((soft, f"does not descend from commit {stop}"), (stop, "does not say `serving: refuse` of it")):
        body = body_of(folder, "DataRecipe/small", serving="refuse", commit=at, reason=f"at {at}")
        append(folder, config_home, body, Role.RELEASER)
        assert in_force() == "stop"
        assert any(said in finding.message for finding in verdict_of(folder, config_home).findings)

    withdraw(folder, "DataRecipe/small", serving="refuse")
    run_forge(folder, config_home, "apply", code=1)
    assert in_force() == "refuse"


def test_what_others_wrote_in_the_place_of_a_withdrawal_is_replaced(copy_of_applied: Path, config_home: Path) -> None:
    """What the ledger says last counts for nothing where it does not hold: the releaser's own word has to come after it."""
    folder = copy_of_applied
    append(folder, config_home, body_of(folder, "DataRecipe/small"), None)  # nobody withdraws it
    run_forge(folder, config_home, "apply")
    assert verdict_of(folder, config_home).holds
    assert [each.lifted for each in withdrawals_of(folder)] == [False, True]

    old = git(folder, "rev-parse", "HEAD")
    withdraw(folder, "DataRecipe/small")
    run_forge(folder, config_home, "apply", code=1)
    softer = {"serving": "refuse", "reason": "case 0", "commit": old}
    for changes, role in (({"lifted": True}, None), (softer, Role.RELEASER)):
        append(folder, config_home, body_of(folder, "DataRecipe/small", **changes), role)
        run_forge(folder, config_home, "apply", code=1)
        (item,) = verdict_of(folder, config_home).withdrawn
        assert (item.serving, item.entry) == ("stop", entries_of(folder)[-1].sequence)
    append(folder, config_home, body_of(folder, "DataRecipe/small", **softer), Role.RELEASER)
    withdraw(folder, "DataRecipe/small", serving="refuse")
    run_forge(folder, config_home, "apply", code=1)
    (item,) = verdict_of(folder, config_home).withdrawn
    assert item.serving == "refuse"
    append(folder, config_home, body_of(folder, "DataRecipe/small", lifted=True), None)
    lift(folder)
    run_forge(folder, config_home, "apply")
    assert verdict_of(folder, config_home).holds
