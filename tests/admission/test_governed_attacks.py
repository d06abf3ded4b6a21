"""Attacks on a release under a supply chain that the root signed, each refused by its own words.

Attacker: writes the ledger's ref, and the commits; holds no key, or the one that a test names.
"""

import datetime
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.admission.test_attacks import REF, as_it_stands, bodies_of, entries_of, record_of, rewrite, signed_move
from tests.admission.test_supply_chain import change_policy, verdict_of
from tests.conftest import git, run_forge
from tests.governed import Governed, commit_as, govern

from forge.admission.collect import collect_delegations
from forge.admission.entries import collect_ledger
from forge.admission.history import read_history
from forge.attest.approval import approval_statement, pack
from forge.attest.envelope import seal
from forge.attest.keys import signer_for
from forge.attest.ssh import APPROVAL_NAMESPACE, sign_with_ssh
from forge.attest.statements import withdrawal_statement
from forge.attest.trust import read_trust_root
from forge.canonical import digest_of_bytes
from forge.contract.kinds import Role
from forge.contract.record import Approval, Release, Withdrawal
from forge.errors import LedgerError, TrustError
from forge.ledger.entry import Body
from forge.ledger.head import head_here
from forge.ledger.ledger import Draft, Ledger
from forge.repo.repository import Repository
from forge.serve.watch import Lookout, Source, Withdrawn

NOTHING = "sha256:" + "0" * 64


def now(seconds: float = 0) -> str:
    moment = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds)
    return moment.isoformat(timespec="milliseconds")


def release_of(folder: Path) -> Release:
    """The newest one that is signed."""
    return [body for body in bodies_of(folder) if isinstance(body, Release) and body.attestations][-1]


def move_of(folder: Path, config: Path, **change: object) -> tuple[Release, list[bytes]]:
    """A later move by the releaser's key, with the links of the chain as they were."""
    before = release_of(folder)
    release, sealed = signed_move(folder, config, before.model_copy(update={"moved": now(), **change}))
    chain = {name: digest for name, digest in before.attestations.items() if name.startswith("chain-")}
    return release.model_copy(update={"attestations": {**chain, **release.attestations}}), sealed


def append(folder: Path, *bodies: Body, attestations: tuple[bytes, ...] = ()) -> None:
    with Repository(folder) as repository:
        ledger = Ledger(repository, REF)
        for body in bodies:
            ledger.append([Draft(body, attestations)])


def unsigned_approval(given: str, *digests: str) -> Approval:
    """One that lists what somebody else signed, or nothing."""
    names = {f"a{number}": digest for number, digest in enumerate(digests)}
    return Approval(subject="plan", digest=NOTHING, person="x", commit="0" * 40, given=given, attestations=names)


def revoke(folder: Path, governed: Governed, role: str) -> None:
    """The root revokes a role's key as of this moment, to the second; another one takes its place."""
    time.sleep(1.1)
    chain = governed.supply_chain()
    (key,) = chain["roles"][role]["keys"]
    chain["roles"][role]["keys"].append({**key, "name": "another", "public": governed.public("agent")})
    key["revoked"] = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    govern(folder, chain, governed.people())
    commit_as(folder, governed, "cleo", f"the key of the {role} was stolen")
    run_forge(folder, governed.config, "keys", "delegate")


def findings_of(folder: Path, governed: Governed) -> list[str]:
    return [str(finding) for finding in verdict_of(folder, governed.config).findings]


def test_a_move_signed_before_a_revocation_and_appended_after_it_is_refused(released: Path, governed: Governed) -> None:
    """One key (releaser): an entry that nobody signed listed the move's attestations before the revocation."""
    late, sealed = move_of(released, governed.config, moved=now())
    append(released, unsigned_approval(now(), *late.attestations.values()))
    revoke(released, governed, "releaser")
    append(released, late, attestations=tuple(sealed))
    said = findings_of(released, governed)
    assert any("[signature] release of local: the key releaser releaser-1 was revoked at" in line for line in said), said


