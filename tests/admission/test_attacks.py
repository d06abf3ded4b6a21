"""Attacks that the verifier and the serving agent's pull must refuse.

Attacker: writes the Git repository, the ledger ref and the store, and holds no key (or, where a test says so, one role's).
"""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.conftest import DEPLOYMENT, SETTINGS, commit_all, git, run_forge

from forge.admission import rules
from forge.admission.verdict import Verdict
from forge.admission.verify import verify
from forge.attest.envelope import seal
from forge.attest.keys import signer_for
from forge.attest.statements import VERIFICATION_SUMMARY, payloads_of, release_statement, verification_summary
from forge.attest.trust import read_trust_root
from forge.canonical import canonical_json, digest_of_bytes
from forge.contract.kinds import Role, StepKind
from forge.contract.messages import FailureCause
from forge.contract.record import Attempt, Record, Release
from forge.errors import ForgeError
from forge.ledger.entry import Body, Entry, attestation_path, index_paths, sequence_path
from forge.ledger.ledger import Draft, Ledger
from forge.plan.graph import build_graph
from forge.plan.step import producers_of, step_key
from forge.repo.desired import read_desired
from forge.repo.repository import Repository
from forge.repo.tree import CommitTree
from forge.serve.pull import pull
from forge.serve.release import ServableRelease
from forge.spec.settings import read_settings
from forge.store.store import Store

REF = "refs/forge/ledger"


def store_of(folder: Path) -> Store:
    return Store(read_settings(SETTINGS.encode(), "0.1.0").store.url, folder)


def verdict_of(folder: Path, config_home: Path, subject: str = "release/local") -> Verdict:
    with Repository(folder) as repository:
        return verify(subject, repository, Ledger(repository, REF).snapshot(), store_of(folder), read_trust_root(config_home))


def pulled(folder: Path, config_home: Path) -> ServableRelease:
    with Repository(folder) as repository:
        snapshot = Ledger(repository, REF).snapshot()
        return pull("local", repository, snapshot, store_of(folder), read_trust_root(config_home), folder / "weights")


def refused(folder: Path, config_home: Path, subject: str = "release/local") -> str:
    """What the refusal says; fails where the subject is accepted, and where anything but a ForgeError comes out."""
    try:
        verdict = verdict_of(folder, config_home, subject)
    except ForgeError as error:
        return str(error)
    assert not verdict.holds, "accepted"
    return "\n".join(str(finding) for finding in verdict.findings)


def entries_of(folder: Path) -> list[Entry]:
    with Repository(folder) as repository:
        snapshot = Ledger(repository, REF).snapshot()
        return [snapshot.entry_at(sequence_path(number)) for number in range(1, snapshot.head[0] + 1)]


def bodies_of(folder: Path) -> list[Body]:
    return [entry.body for entry in entries_of(folder)]


def record_of(folder: Path, step_id: str) -> Record:
    return next(body for body in bodies_of(folder) if isinstance(body, Record) and body.step_id == step_id)


def rewrite(folder: Path, bodies: Sequence[Body], attestations: Sequence[bytes] = (), *, fresh: bool = False) -> None:
    """A ledger of exactly these bodies, chained and indexed anew: a fast-forward, or the first that a clone sees."""
    blobs = {attestation_path(digest_of_bytes(data)): data for data in attestations}
    with Repository(folder) as repository:
        for path, name in Ledger(repository, REF).snapshot().paths().items():
            found = repository.read_object(name)
            if path.startswith("attestations/") and found is not None:
                blobs[path] = found.data
    previous = None
    for sequence, body in enumerate(bodies, 1):
        entry = Entry(sequence=sequence, previous=previous, body=body)
        previous = entry.digest
        blobs |= dict.fromkeys((sequence_path(sequence), *index_paths(entry)), entry.to_bytes())
    message = f"forge\n\nForge-Head: {len(bodies)} {previous}\n".encode()
    stream = b"commit refs/forge/new\ncommitter A <a@b> 1 +0000\ndata %d\n%s\n" % (len(message), message)
    if fresh:
        (folder / ".git" / "forge" / "ledger-head").unlink()
    else:
        stream += b"from %s^0\ndeleteall\n" % REF.encode()
    for path, data in sorted(blobs.items()):
        stream += b"M 100644 inline %s\ndata %d\n%s\n" % (path.encode(), len(data), data)
    subprocess.run(["git", "fast-import", "--quiet", "--force"], cwd=folder, input=stream, check=True)
    git(folder, "update-ref", REF, "refs/forge/new")
    git(folder, "update-ref", "-d", "refs/forge/new")


