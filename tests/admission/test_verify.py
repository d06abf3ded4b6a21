"""Attacks on a chain of evidence: each is refused, and the finding names what was touched."""

import base64
import gzip
import json
import random
import shutil
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import DEPLOYMENT, MODEL, SETTINGS, commit_all, git, run_forge, unpack_objects

from forge.admission.verdict import Rule, Verdict
from forge.admission.verify import verify
from forge.attest.envelope import seal
from forge.attest.keys import make_development_keys, signer_for
from forge.attest.statements import retirement_statement
from forge.attest.trust import read_trust_root
from forge.canonical import canonical_json, digest_of_bytes
from forge.contract.kinds import Role
from forge.contract.record import Record, Release, Retirement
from forge.errors import LedgerError, UsageError
from forge.ledger.entry import Entry
from forge.ledger.ledger import Draft, Ledger
from forge.repo.repository import Repository
from forge.spec.settings import read_settings
from forge.store.store import Store

REF = "refs/forge/ledger"


def verdict_of(folder: Path, config_home: Path, subject: str = "model/small") -> Verdict:
    with Repository(folder) as repository:
        snapshot = Ledger(repository, REF).snapshot()
        store = Store(read_settings(SETTINGS.encode(), "0.1.0").store.url, folder)
        return verify(subject, repository, snapshot, store, read_trust_root(config_home))


def rules(verdict: Verdict) -> set[Rule]:
    return {finding.rule for finding in verdict.findings}


def text(verdict: Verdict) -> str:
    return "\n".join(str(finding) for finding in verdict.findings)


def entries_of(folder: Path) -> Iterator[Entry]:
    with Repository(folder) as repository:
        snapshot = Ledger(repository, REF).snapshot()
        for number in range(1, snapshot.head[0] + 1):
            entry = snapshot.entry(number)
            assert entry is not None
            yield entry


def newest(folder: Path, step_id: str) -> Record:
    with Repository(folder) as repository:
        record = Ledger(repository, REF).snapshot().latest(step_id)
    assert record is not None
    return record


@pytest.mark.parametrize("subject", ["model/small", "release/local"])
def test_the_chain_of_an_applied_commit_holds(applied: Path, config_home: Path, subject: str) -> None:
    verdict = verdict_of(applied, config_home, subject)
    assert verdict.findings == ()
    assert "DEVELOPMENT" in verdict.trust
    assert {check.rule for check in verdict.checks} >= {Rule.LEDGER, Rule.SIGNATURE, Rule.BYTES, Rule.GATE, Rule.RELEASE}


def test_an_artifact_can_be_verified_by_its_digest(applied: Path, config_home: Path) -> None:
    digest = newest(applied, "tokenize/small").products["tokens"]
    assert verdict_of(applied, config_home, digest).holds


@pytest.mark.parametrize("subject", ["model/none", "release/none", "sha256:" + "0" * 64, "small", "model/", "team/small"])
def test_an_unknown_subject_is_a_usage_error(applied: Path, config_home: Path, subject: str) -> None:
    with pytest.raises(UsageError):
        verdict_of(applied, config_home, subject)


def only_a_checkpoints(folder: Path) -> set[str]:
    """Names of what the store holds for a checkpoint alone: nothing that serves descends from it, and gc may drop it."""
    store, records = Store(".forge/store", folder), []
    snapshot = Ledger(Repository(folder), "refs/forge/ledger").snapshot()
    for number in range(1, snapshot.head[0] + 1):
        entry = snapshot.entry(number)
        if entry is not None and isinstance(entry.body, Record):
            records.append(entry.body)
    served = {digest for record in records for digest in (*record.products.values(), *record.inputs.values())}
    kept = {file.sha256 for digest in served for file in store.manifest(digest).files}
    checkpoints = {digest for record in records for digest in record.byproducts.values()} - served
    assert checkpoints
    files = {file.sha256 for digest in checkpoints for file in store.manifest(digest).files} - kept
    return {name.removeprefix("sha256:") for name in checkpoints | files}