def test_a_record_signed_before_a_revocation_and_appended_after_it_is_refused(released: Path, governed: Governed) -> None:
    """One key (evaluator): likewise with an evaluation that supersedes the one that counted."""
    honest = record_of(released, "evaluate/small.small")
    known = next(entry.digest for entry in entries_of(released) if entry.body == honest)
    again = honest.model_copy(update={"supersedes": known, "finished": now()})
    late, sealed = as_it_stands(released, governed.config, again, Role.EVALUATOR)
    append(released, unsigned_approval(now(), *late.attestations.values()))
    revoke(released, governed, "evaluator")
    rewrite(released, [*bodies_of(released), late], sealed)
    said = findings_of(released, governed)
    assert any("evaluate/small.small link: the key evaluator evaluator-1 was revoked at" in line for line in said), said


def lookout_on(
    folder: Path, governed: Governed, tmp_path: Path, release: str, ref: str = REF, remote: str | None = None
) -> Lookout:
    """Of an agent that serves the release."""
    served = SimpleNamespace(release_digest=release)
    source = Source(folder, "local", ref, remote, ".forge/store", governed.config, tmp_path / "weights")
    return Lookout(source, {}, lambda: None, served=lambda: served)


def look(folder: Path, governed: Governed, tmp_path: Path, ref: str = REF, release: str | None = None) -> Withdrawn | object:
    """What it finds at its first look."""
    lookout = lookout_on(folder, governed, tmp_path, release or release_of(folder).release, ref)
    try:
        return lookout.look()
    finally:
        lookout.close()


def test_a_ledger_under_another_name_has_to_keep_what_was_seen(released: Path, governed: Governed, tmp_path: Path) -> None:
    """No key: a ref at an older head, and a commit by nobody whose forge.toml names it."""
    old = git(released, "rev-parse", REF)
    append(released, unsigned_approval(now()))
    run_forge(released, governed.config, "verify", "release/local")
    new, other = git(released, "rev-parse", REF), f"{REF}-b"
    git(released, "update-ref", other, old)
    settings = released / "forge.toml"
    settings.write_text(settings.read_text() + f'\n[ledger]\nref = "{other}"\n')
    commit_as(released, governed, None, "chore: settings")
    told = f"another ledger is named: {other} is {old}, which does not descend from {new}, the head of {REF}"
    report = ["report", "release/local", "--out", str(tmp_path / "report")]
    for command in (["verify", "release/local"], report, ["impact", "DataRecipe/small"], ["apply"]):
        assert told in run_forge(released, governed.config, *command, code=LedgerError.exit_code).stderr
    with pytest.raises(LedgerError, match="another ledger is named"):
        look(released, governed, tmp_path, other)
    git(released, "update-ref", "-d", other)
    assert f"{other} is absent" in run_forge(released, governed.config, "verify", "release/local", code=None).stderr
    git(released, "update-ref", other, new)
    run_forge(released, governed.config, "verify", "release/local")
    append(released, unsigned_approval(now(1)))  # to the earlier name: the one that was seen last binds
    run_forge(released, governed.config, "verify", "release/local")


def test_what_an_engine_before_remembered_binds_another_name_too(released: Path, governed: Governed) -> None:
    """Its memory is by ref alone. With a root of which this clone has seen nothing, another ledger is one's own affair."""
    head, old = (git(released, "rev-parse", name) for name in (REF, f"{REF}~1"))
    git(released, "update-ref", f"{REF}-b", old)
    with Repository(released) as repository:
        for file in repository.state_folder.glob("ledger-of-*"):
            file.unlink()
        with pytest.raises(LedgerError, match=f"does not descend from {head}"):
            head_here(repository, f"{REF}-b", NOTHING)
        assert head_here(repository, REF, NOTHING) == head
        with pytest.raises(LedgerError, match=f"does not descend from {head}"):
            head_here(repository, f"{REF}-b", NOTHING)
        assert head_here(repository, f"{REF}-b", NOTHING.replace("0", "1")) == old