def signed(folder: Path, config_home: Path, record: Record, role: Role) -> tuple[Record, list[bytes]]:
    """A record made to fit and signed by whoever holds this role's key; it supersedes what has its key."""
    record = record.model_copy(
        update={"key": step_key(record.step, record.step_version, record.parameters, record.inputs), "attestations": {}}
    )
    old = [entry for entry in entries_of(folder) if isinstance(entry.body, Record) and entry.body.key == record.key]
    return as_it_stands(folder, config_home, record.model_copy(update={"supersedes": old[-1].digest if old else None}), role)


def as_it_stands(folder: Path, config_home: Path, record: Record, role: Role) -> tuple[Record, list[bytes]]:
    """A record signed by whoever holds this role's key, nothing in it changed."""
    with Repository(folder) as repository:
        step = build_graph(read_desired(CommitTree(repository, record.commit)))[record.step_id]
    manifests = {digest: store_of(folder).manifest(digest) for digest in (*record.inputs.values(), *record.products.values())}
    verdicts = {
        digest: store_of(folder).read_file(digest, "verdict.json") for digest in map(record.products.get, ["verdict"]) if digest
    }
    payloads = payloads_of(record, manifests, producers_of(step), verdicts)
    sealed = {name: seal(payload, signer_for(role, config_home)) for name, payload in payloads.items()}
    names = {name: str(digest_of_bytes(data)) for name, data in sealed.items()}
    return record.model_copy(update={"attestations": names}), list(sealed.values())


def moved(folder: Path, config_home: Path, **change: object) -> tuple[Release, list[bytes]]:
    """A later move of the pointer, signed by the releaser."""
    release = next(body for body in bodies_of(folder) if isinstance(body, Release))
    return signed_move(folder, config_home, release.model_copy(update={"moved": "2999-01-01T00:00:00.000+00:00", **change}))


def signed_move(folder: Path, config_home: Path, release: Release) -> tuple[Release, list[bytes]]:
    """A move of the pointer and its summary, signed by the releaser as they stand."""
    entries = {entry.digest: entry.body for entry in entries_of(folder)}
    records = [body for body in map(entries.get, release.rests_on) if isinstance(body, Record)]
    weights = record_of(folder, "train/small").products["weights"]
    release = release.model_copy(update={"attestations": {}})
    payloads = {"release": release_statement(release)}
    if release.statements > 1:
        payloads[VERIFICATION_SUMMARY] = verification_summary(release, weights, records)
    sealed = {name: seal(payload, signer_for(Role.RELEASER, config_home)) for name, payload in payloads.items()}
    names = {name: str(digest_of_bytes(data)) for name, data in sealed.items()}
    return release.model_copy(update={"attestations": names}), list(sealed.values())


def release_again(folder: Path, config_home: Path) -> None:
    path = folder / "policies" / "small.yaml"
    path.write_text(path.read_text().replace("max_tokens: 32", "max_tokens: 16"))
    commit_all(folder, "a stricter policy")
    run_forge(folder, config_home, "apply")