def test_one_flipped_byte_in_any_blob_of_the_store_is_found(copy_of_applied: Path, config_home: Path) -> None:
    blobs = [path for path in (copy_of_applied / ".forge" / "store").rglob("*") if path.is_file() and path.stat().st_size]
    blobs = [path for path in blobs if path.name.removesuffix(".json") not in only_a_checkpoints(copy_of_applied)]
    assert len(blobs) > 20
    generator = random.Random(7)
    for path in blobs:
        path.chmod(0o644)
        original = path.read_bytes()
        position = generator.randrange(len(original))
        path.write_bytes(
            original[:position] + bytes([original[position] ^ (1 << generator.randrange(8))]) + original[position + 1 :]
        )
        verdict = verdict_of(copy_of_applied, config_home)
        assert Rule.BYTES in rules(verdict), path
        assert path.name.removesuffix(".json") in text(verdict), path
        path.write_bytes(original)
    assert verdict_of(copy_of_applied, config_home).holds


def test_one_flipped_byte_in_any_ledger_object_is_found(copy_of_applied: Path, config_home: Path) -> None:
    unpack_objects(copy_of_applied)
    names = git(copy_of_applied, "rev-list", "--objects", REF).splitlines()
    assert len(names) > 40
    generator = random.Random(11)
    for line in names:
        name, _, path = line.partition(" ")
        loose = copy_of_applied / ".git" / "objects" / name[:2] / name[2:]
        original = loose.read_bytes()
        content = bytearray(zlib.decompress(original))
        position = generator.randrange(content.index(b"\0") + 1, len(content))
        content[position] ^= 1 << generator.randrange(8)
        loose.chmod(0o644)
        loose.write_bytes(zlib.compress(bytes(content)))
        try:
            said = text(verdict_of(copy_of_applied, config_home))
        except LedgerError as error:
            said = str(error)
        assert name in said, (name, path, said)
        loose.write_bytes(original)
    assert verdict_of(copy_of_applied, config_home).holds


def rewrite_ledger(folder: Path, change: dict[str, bytes]) -> None:
    """Put other bytes at paths of the ledger's tree, as someone who can push to the ref would."""
    stream = [b"commit refs/forge/ledger\ncommitter A <a@b> 1 +0000\n"]
    message = git(folder, "log", "-1", "--format=%B", REF).encode() + b"\n"
    stream.append(b"data %d\n%s\nfrom refs/forge/ledger^0\n" % (len(message), message))
    for path, data in change.items():
        stream.append(b"M 100644 inline %s\ndata %d\n%s\n" % (path.encode(), len(data), data))
    subprocess.run(["git", "fast-import", "--quiet", "--force"], cwd=folder, input=b"".join(stream), check=True)


def test_an_attestation_signed_by_another_role_is_refused(copy_of_applied: Path, config_home: Path) -> None:
    record = newest(copy_of_applied, "train/small")
    with Repository(copy_of_applied) as repository:
        ledger = Ledger(repository, REF)
        sealed = json.loads(ledger.snapshot().attestation(record.attestations["link"]))
        forged = seal(base64.b64decode(sealed["payload"]), signer_for(Role.EVALUATOR, config_home))
        first = ledger.snapshot().record_entry(record.key)
        assert first is not None
        changed = record.model_copy(
            update={
                "attestations": {**record.attestations, "link": str(digest_of_bytes(forged))},
                "products": {"weights": newest(copy_of_applied, "tokenizer/small").products["tokenizer"]},
                "supersedes": first.digest,
            }
        )
        ledger.append([Draft(changed, (forged,))])
    verdict = verdict_of(copy_of_applied, config_home, changed.products["weights"])
    assert "[signature] train/small link: no valid signature of the role trainer" in text(verdict)