def end_key(folder: Path, governed: Governed, role: str, ends: str) -> None:
    """A role's key ends at a time."""
    chain = governed.supply_chain()
    chain["roles"][role]["keys"][0]["valid_until"] = f"{ends[:19]}Z"
    govern(folder, chain, governed.people())
    commit_as(folder, governed, "cleo", "keys end")
    run_forge(folder, governed.config, "keys", "delegate")


def withdraw(folder: Path, governed: Governed) -> None:
    """What the release descends from is withdrawn, by a commit that is applied."""
    head = "apiVersion: forge/v1\nkind: Withdrawals\nmetadata: {name: withdrawn}\nspec:\n  withdrawn:\n"
    row = "    - {subject: DataRecipe/small, reason: no licence, serving: stop}\n"
    (folder / "policies" / "withdrawn.yaml").write_text(head + row)
    commit_as(folder, governed, "cleo", "withdraw")
    run_forge(folder, governed.config, "apply", code=None)


def unsigned_move(moved: str, environment: str = "zzz") -> Release:
    return Release(environment=environment, deployment="d", release=NOTHING, key=NOTHING, commit="0" * 40, moved=moved)


def test_each_signed_entry_says_how_late_it_is(released: Path, governed: Governed) -> None:
    """Records by their links, moves, and approvals: whoever takes a key later cannot sign for the time before."""
    with Repository(released) as repository:
        snapshot = Ledger(repository, REF).snapshot()
        evidence = collect_ledger(repository, snapshot)
        collect_delegations(snapshot, evidence)
        root = read_trust_root(governed.config)
        history = read_history(evidence.entries, evidence.attestations, root, None, evidence.reader(snapshot))
        latest = ""
        for entry in evidence.entries:
            body = entry.body
            times = (getattr(body, name, None) for name in ("finished", "moved", "given", "signed"))
            said = next((time for time in times if time is not None), None)
            if said is not None:
                latest = max(latest, said)  # a result that was taken up was finished before others
                assert history.moment(entry.sequence + 1, "2020-01-01T00:00:00+00:00") == latest, body.kind


def test_an_unsigned_entry_moves_no_time(released: Path, governed: Governed, tmp_path: Path) -> None:
    """No key: an approval and a move of the end of time, before which every key that ends has ended."""
    end_key(released, governed, "releaser", "2098-01-01T00:00:00")
    append(released, unsigned_approval("9999-01-01T00:00:00+00:00"), unsigned_move("9998-01-01T00:00:00+00:00", "local"))
    change_policy(released)
    commit_as(released, governed, "cleo", "shorter answers")
    run_forge(released, governed.config, "apply")
    assert release_of(released).moved < "2090"
    assert verdict_of(released, governed.config).holds
    withdraw(released, governed)
    found = look(released, governed, tmp_path)
    assert isinstance(found, Withdrawn)
    assert found.stops


def test_a_clock_that_is_ahead_moves_no_time_beyond_its_own_entry(released: Path, governed: Governed) -> None:
    """A person whose clock is years ahead approves; so does one of a few hours, until the root signs again."""
    end_key(released, governed, "releaser", now(20 * 3600))
    approve_at(released, governed, "2090-01-01T00:00:00+00:00")
    change_policy(released)
    commit_as(released, governed, "cleo", "shorter answers")
    run_forge(released, governed.config, "apply")
    assert verdict_of(released, governed.config).holds
    approve_at(released, governed, now(22 * 3600))
    change_policy(released, "max_tokens: 16", "max_tokens: 8")
    commit_as(released, governed, "cleo", "even shorter answers")
    assert "releaser-1 expired at" in run_forge(released, governed.config, "apply", code=4).stderr
    end_key(released, governed, "releaser", now(21 * 3600))
    run_forge(released, governed.config, "apply")
    assert verdict_of(released, governed.config).holds