def test_a_name_listed_twice_in_a_tree_does_not_reach_the_agent(copy_of_applied: Path, config_home: Path) -> None:
    """No key. Git resolves the first row, the listing's last row fits: verify and pull must not see different releases."""
    folder, store = copy_of_applied, store_of(copy_of_applied)
    entry = entries_of(folder)[-1]
    assert isinstance(entry.body, Release)
    document = json.loads(store.read_file(entry.body.release, "release.json"))
    document["weights"] = store.put_bytes({"model.safetensors": b"evil"}).digest
    artifact = store.put_bytes({"release.json": canonical_json(document) + b"\n"}).digest
    forged = Entry(
        sequence=entry.sequence,
        previous=entry.previous,
        body=entry.body.model_copy(update={"release": artifact, "attestations": {}}),
    )

    def write(kind: str, data: bytes) -> bytes:
        command = ["git", "hash-object", "-t", kind, "-w", "--literally", "--stdin"]
        return bytes.fromhex(subprocess.run(command, cwd=folder, input=data, check=True, capture_output=True).stdout.decode())

    def tree(name: str) -> bytes:
        return subprocess.run(["git", "cat-file", "tree", name], cwd=folder, check=True, capture_output=True).stdout

    row = b"100644 %09d.json\0" % entry.sequence + write("blob", forged.to_bytes())
    local = write("tree", row + tree(f"{REF}:releases/local"))
    releases = write("tree", b"40000 local\0" + local)
    old = bytes.fromhex(git(folder, "rev-parse", f"{REF}:releases"))
    root = write("tree", tree(f"{REF}^{{tree}}").replace(old, releases)).hex()
    message = git(folder, "log", "-1", "--format=%B", REF)
    git(folder, "update-ref", REF, git(folder, "commit-tree", root, "-p", REF, "-m", message))
    try:
        release = pulled(folder, config_home)
    except ForgeError:
        return
    assert release.weights_digest != document["weights"], "weights that nobody signed are served"


def test_an_older_release_cannot_be_appended_again(copy_of_applied: Path, config_home: Path) -> None:
    """No key."""
    release_again(copy_of_applied, config_home)
    bodies = bodies_of(copy_of_applied)
    older = next(body for body in bodies if isinstance(body, Release))
    rewrite(copy_of_applied, [*bodies, older])
    assert "[ledger]" in refused(copy_of_applied, config_home)


def test_an_older_record_cannot_be_appended_again(copy_of_applied: Path, config_home: Path) -> None:
    """No key."""
    rewrite(copy_of_applied, [*bodies_of(copy_of_applied), record_of(copy_of_applied, "train/small")])
    assert "[ledger]" in refused(copy_of_applied, config_home, "model/small")


def test_a_fast_forward_that_drops_entries_is_found(copy_of_applied: Path, config_home: Path) -> None:
    """No key. The new head descends from the one seen, and holds less."""
    kept = bodies_of(copy_of_applied)
    release_again(copy_of_applied, config_home)
    rewrite(copy_of_applied, kept)
    assert "the ledger was rewritten" in refused(copy_of_applied, config_home)
    (copy_of_applied / ".git" / "forge" / "ledger-head").unlink()  # a reader who never saw the longer ledger
    assert "[ledger]" in refused(copy_of_applied, config_home)


def test_the_agents_weights_share_no_bytes_with_the_store(copy_of_applied: Path, config_home: Path) -> None:
    """No key. A hard link lets a writer of the store change weights after they were verified."""
    served = pulled(copy_of_applied, config_home).model_path / "model.safetensors"
    assert served.stat().st_nlink == 1
    assert not served.is_symlink()


def test_a_trainer_cannot_sign_for_the_data_steward(copy_of_applied: Path, config_home: Path) -> None:
    """One key: the step's id says curate, its kind says tokenize, and the kind chooses the role."""
    poison = store_of(copy_of_applied).put_bytes({"train.jsonl.gz": b"poison"}).digest
    curated = record_of(copy_of_applied, "curate/small")
    forged = curated.model_copy(update={"step": StepKind.TOKENIZE, "products": {"documents": poison}})
    record, sealed = signed(copy_of_applied, config_home, forged, Role.TRAINER)
    rewrite(copy_of_applied, [*bodies_of(copy_of_applied), record], sealed)
    assert "curate/small" in refused(copy_of_applied, config_home, poison)


def test_an_evaluator_cannot_make_weights(copy_of_applied: Path, config_home: Path) -> None:
    """One key: as a gate step the record escapes the trainer's signature and the OpenSSF signature."""
    evil = store_of(copy_of_applied).put_bytes({"model.safetensors": b"evil"}).digest
    trained = record_of(copy_of_applied, "train/small")
    forged = trained.model_copy(update={"step": StepKind.GATE, "products": {"weights": evil}})
    record, sealed = signed(copy_of_applied, config_home, forged, Role.EVALUATOR)
    rewrite(copy_of_applied, [*bodies_of(copy_of_applied), record], sealed)
    assert "train/small" in refused(copy_of_applied, config_home, evil)