def test_a_record_changed_after_signing_is_found(copy_of_applied: Path, config_home: Path) -> None:
    """All digests and links of the ledger are made to fit: only the signatures cannot be."""
    changed: dict[str, bytes] = {}
    previous = None
    with Repository(copy_of_applied) as repository:
        snapshot = Ledger(repository, REF).snapshot()
        listing = snapshot.paths()
    for entry in entries_of(copy_of_applied):
        body = entry.body
        if isinstance(body, Record) and body.step_id == "train/small":
            body = body.model_copy(update={"metrics": {**body.metrics, "train_loss": 0.1}})
        data = Entry(sequence=entry.sequence, previous=previous, body=body).to_bytes()
        previous = digest_of_bytes(data)
        original = next(
            name
            for path, name in listing.items()
            if path.endswith(f"/{entry.sequence:03d}.json") and path.startswith("entries")
        )
        changed |= {path: data for path, name in listing.items() if name == original}
    message_head = f"Forge-Head: {entry.sequence} {previous}"
    rewrite_ledger(copy_of_applied, changed)
    amended = git(copy_of_applied, "log", "-1", "--format=%B", REF).rsplit("Forge-Head", 1)[0] + message_head
    tree = git(copy_of_applied, "rev-parse", f"{REF}^{{tree}}")
    git(copy_of_applied, "update-ref", REF, git(copy_of_applied, "commit-tree", tree, "-m", amended))
    (copy_of_applied / ".git" / "forge" / "ledger-head").unlink()  # a verifier who never saw this ledger before
    verdict = verdict_of(copy_of_applied, config_home)
    assert Rule.LEDGER not in rules(verdict), text(verdict)
    assert "[statement] train/small provenance: what was signed is not what the record" in text(verdict)


def test_another_trust_root_accepts_nothing(applied: Path, tmp_path: Path) -> None:
    make_development_keys(tmp_path / "other")
    verdict = verdict_of(applied, tmp_path / "other")
    assert rules(verdict) == {Rule.SIGNATURE}
    # link and statement of seven steps, the gate's result, the weights, the release's move and its summary
    assert len(verdict.findings) == 7 * 2 + 1 + 1 + 2


def test_a_model_that_is_trained_but_not_served_has_passed_no_gate(copy_of_applied: Path, config_home: Path) -> None:
    """The served model still holds; the new weights' chain holds up to the training, and no gate of the old speaks for them."""
    other = MODEL.replace("name: small}", "name: other}").replace("seed: 5", "seed: 6")
    (copy_of_applied / "models" / "other.yaml").write_text(other)
    commit_all(copy_of_applied)
    run_forge(copy_of_applied, config_home, "apply", "--target", "Model/other")
    assert verdict_of(copy_of_applied, config_home).holds
    assert verdict_of(copy_of_applied, config_home, newest(copy_of_applied, "train/other").products["weights"]).holds
    done = run_forge(copy_of_applied, config_home, "verify", "model/other", code=4)
    assert "these weights have passed no gate" in done.stdout


def test_a_second_environment_shares_steps_and_holds(copy_of_applied: Path, config_home: Path) -> None:
    prod = DEPLOYMENT.replace("small-local", "small-prod").replace("environment: local", "environment: prod")
    (copy_of_applied / "models" / "prod.yaml").write_text(prod)
    commit_all(copy_of_applied)
    done = run_forge(copy_of_applied, config_home, "apply")
    assert "evaluate/small.small: started" not in done.stderr
    for subject in ("release/prod", "release/local", "model/small"):
        assert verdict_of(copy_of_applied, config_home, subject).findings == ()


def test_two_models_with_the_same_report_and_a_revert_hold(copy_of_applied: Path, config_home: Path) -> None:
    """Another chat template gives other weights folders, but the same report to the byte."""
    first = newest(copy_of_applied, "release/small-local")
    changed = MODEL.replace("objective: pretrain", "objective: pretrain\n  chat_template: '{{ messages[0].content }}'")
    (copy_of_applied / "models" / "model.yaml").write_text(changed)
    commit_all(copy_of_applied)
    run_forge(copy_of_applied, config_home, "apply")
    assert verdict_of(copy_of_applied, config_home, "release/local").findings == ()
    git(copy_of_applied, "revert", "--no-edit", "HEAD")
    run_forge(copy_of_applied, config_home, "apply")
    verdict = verdict_of(copy_of_applied, config_home)
    assert verdict.findings == ()
    assert verdict.release == first.products["release"]


