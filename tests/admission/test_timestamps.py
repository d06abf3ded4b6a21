"""A chain whose signatures an authority has stamped, under a supply chain that requires it; and each way to get around that."""

import datetime
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from tests.admission.test_attacks import bodies_of, record_of, rewrite
from tests.conftest import new_repository, run_forge, write_small
from tests.governed import Governed, commit_as, govern, make_governed
from tests.outside.node import FOLDER, node
from tests.tsa import DAY, Authority, Server, make_authority, needs_openssl, send, serving

from forge.admission.approvals import judge_approvals
from forge.admission.evidence import Evidence
from forge.admission.history import read_history
from forge.admission.verdict import Rule, Verdict
from forge.admission.verify import verify
from forge.admission.withdrawals import Standing, standing
from forge.attest.approval import unpack
from forge.attest.bundle import with_timestamp
from forge.attest.envelope import seal
from forge.attest.keys import signer_for
from forge.attest.statements import withdrawal_statement
from forge.attest.timestamps import PREFIX, pin_timestamp_authority, read_timestamp_authority, signature_in
from forge.attest.trust import read_trust_root
from forge.canonical import digest_of_bytes
from forge.contract.kinds import Role
from forge.contract.record import Approval, Delegation, Record, Release, Withdrawal
from forge.ledger.entry import APPROVALS, DELEGATIONS, Body, Entry
from forge.ledger.ledger import Ledger
from forge.repo.repository import Repository
from forge.report.bundle import pack
from forge.store.store import Store

pytestmark = needs_openssl
REF = "refs/forge/ledger"