@pytest.mark.parametrize(
    "poison",
    [
        ("2026-01-01T00:00:00+00:00", "2025-01-01T00:00:00+00:00"),
        ("2026-01-01T00:00:00+00:00", "no time"),
    ],
    ids=["falling", "none"],
)
def test_moves_that_nobody_signed_keep_no_service_up(
    released: Path, governed: Governed, tmp_path: Path, poison: tuple[str, str]
) -> None:
    """No key: of an environment that does not exist, in falling order or at no time."""
    append(released, *map(unsigned_move, poison))
    assert verdict_of(released, governed.config).holds
    withdraw(released, governed)
    found = look(released, governed, tmp_path)
    assert isinstance(found, Withdrawn)
    assert [item.subject for item in found.subjects] == ["DataRecipe/small"]


def test_a_withdrawal_stops_a_service_whatever_else_the_ledger_holds(
    released: Path, governed: Governed, tmp_path: Path
) -> None:
    """No key: after the withdrawal, an end of it that nobody signed; one signed for another; then what is no entry at all."""
    withdraw(released, governed)
    entry = next(each for each in entries_of(released) if isinstance(each.body, Withdrawal))
    assert isinstance(entry.body, Withdrawal)
    lift = entry.body.model_copy(update={"lifted": True, "supersedes": entry.digest})
    append(released, lift.model_copy(update={"attestations": {}}))
    assert isinstance(look(released, governed, tmp_path), Withdrawn)
    rewrite(released, [*bodies_of(released), lift, entry.body])
    assert isinstance(look(released, governed, tmp_path), Withdrawn)
    release = release_of(released).release
    add_commit(released, {f"entries/000/000/{len(bodies_of(released)) + 1:03d}.json": b"{"}, "no entry")
    with pytest.raises(LedgerError):
        bodies_of(released)
    assert isinstance(look(released, governed, tmp_path, REF, release), Withdrawn)


def test_a_withdrawal_in_a_head_that_no_clone_follows_stops_an_agent_for_good(
    released: Path, governed: Governed, tmp_path: Path
) -> None:
    """No key, but the shared ledger's ref: something at fault comes with the withdrawal, and then both are taken back."""
    remote, agent, release = tmp_path / "remote", tmp_path / "agent", release_of(released).release
    git(tmp_path, "init", "--quiet", "--bare", str(remote))
    git(released, "push", "--quiet", str(remote), "main", REF)
    shutil.copytree(released, agent, symlinks=True)
    git(agent, "remote", "add", "origin", str(remote))
    before = git(released, "rev-parse", REF)
    withdraw(released, governed)
    add_commit(released, {f"entries/000/000/{len(bodies_of(released)) + 1:03d}.json": b"{"}, "no entry")
    git(released, "push", "--quiet", str(remote), REF)
    lookout = lookout_on(agent, governed, tmp_path, release, remote="origin")
    found = lookout.look()
    assert isinstance(found, Withdrawn)
    assert found.stops
    with pytest.raises(LedgerError, match="does not say which entry is its last"):
        lookout.look()
    git(remote, "update-ref", REF, before)
    with pytest.raises(LedgerError, match="by which what is served is withdrawn"):
        lookout.look()
    lookout.close()


def add_commit(folder: Path, files: Mapping[str, bytes], message: str) -> None:
    """Write the ref past the ledger's own rules: files that no entry lists."""
    stream = b"commit refs/forge/new\ncommitter A <a@b> 1 +0000\ndata %d\n%s\n" % (len(message), message.encode())
    stream += b"from %s^0\n" % REF.encode()
    for path, data in files.items():
        stream += b"M 100644 inline %s\ndata %d\n%s\n" % (path.encode(), len(data), data)
    subprocess.run(["git", "fast-import", "--quiet", "--force"], cwd=folder, input=stream, check=True)
    git(folder, "update-ref", REF, "refs/forge/new")
    git(folder, "update-ref", "-d", "refs/forge/new")


def test_a_withdrawal_that_was_lifted_stops_nothing_when_it_is_appended_again(
    released: Path, governed: Governed, tmp_path: Path
) -> None:
    """No key: nobody ends a service by writing the ref."""
    withdraw(released, governed)
    (released / "policies" / "withdrawn.yaml").unlink()
    commit_as(released, governed, "cleo", "it was licensed after all")
    run_forge(released, governed.config, "apply")
    again = next(body for body in bodies_of(released) if isinstance(body, Withdrawal))
    rewrite(released, [*bodies_of(released), again])
    with pytest.raises(TrustError, match="does not follow the one before it"):
        look(released, governed, tmp_path)