def test_what_the_store_lost_is_put_back_by_the_next_apply(copy_of_applied: Path, config_home: Path) -> None:
    """A lost input bundle comes from the commit again; a damaged blob is written again when its step runs."""
    policy = newest(copy_of_applied, "release/small-local").inputs["policy"].removeprefix("sha256:")
    tokens = newest(copy_of_applied, "tokenize/small").products["tokens"]
    manifests = copy_of_applied / ".forge" / "store" / "manifests"
    blobs = copy_of_applied / ".forge" / "store" / "blobs"
    damaged = Store(".forge/store", copy_of_applied).manifest(tokens).files[0].sha256.removeprefix("sha256:")
    (manifests / policy[:2] / f"{policy}.json").unlink()
    (manifests / tokens[7:9] / f"{tokens[7:]}.json").unlink()
    (blobs / damaged[:2] / damaged).chmod(0o644)
    (blobs / damaged[:2] / damaged).write_bytes(bytes((blobs / damaged[:2] / damaged).stat().st_size))
    assert not verdict_of(copy_of_applied, config_home).holds
    run_forge(copy_of_applied, config_home, "apply")
    assert verdict_of(copy_of_applied, config_home).findings == ()


def test_a_history_rewritten_under_the_record_is_found(copy_of_applied: Path, config_home: Path) -> None:
    """The commit that the records name is gone: what was asked for can no longer be shown."""
    git(copy_of_applied, "checkout", "--quiet", "--orphan", "fresh")
    (copy_of_applied / "corpus" / "part.jsonl.gz").write_bytes(gzip.compress(b'{"id": "x", "text": "y"}\n'))
    commit_all(copy_of_applied)
    git(copy_of_applied, "branch", "-D", "main")
    git(copy_of_applied, "reflog", "expire", "--expire=now", "--all")
    git(copy_of_applied, "gc", "--quiet", "--prune=now")
    assert Rule.COMMIT in rules(verdict_of(copy_of_applied, config_home))


def test_the_command_says_what_is_at_fault_and_ends_with_4(copy_of_applied: Path, config_home: Path) -> None:
    assert "model/small: the chain holds" in run_forge(copy_of_applied, config_home, "verify", "model/small").stdout
    shutil.rmtree(copy_of_applied / ".forge" / "store" / "blobs")
    done = run_forge(copy_of_applied, config_home, "verify", "model/small", "--format", "json", code=4)
    data = json.loads(done.stdout)
    assert data["holds"] is False
    assert {finding["rule"] for finding in data["findings"]} == {"bytes", "gate"}


def test_what_was_released_can_be_verified_under_a_commit_with_broken_specs(copy_of_applied: Path, config_home: Path) -> None:
    (copy_of_applied / "models" / "broken.yaml").write_text("kind: Nothing\n")
    commit_all(copy_of_applied)
    assert "the chain holds" in run_forge(copy_of_applied, config_home, "verify", "model/small").stdout


def test_what_is_signed_is_canonical_json(applied: Path) -> None:
    with Repository(applied) as repository:
        snapshot = Ledger(repository, REF).snapshot()
        for entry in entries_of(applied):
            for digest in getattr(entry.body, "attestations", {}).values():
                data = snapshot.attestation(digest)
                if b"payloadType" in data[:2000] and b"mediaType" not in data:
                    assert canonical_json(json.loads(data)) == data


def test_a_retirement_needs_the_releasers_signature_and_cannot_be_played_again(
    copy_of_applied: Path, config_home: Path
) -> None:
    with Repository(copy_of_applied) as repository:
        ledger = Ledger(repository, REF)
        moved = [entry.body.moved for entry in entries_of(copy_of_applied) if isinstance(entry.body, Release)]
        retirement = Retirement(
            subject="Deployment/small-local", environment="local", commit="c" * 40, moved="2999-01-01T00:00:00.000+00:00"
        )
        ledger.append([Draft(retirement)])
        assert "the retirement is not signed" in text(verdict_of(copy_of_applied, config_home, "release/local"))
        late = retirement.model_copy(update={"moved": moved[-1]})
        sealed = seal(retirement_statement(late), signer_for(Role.RELEASER, config_home))
        late = late.model_copy(update={"attestations": {"retirement": str(digest_of_bytes(sealed))}})
        ledger.append([Draft(late, (sealed,))])
    assert "a retirement of local moved" in text(verdict_of(copy_of_applied, config_home, "release/local"))