def test_a_gate_of_another_commit_does_not_release(copy_of_applied: Path, config_home: Path) -> None:
    """One key (releaser): the commit asks for a bound that the model misses; the verdict is of a commit that was laxer."""
    (copy_of_applied / "models" / "deployment.yaml").write_text(DEPLOYMENT.replace("max: 7.0", "max: 0.5"))
    strict = commit_all(copy_of_applied, "a stricter gate")
    again = record_of(copy_of_applied, "release/small-local").model_copy(update={"commit": strict})
    record, sealed = signed(copy_of_applied, config_home, again, Role.RELEASER)
    release, more = moved(copy_of_applied, config_home, commit=strict)
    rewrite(copy_of_applied, [*bodies_of(copy_of_applied), record, release], [*sealed, *more])
    refused(copy_of_applied, config_home)


def test_the_commit_of_a_release_must_ask_for_it(copy_of_applied: Path, config_home: Path) -> None:
    """One key (releaser)."""
    release, sealed = moved(copy_of_applied, config_home, commit="0" * 40)
    rewrite(copy_of_applied, [*bodies_of(copy_of_applied), release], sealed)
    assert "[commit]" in refused(copy_of_applied, config_home)


def test_the_release_document_says_what_its_step_was_given(copy_of_applied: Path, config_home: Path) -> None:
    """One key (releaser)."""
    made, store = record_of(copy_of_applied, "release/small-local"), store_of(copy_of_applied)
    document = json.loads(store.read_file(made.products["release"], "release.json"))
    document["engine"]["max_num_seqs"] = 9999
    other = store.put_bytes({"release.json": canonical_json(document) + b"\n"}).digest
    forged = made.model_copy(update={"products": {"release": other}})
    record, sealed = signed(copy_of_applied, config_home, forged, Role.RELEASER)
    release, more = moved(copy_of_applied, config_home, release=other)
    rewrite(copy_of_applied, [*bodies_of(copy_of_applied), record, release], [*sealed, *more])
    assert "[release]" in refused(copy_of_applied, config_home)


def test_two_deployments_with_equal_gates_both_verify(copy_of_applied: Path, config_home: Path) -> None:
    """No attack: they share one gate record, which lies under the first one's name."""
    staging = DEPLOYMENT.replace("small-local", "small-staging").replace("environment: local", "environment: staging")
    (copy_of_applied / "models" / "staging.yaml").write_text(staging)
    commit_all(copy_of_applied, "staging")
    run_forge(copy_of_applied, config_home, "apply")
    for subject in ("release/staging", "release/local", "model/small"):
        assert verdict_of(copy_of_applied, config_home, subject).findings == (), subject


def test_a_tree_of_the_commit_that_was_exchanged_on_disk_is_found(copy_of_applied: Path, config_home: Path) -> None:
    """No key. Git lists subtrees without hashing them."""
    folder = copy_of_applied
    real = git(folder, "rev-parse", "HEAD:models")
    (folder / "models" / "deployment.yaml").write_text(
        DEPLOYMENT.replace("name: small-local", "name: small-local, owners: [x]")
    )
    git(folder, "add", "--all")
    other = git(folder, "rev-parse", git(folder, "write-tree") + ":models")
    place = folder / ".git" / "objects" / real[:2] / real[2:]
    place.chmod(0o644)
    place.write_bytes((folder / ".git" / "objects" / other[:2] / other[2:]).read_bytes())
    assert "[commit]" in refused(folder, config_home)


@pytest.mark.parametrize(
    "data",
    [
        canonical_json({"payload": 5, "payloadType": "x", "signatures": []}),
        canonical_json(
            {"payload": "e30=", "payloadType": "application/vnd.in-toto+json", "signatures": [{"keyid": 5, "sig": "AAAA"}]}
        ),
        b"[" * 200_000 + b"]" * 200_000,
    ],
    ids=["payload", "keyid", "deep"],
)
def test_a_malformed_envelope_is_a_finding(copy_of_applied: Path, config_home: Path, data: bytes) -> None:
    """No key: which attestations a record names is not signed."""
    bodies = [
        body.model_copy(update={"attestations": {**body.attestations, "link": str(digest_of_bytes(data))}})
        if isinstance(body, Record) and body.step is StepKind.RELEASE
        else body
        for body in bodies_of(copy_of_applied)
    ]
    rewrite(copy_of_applied, bodies, [data], fresh=True)
    refused(copy_of_applied, config_home)