def approve_at(folder: Path, governed: Governed, given: str) -> None:
    """Ana approves what she approved before, and says another time."""
    before = next(body for body in bodies_of(folder) if isinstance(body, Approval) and body.person == "ana")
    body = before.model_copy(update={"given": given})
    statement = approval_statement(body)
    sealed = pack(statement, sign_with_ssh(statement, governed.ssh / "ana", APPROVAL_NAMESPACE))
    body = body.model_copy(update={"attestations": {"approval": str(digest_of_bytes(sealed))}})
    append(folder, body, attestations=(sealed,))


def test_a_commit_that_never_knew_of_a_withdrawal_does_not_lift_it(released: Path, governed: Governed) -> None:
    """One key (releaser): the subject is withdrawn again at the older commit first, so that its end seems to know of it."""
    older = git(released, "rev-parse", "HEAD")
    withdraw(released, governed)
    for lifted in (False, True):
        last = next(entry for entry in reversed(entries_of(released)) if isinstance(entry.body, Withdrawal))
        change = {"lifted": lifted, "serving": "refuse", "supersedes": last.digest, "commit": older, "moved": now()}
        body = last.body.model_copy(update=change)
        assert isinstance(body, Withdrawal)
        sealed = seal(withdrawal_statement(body), signer_for(Role.RELEASER, governed.config))
        body = body.model_copy(update={"attestations": {"withdrawal": str(digest_of_bytes(sealed))}})
        append(released, body, attestations=(sealed,))
    said = findings_of(released, governed)
    assert any(line.startswith("[withdrawn] ") and "DataRecipe/small is withdrawn" in line for line in said), said
    assert any(f"commit {older} does not descend from commit" in line and "never knew of it" in line for line in said), said


def test_a_commit_that_nobody_signed_lifts_nothing(released: Path, governed: Governed) -> None:
    """No key: nor does it with a signed one on top. What the root has signed since is known to somebody."""
    withdraw(released, governed)
    git(released, "rm", "--quiet", "policies/withdrawn.yaml")
    unsigned = commit_as(released, governed, None, "cleanup")
    told = f"commit {unsigned[:12]}, which is signed by nobody that People lists, so its author is unknown"
    assert told in run_forge(released, governed.config, "apply", code=4).stderr
    commit_as(released, governed, "cleo", "on top of it")
    assert told in run_forge(released, governed.config, "apply", code=4).stderr
    assert not verdict_of(released, governed.config).holds
    end_key(released, governed, "releaser", "2098-01-01T00:00:00")
    run_forge(released, governed.config, "apply")
    assert verdict_of(released, governed.config).holds


def test_a_move_that_says_it_was_made_before_there_were_summaries_is_refused(released: Path, governed: Governed) -> None:
    """One key (releaser)."""
    late, sealed = move_of(released, governed.config, statements=1, rests_on=())
    append(released, late, attestations=tuple(sealed))
    said = findings_of(released, governed)
    assert any("[signature] release of local: it says that it is signed by statements 1" in line for line in said), said
    assert any(line.endswith("it has no verification summary") for line in said), said


@pytest.mark.parametrize("step_id", ["evaluate/small.small", "gate/small-local"])
def test_a_record_that_says_it_was_made_by_an_engine_before_is_refused(
    released: Path, governed: Governed, step_id: str
) -> None:
    """One key (evaluator): without the lock, and without the gate's own result."""
    honest = record_of(released, step_id)
    known = next(entry.digest for entry in entries_of(released) if entry.body == honest)
    older = {"supersedes": known, "statements": 1, "lock": None, "hardware": None, "about": {}, "finished": now()}
    late, sealed = as_it_stands(released, governed.config, honest.model_copy(update=older), Role.EVALUATOR)
    rewrite(released, [*bodies_of(released), late], sealed)
    said = findings_of(released, governed)
    assert any(f"[signature] {step_id}: it says that it is signed by statements 1" in line for line in said), said