@pytest.fixture(scope="module")
def governed(tmp_path_factory: pytest.TempPathFactory) -> Governed:
    return make_governed(tmp_path_factory.mktemp("governed"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(make_authority(tmp_path_factory.mktemp("tsa") / "acme")) as found:
        yield found


@pytest.fixture(scope="module")
def released_once(tmp_path_factory: pytest.TempPathFactory, governed: Governed, server: Server) -> Path:
    """A governed release whose supply chain requires time stamps; on the way to it, each way to have no authority."""
    folder = new_repository(tmp_path_factory.mktemp("released") / "repository")
    write_small(folder)
    chain = governed.supply_chain(timestamps="required")
    chain["roles"]["releaser"]["keys"][0]["valid_until"] = "2030-01-01T00:00:00Z"
    govern(folder, chain, governed.people())
    commit_as(folder, governed, "cleo", "time stamps are required, and no authority is named")
    run_forge(folder, governed.config, "keys", "delegate")
    unnamed = run_forge(folder, governed.config, "apply", code=4)
    assert "requires time stamps, and forge.toml names no authority" in unnamed.stderr
    with (folder / "forge.toml").open("a") as settings:
        settings.write(f'[timestamps]\nurl = "{server.url}"\n')
    commit_as(folder, governed, "cleo", "an authority")
    unpinned = run_forge(folder, governed.config, "apply", code=4)
    assert "no certificate of one is pinned here" in unpinned.stderr
    pinning = ("keys", "pin-timestamps", str(server.authority.pem), "--fingerprint")
    run_forge(folder, governed.config, *pinning, f"sha256:{'0' * 64}", code=4)
    run_forge(folder, governed.config, *pinning, server.authority.fingerprint)
    assert f"CN=acme root ({server.authority.fingerprint})" in run_forge(folder, governed.config, "keys", "show").stdout
    server.fault = answers_once(server)
    lost = run_forge(folder, governed.config, "apply", code=4)
    assert "refuses the request: HTTP 403" in lost.stderr
    assert not any(isinstance(body, Record) for body in bodies_of(folder)), "a record was kept without its time stamps"
    server.fault = None
    run_forge(folder, governed.config, "apply", code=1)
    assert record_of(folder, "curate/small").attempt == 1, "what had been made already was made again"
    run_forge(folder, governed.config, "approve", "release/local", "--key", str(governed.ssh / "ana"))
    run_forge(folder, governed.config, "apply")
    return folder


def answers_once(server: Server) -> Callable[[BaseHTTPRequestHandler, bytes], None]:
    """An authority that is there when the work begins, and no longer when it ends."""

    def answer(handler: BaseHTTPRequestHandler, query: bytes) -> None:
        server.fault = lambda later, _query: send(later, b"", 403)
        send(handler, server.authority.answer(query))

    return answer


@pytest.fixture
def released(released_once: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "copy"
    shutil.copytree(released_once, folder, symlinks=True)
    return folder


def verdict_of(folder: Path, config: Path, pins: Path | None = None, subject: str = "release/local") -> Verdict:
    with Repository(folder) as repository:
        snapshot = Ledger(repository, REF).snapshot()
        store, root = Store(".forge/store", folder), read_trust_root(config)
        return verify(subject, repository, snapshot, store, root, timestamps=read_timestamp_authority(pins or config))


def findings(verdict: Verdict) -> list[str]:
    return [str(item) for item in verdict.findings]


def release_of(folder: Path) -> Release:
    return next(body for body in bodies_of(folder) if isinstance(body, Release))


def attestation(folder: Path, digest: str) -> bytes:
    with Repository(folder) as repository:
        return Ledger(repository, REF).snapshot().attestation(digest)


def altered(folder: Path, body: Body, changes: Mapping[str, bytes | None]) -> None:
    """The ledger with other attestations for one body: what whoever can write the ref could put there."""
    names = dict(getattr(body, "attestations", {}))
    for name, data in changes.items():
        names.pop(name, None)
        if data is not None:
            names[name] = str(digest_of_bytes(data))
    other = body.model_copy(update={"attestations": names})
    bodies = [other if each == body else each for each in bodies_of(folder)]
    rewrite(folder, bodies, [data for data in changes.values() if data is not None], fresh=True)


def test_every_signature_of_a_role_is_stamped_and_the_verdict_says_when(released_once: Path, governed: Governed) -> None:
    verdict = verdict_of(released_once, governed.config)
    assert verdict.holds, findings(verdict)
    signatures = 0
    for body in bodies_of(released_once):
        if isinstance(body, Record | Release | Approval):
            names = {name for name in body.attestations if not name.startswith(PREFIX)}
            assert {f"{PREFIX}{name}" for name in names} == body.attestations.keys() - names
            signatures += 0 if isinstance(body, Approval) else len(names)
    (check,) = [check for check in verdict.checks if check.rule is Rule.TIMESTAMP]
    assert check.message.startswith(f"{signatures} signatures were there by 20")
    assert "CN=acme root" in check.message
    assert "the chain holds" in run_forge(released_once, governed.config, "verify", "release/local").stdout


def test_whoever_has_pinned_nobody_refuses_what_requires_time_stamps(
    released_once: Path, governed: Governed, tmp_path: Path
) -> None:
    verdict = verdict_of(released_once, governed.config, tmp_path)
    assert {item.rule for item in verdict.findings} == {Rule.TIMESTAMP, Rule.APPROVAL}
    assert verdict.trust.endswith("; 25 time stamps were not judged: no authority is pinned here (tsa.pem)")
    assert "not judged" not in verdict_of(released_once, governed.config).trust
    assert "the supply chain requires time stamps, and no authority is pinned here (tsa.pem)" in verdict.findings[0].message
    config = tmp_path / "config"
    shutil.copytree(governed.config, config)
    (config / "tsa.pem").unlink()
    done = run_forge(released_once, config, "verify", "release/local", code=4)
    assert "no authority is pinned here" in done.stdout


def test_an_authority_of_the_same_name_that_is_not_pinned_is_refused(
    released_once: Path, governed: Governed, tmp_path: Path
) -> None:
    other = make_authority(tmp_path / "acme")
    pin_timestamp_authority(tmp_path, other.pem.read_bytes(), [other.fingerprint], replace=False)
    verdict = verdict_of(released_once, governed.config, tmp_path)
    assert any("[timestamp] release of local release: the time stamp is not signed by" in text for text in findings(verdict))


def test_a_time_stamp_that_is_taken_away_is_missed(released: Path, governed: Governed) -> None:
    altered(released, release_of(released), {"timestamp-release": None})
    (finding,) = findings(verdict_of(released, governed.config))
    assert finding.startswith(
        "[timestamp] release of local release: it carries no time stamp, and the supply chain requires one"
    )


def test_the_token_of_another_signature_is_refused(released: Path, governed: Governed) -> None:
    release = release_of(released)
    borrowed = attestation(released, release.attestations["timestamp-verification-summary"])
    altered(released, release, {"timestamp-release": borrowed})
    (finding,) = findings(verdict_of(released, governed.config))
    assert finding.startswith("[timestamp] release of local release: the time stamp is about another signature")


def test_a_token_that_is_cut_off_is_refused(released: Path, governed: Governed) -> None:
    release = release_of(released)
    whole = attestation(released, release.attestations["timestamp-release"])
    altered(released, release, {"timestamp-release": whole[:-20]})
    (finding,) = findings(verdict_of(released, governed.config))
    assert finding.startswith("[timestamp] release of local release: it is no whole time-stamp answer in DER")


def test_a_token_without_a_signature_is_named(released: Path, governed: Governed) -> None:
    release = release_of(released)
    altered(released, release, {"timestamp-ghost": attestation(released, release.attestations["timestamp-release"])})
    (finding,) = findings(verdict_of(released, governed.config))
    assert finding.startswith("[timestamp] release of local timestamp-ghost: it is the time stamp of nothing")


def test_a_token_that_the_ledger_lacks_is_a_finding(released: Path, governed: Governed) -> None:
    release = release_of(released)
    names = {**release.attestations, "timestamp-release": f"sha256:{'0' * 64}"}
    bodies = [release.model_copy(update={"attestations": names}) if body == release else body for body in bodies_of(released)]
    rewrite(released, bodies, fresh=True)
    (finding,) = findings(verdict_of(released, governed.config))
    assert finding.startswith("[signature] release of local timestamp-release:")


@pytest.mark.parametrize(
    ("name", "days", "said"),
    [
        ("release", 8000, "the key releaser releaser-1 is valid only from 2020-01-01T00:00:00Z"),
        ("chain-train", 8000, "the key trainer trainer-1 is valid only from 2020-01-01T00:00:00Z"),
        ("release", -2000, "the key releaser releaser-1 expired at 2030-01-01T00:00:00Z"),
    ],
)
def test_a_key_has_to_be_valid_at_the_time_that_the_authority_states(
    released: Path, governed: Governed, server: Server, name: str, days: int, said: str
) -> None:
    """The ledger's order would have let it pass: what the entry claims lies within the key's validity."""
    release = release_of(released)
    authority: Authority = server.authority
    authority.issue("ages", begins=-8900 * DAY, ends=3000 * DAY)
    signature = signature_in(attestation(released, release.attestations[name]))
    at = datetime.datetime.now(datetime.UTC) - days * DAY
    altered(released, release, {f"timestamp-{name}": authority.token(signature, "ages", at=at)})
    (finding,) = findings(verdict_of(released, governed.config))
    assert finding.startswith(f"[timestamp] release of local {name}: by its time stamp it was signed {at.year}-")
    assert said in finding


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("missing", "its time stamp: it carries no time stamp, and the supply chain requires one"),
        ("borrowed", "its time stamp: the time stamp is about another signature"),
        ("early", "by its time stamp it was signed 20"),
    ],
)
def test_an_approval_counts_by_its_time_stamp_too(
    released: Path, governed: Governed, server: Server, change: str, said: str
) -> None:
    approval = next(body for body in bodies_of(released) if isinstance(body, Approval))
    server.authority.issue("ages", begins=-8900 * DAY, ends=3000 * DAY)
    signature = unpack(attestation(released, approval.attestations["approval"]))[1].encode()
    at = datetime.datetime.now(datetime.UTC) - 8000 * DAY
    tokens = {
        "missing": None,
        "borrowed": attestation(released, release_of(released).attestations["timestamp-release"]),
        "early": server.authority.token(signature, "ages", at=at),
    }
    altered(released, approval, {"timestamp-approval": tokens[change]})
    with Repository(released) as repository:
        snapshot = Ledger(repository, REF).snapshot()
        (entry,) = snapshot.entries_in(f"{APPROVALS}/release/local")
        delegations = snapshot.entries_in(DELEGATIONS)
        digests = [digest for each in (entry, *delegations) for digest in getattr(each.body, "attestations", {}).values()]
        held = {digest: snapshot.attestation(digest) for digest in digests}
    pins = read_timestamp_authority(governed.config)
    history = read_history([*delegations, entry], held, read_trust_root(governed.config), pins)
    (given,) = judge_approvals([entry], held, history, entry.sequence + 1, None)
    assert given.refusal is not None
    assert given.refusal.startswith(said)


def test_what_was_signed_before_it_was_asked_for_stays_as_it_is(released: Path, governed: Governed) -> None:
    """The ledger of an older engine: no body has a token. Time stamps are asked for of what follows the delegation alone."""
    bodies = []
    for body in bodies_of(released):
        names = {name: digest for name, digest in body.attestations.items() if not name.startswith(PREFIX)}
        bodies.append(body.model_copy(update={"attestations": names}))
    weights = record_of(released, "train/small").products["weights"]
    rewrite(released, bodies, fresh=True)
    found = verdict_of(released, governed.config, subject=weights)
    assert {item.rule for item in found.findings} == {Rule.TIMESTAMP}
    records = [body for body in bodies if isinstance(body, Record)]
    rewrite(released, [*records, *(body for body in bodies if not isinstance(body, Record))], fresh=True)
    found = verdict_of(released, governed.config, subject=weights)
    assert not [item for item in found.findings if item.rule is Rule.TIMESTAMP]


def outside(folder: Path, tools: Path, root: str, pins: Path | None) -> subprocess.CompletedProcess[str]:
    """The bundle's own script, with the outside verifiers and without Forge."""
    tools.mkdir()
    programs = {"in-toto-verify": [sys.executable, "-I", str(Path(sys.executable).with_name("in-toto-verify"))], "node": node()}
    for name, command in programs.items():
        (tools / name).write_text(f'#!/bin/sh\nexec {" ".join(command)} "$@"\n')
        (tools / name).chmod(0o755)
    environment = {
        "PATH": f"{tools}:/usr/local/bin:/usr/bin:/bin",
        "HOME": str(tools),
        **({"TSA_PEM": str(pins)} if pins else {}),
    }
    received = tools / "received"
    received.mkdir()
    (received / "verify.sh").write_bytes((folder / "verify.sh").read_bytes())
    (received / "bundle.tar.gz").write_bytes(pack(folder))
    (received / "node_modules").symlink_to(FOLDER / "node_modules")
    command = ["sh", "verify.sh", root, "bundle.tar.gz"]
    return subprocess.run(command, cwd=received, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.skipif(not (FOLDER / "node_modules").is_dir(), reason="needs `make setup-dev`")
def test_a_reviewer_without_forge_checks_the_time_stamps_of_the_bundle(
    released: Path, governed: Governed, server: Server, tmp_path: Path
) -> None:
    report = tmp_path / "report"
    run_forge(released, governed.config, "report", "release/local", "--out", str(report))
    assert "time stamp 20" in (report / "index.html").read_text()
    bundle = report / "bundle"
    root = read_trust_root(governed.config).digest
    good = outside(bundle, tmp_path / "a", root, server.authority.pem)
    assert good.returncode == 0, good.stdout + good.stderr
    assert "26 time stamps for openssl" in good.stdout
    assert good.stdout.endswith("VERDICT release/local: the chain holds\n")
    assert "the supply chain requires time stamps: set TSA_PEM" in outside(bundle, tmp_path / "b", root, None).stdout
    other = make_authority(tmp_path / "acme")
    assert "REFUSED the time stamp of attestations/" in outside(bundle, tmp_path / "c", root, other.pem).stdout
    (path,) = bundle.glob("attestations/*release-local.release.*sigstore.json")
    document = json.loads(path.read_bytes())
    del document["verificationMaterial"]["timestampVerificationData"]
    path.write_text(json.dumps(document))
    assert "it carries no time stamp" in outside(bundle, tmp_path / "d", root, server.authority.pem).stdout


def test_the_command_line_of_model_signing_takes_a_stamped_signature(
    released_once: Path, governed: Governed, tmp_path: Path
) -> None:
    train = record_of(released_once, "train/small")
    bundle = attestation(released_once, train.attestations["weights-signature"])
    stamped = with_timestamp(bundle, attestation(released_once, train.attestations["timestamp-weights-signature"]))
    (tmp_path / "it.json").write_bytes(stamped)
    Store(".forge/store", released_once).lay_out(train.products["weights"], tmp_path / "weights", link=False)
    public = governed.config / "public" / "weights.pem"
    command = [
        "verify",
        "key",
        str(tmp_path / "weights"),
        "--signature",
        str(tmp_path / "it.json"),
        "--public_key",
        str(public),
    ]
    done = subprocess.run([sys.executable, "-m", "model_signing", *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_stops_a_service_needs_no_time_stamp_and_what_lifts_that_does(released_once: Path, governed: Governed) -> None:
    commit = record_of(released_once, "train/small").commit
    signer = signer_for(Role.RELEASER, governed.config)
    bodies: list[Body] = [body for body in bodies_of(released_once) if isinstance(body, Delegation)]
    held = {}
    for lifted in (False, True):
        known = chained(bodies)[-1] if lifted else None
        body = Withdrawal(
            subject="DataRecipe/small",
            reason="its licence was not what it says",
            serving="stop",
            lifted=lifted,
            supersedes=known.digest if known is not None else None,
            commit=commit,
            moved="2026-11-23T00:00:01.000+00:00" if lifted else "2026-11-23T00:00:00.000+00:00",
        )
        sealed = seal(withdrawal_statement(body), signer)
        held[str(digest_of_bytes(sealed))] = sealed
        bodies.append(body.model_copy(update={"attestations": {"withdrawal": str(digest_of_bytes(sealed))}}))
    with Repository(released_once) as repository:
        snapshot = Ledger(repository, REF).snapshot()
        for digest in getattr(bodies[0], "attestations", {}).values():
            held[digest] = snapshot.attestation(digest)
    found = standing_of(bodies, held, governed)
    assert set(found.in_force) == {"DataRecipe/small"}, "it is not lifted by a signature without a time stamp"
    assert "it carries no time stamp" in str(found.faulty["DataRecipe/small"])
    assert set(standing_of(bodies[:-1], held, governed).in_force) == {"DataRecipe/small"}
    assert not standing_of(bodies[:-1], held, governed).faulty


def chained(bodies: Sequence[Body]) -> list[Entry]:
    entries: list[Entry] = []
    for body in bodies:
        previous = entries[-1].digest if entries else None
        entries.append(Entry(sequence=len(entries) + 1, previous=previous, body=body))
    return entries


def standing_of(bodies: Sequence[Body], held: dict[str, bytes], governed: Governed) -> Standing:
    evidence = Evidence(entries=chained(bodies), attestations=held)
    evidence.locate(evidence.entries)
    pins = read_timestamp_authority(governed.config)
    history = read_history(evidence.entries, held, read_trust_root(governed.config), pins)
    assert not history.findings
    return standing(evidence, history)