CHANGES: dict[str, tuple[StepKind, dict[str, object]]] = {
    "attestation is no digest": (StepKind.RELEASE, {"attestations": {"link": "x"}}),
    "release has no inputs": (StepKind.RELEASE, {"inputs": {}}),
    "input is no digest": (StepKind.RELEASE, {"inputs": {"weights": "x", "policy": "y", "verdict": "z"}}),
    "commit with NUL": (StepKind.RELEASE, {"commit": "a\0b"}),
    "train has no products": (StepKind.TRAIN, {"products": {}}),
    "an input more": (StepKind.TRAIN, {"inputs": {"extra": "sha256:" + "0" * 64}}),
    "gate without thresholds": (StepKind.GATE, {"parameters": {}}),
    "gate of nonsense": (StepKind.GATE, {"parameters": {"gates": [{"x": 1}]}}),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("subject", ["release/local", "model/small"])
def test_a_malformed_record_is_refused_without_a_traceback(
    copy_of_applied: Path, config_home: Path, name: str, subject: str
) -> None:
    """No key."""
    kind, change = CHANGES[name]
    bodies = [
        body.model_copy(update=change) if isinstance(body, Record) and body.step is kind else body
        for body in bodies_of(copy_of_applied)
    ]
    rewrite(copy_of_applied, bodies, fresh=True)
    refused(copy_of_applied, config_home, subject)


@pytest.mark.parametrize("files", [{"a": b"1", "a/b": b"2"}, {"a" * 300: b"1"}], ids=["file and folder", "long name"])
def test_weights_that_cannot_be_laid_out_are_refused(copy_of_applied: Path, config_home: Path, files: dict[str, bytes]) -> None:
    """No key."""
    evil = store_of(copy_of_applied).put_bytes(files).digest
    bodies = [
        body.model_copy(update={"products": {"weights": evil}})
        if isinstance(body, Record) and body.step is StepKind.TRAIN
        else body
        for body in bodies_of(copy_of_applied)
    ]
    rewrite(copy_of_applied, bodies, fresh=True)
    refused(copy_of_applied, config_home, "model/small")


def test_a_reader_beside_a_writer_sees_no_rewritten_ledger(copy_of_applied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No attack: an append between the reader's two reads."""
    failed = Attempt(
        key="sha256:" + "0" * 64,
        step=StepKind.TRAIN,
        step_id="train/x",
        subject="Model/x",
        commit="0" * 40,
        attempt=1,
        cause=FailureCause.INTERNAL,
        message="",
        seconds=1.0,
    )
    with Repository(copy_of_applied) as reader, Repository(copy_of_applied) as writer:
        real = reader.ref_target

        def slow(ref: str) -> str | None:
            target = real(ref)
            monkeypatch.setattr(reader, "ref_target", real)
            Ledger(writer, REF).append([Draft(failed)])
            return target

        monkeypatch.setattr(reader, "ref_target", slow)
        assert Ledger(reader, REF).snapshot().commit is not None


def test_threads_that_read_envelopes_find_what_one_finds(
    copy_of_applied: Path, config_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign, attestations = as_it_stands(copy_of_applied, config_home, record_of(copy_of_applied, "curate/small"), Role.TRAINER)
    unsigned = record_of(copy_of_applied, "evaluate/small.small").model_copy(update={"attestations": {}})
    changed = {body.key: body for body in (foreign, unsigned)}
    bodies = [changed.get(body.key, body) if isinstance(body, Record) else body for body in bodies_of(copy_of_applied)]
    rewrite(copy_of_applied, bodies, attestations, fresh=True)
    alone = verdict_of(copy_of_applied, config_home)
    assert {finding.object for finding in alone.findings} >= {"curate/small link", "evaluate/small.small link"}
    monkeypatch.setattr(rules, "_MANY", 2)
    assert verdict_of(copy_of_applied, config_home) == alone
