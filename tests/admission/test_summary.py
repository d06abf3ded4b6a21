"""A gate's result and a release's summary: what they say, and the attacks on them.

Attacker: holds the key that a test names; else writes only the ledger and the store.
"""

import base64
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.admission.test_attacks import (
    as_it_stands,
    bodies_of,
    moved,
    record_of,
    refused,
    rewrite,
    signed,
    store_of,
    verdict_of,
)
from tests.conftest import commit_all, git, run_forge

from forge.attest.envelope import seal
from forge.attest.keys import signer_for, weights_signer_for
from forge.attest.statements import VERIFICATION_SUMMARY
from forge.attest.weights import sign_weights
from forge.canonical import canonical_json, digest_of_bytes
from forge.contract.kinds import STEPS, Role
from forge.contract.record import Record, Release
from forge.contract.verdict import Decision
from forge.ledger.entry import Body
from forge.ledger.ledger import Ledger
from forge.repo.repository import Repository

V1 = {"statements": 1, "lock": None, "hardware": None, "about": {}}


def replaced(folder: Path, step_id: str, change: Callable[[Record], Record]) -> list[Body]:
    """The ledger's bodies, one record changed."""
    return [change(body) if isinstance(body, Record) and body.step_id == step_id else body for body in bodies_of(folder)]


def release_of(folder: Path) -> Release:
    return next(body for body in bodies_of(folder) if isinstance(body, Release))


def payload_of(folder: Path, digest: str) -> dict[str, Any]:
    with Repository(folder) as repository:
        sealed = json.loads(Ledger(repository, "refs/forge/ledger").snapshot().attestation(digest))
    return dict(json.loads(base64.b64decode(sealed["payload"])))


def test_a_gates_result_is_about_the_weights_and_names_policy_and_verdict(applied: Path) -> None:
    gate, weights = record_of(applied, "gate/small-local"), record_of(applied, "train/small").products["weights"]
    statement = payload_of(applied, gate.attestations["svr"])
    assert statement["predicateType"] == "https://in-toto.io/attestation/svr/v0.2"
    assert statement["subject"] == [{"name": "train/small/weights", "digest": {"sha256": weights.removeprefix("sha256:")}}]
    predicate = statement["predicate"]
    assert predicate["verifier"]["id"] == "urn:forge:gate:v1"
    assert predicate["verifier"]["policies"][0]["uri"] == f"urn:forge:commit:{gate.commit}:Deployment/small-local"
    assert predicate["properties"][0] == "FORGE_GATE_GO"
    assert predicate["urn:forge:verdict"]["verdict"] == Decision.GO
    assert predicate["timeCreated"] == gate.finished


def test_a_summary_names_every_attestation_of_the_chain(applied: Path) -> None:
    statement = payload_of(applied, release_of(applied).attestations[VERIFICATION_SUMMARY])
    records = [body for body in bodies_of(applied) if isinstance(body, Record) and body.step != "release"]
    named = {item["digest"]["sha256"] for item in statement["predicate"]["inputAttestations"]}
    assert named == {digest.removeprefix("sha256:") for record in records for digest in record.attestations.values()}
    assert statement["predicate"]["verificationResult"] == "PASSED"
    assert statement["predicate"]["policy"]["digest"] == {"gitCommit": git(applied, "rev-parse", "HEAD")}
    assert statement["predicate"]["resourceUri"] == "urn:forge:release:local"


def test_provenance_names_lock_hardware_and_engine(applied: Path) -> None:
    record = record_of(applied, "train/small")
    predicate = payload_of(applied, record.attestations["provenance"])["predicate"]
    assert predicate["buildDefinition"]["resolvedDependencies"][-1]["name"] == "lock"
    assert predicate["buildDefinition"]["internalParameters"]["hardware"]["cores"] >= 1
    assert predicate["runDetails"]["builder"]["version"] == {"forge": record.environment["forge"]}
    with Repository(applied) as repository:
        lock = Ledger(repository, "refs/forge/ledger").snapshot().attestation(record.lock or "")
    assert f"torch=={record.environment['torch'].partition('+')[0]}" in lock.decode()


def test_the_ledger_of_an_older_engine_holds(copy_of_applied: Path, config_home: Path) -> None:
    """All keys: every record and the release signed as they were before there were these statements."""
    bodies: list[Body] = []
    sealed: list[bytes] = []
    for body in bodies_of(copy_of_applied):
        if isinstance(body, Record):
            weights = {name: digest for name, digest in body.attestations.items() if name == "weights-signature"}
            older = body.model_copy(update={**V1, "attestations": {}})
            made, more = as_it_stands(copy_of_applied, config_home, older, STEPS[body.step].role)
            bodies.append(made.model_copy(update={"attestations": {**made.attestations, **weights}}))
        else:
            move, more = moved(copy_of_applied, config_home, statements=1, rests_on=())
            bodies.append(move)
        sealed += more
    rewrite(copy_of_applied, bodies, sealed, fresh=True)
    assert verdict_of(copy_of_applied, config_home).findings == ()
    names = {name for body in bodies_of(copy_of_applied) for name in body.attestations}  # type: ignore[union-attr]
    assert names == {"link", "provenance", "test-result", "weights-signature", "release"}


def test_a_signature_that_is_taken_away_is_missed(copy_of_applied: Path, config_home: Path) -> None:
    """No key: what a record or a release has to have follows from what was signed, not from what it lists."""
    bodies = bodies_of(copy_of_applied)
    for index, body in enumerate(bodies):
        if isinstance(body, Record | Release):
            for name in body.attestations:
                less = {other: digest for other, digest in body.attestations.items() if other != name}
                without = [*bodies[:index], body.model_copy(update={"attestations": less}), *bodies[index + 1 :]]
                rewrite(copy_of_applied, without, fresh=(copy_of_applied / ".git" / "forge" / "ledger-head").exists())
                assert missed(body, name) in refused(copy_of_applied, config_home)


def missed(body: Record | Release, name: str) -> str:
    """What is said of an attestation that is not there."""
    if isinstance(body, Record):
        if name == "weights-signature":
            return f"{body.step_id}: its weights carry no OpenSSF signature"
        return f"{body.step_id} {name}: the record has no such attestation"
    return "the pointer's move is not signed" if name == "release" else f"{name}: the release has no such attestation"


def test_a_body_that_pretends_to_be_older_is_refused(copy_of_applied: Path, config_home: Path) -> None:
    """No key: the field is part of what link, statement and move sign."""
    bodies = replaced(copy_of_applied, "gate/small-local", lambda gate: gate.model_copy(update=V1))
    rewrite(copy_of_applied, bodies, fresh=True)
    said = refused(copy_of_applied, config_home)
    assert "[statement] gate/small-local link" in said
    assert "[statement] gate/small-local provenance" in said


def test_a_release_that_pretends_to_be_older_is_refused(copy_of_applied: Path, config_home: Path) -> None:
    """No key."""
    move = release_of(copy_of_applied).model_copy(update={"statements": 1, "rests_on": ()})
    rewrite(copy_of_applied, [*bodies_of(copy_of_applied)[:-1], move], fresh=True)
    assert "[statement] release of local" in refused(copy_of_applied, config_home)


def test_a_gates_result_signed_by_another_role_is_refused(copy_of_applied: Path, config_home: Path) -> None:
    """One key (trainer), and one (evaluator) that signs another verdict than its gate gave."""
    gate = record_of(copy_of_applied, "gate/small-local")
    statement = payload_of(copy_of_applied, gate.attestations["svr"])
    forged = seal(canonical_json(statement), signer_for(Role.TRAINER, config_home))
    put(copy_of_applied, "gate/small-local", "svr", forged)
    assert "[signature] gate/small-local svr: no valid signature of the role evaluator" in refused(copy_of_applied, config_home)
    statement["predicate"]["properties"].append("SLSA_BUILD_LEVEL_3")
    forged = seal(canonical_json(statement), signer_for(Role.EVALUATOR, config_home))
    put(copy_of_applied, "gate/small-local", "svr", forged)
    assert "[statement] gate/small-local svr" in refused(copy_of_applied, config_home)


def put(folder: Path, step_id: str, name: str, sealed: bytes) -> None:
    """Another attestation in the place of a record's."""
    names = {name: str(digest_of_bytes(sealed))}
    bodies = replaced(folder, step_id, lambda body: body.model_copy(update={"attestations": {**body.attestations, **names}}))
    rewrite(folder, bodies, [sealed], fresh=(folder / ".git" / "forge" / "ledger-head").exists())


def test_a_gate_that_claims_to_be_about_other_weights_is_refused(copy_of_applied: Path, config_home: Path) -> None:
    """One key (evaluator)."""
    gate = record_of(copy_of_applied, "gate/small-local")
    other = gate.model_copy(update={"about": {"train/large/weights": "sha256:" + "d" * 64}})
    record, sealed = signed(copy_of_applied, config_home, other, Role.EVALUATOR)
    rewrite(copy_of_applied, [*bodies_of(copy_of_applied), record], sealed)
    said = refused(copy_of_applied, config_home)
    assert "[gate] gate/small-local: it says that it is about train/large/weights" in said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda digests: digests[1:], "no record that it rests on made"),
        (lambda digests: digests[:-1], "no record that it rests on made"),
        (lambda digests: digests[::-1], "not in the ledger's order"),
        (lambda digests: (*digests, digests[-1]), "not in the ledger's order"),
        (lambda digests: (*digests, "sha256:" + "e" * 64), "is no record that the ledger held before it"),
    ],
)
def test_a_release_must_rest_on_its_whole_chain(
    change: Callable[[tuple[str, ...]], tuple[str, ...]], message: str, copy_of_applied: Path, config_home: Path
) -> None:
    """One key (releaser)."""
    rests_on = change(release_of(copy_of_applied).rests_on)
    move, sealed = moved(copy_of_applied, config_home, rests_on=rests_on)
    rewrite(copy_of_applied, [*bodies_of(copy_of_applied), move], sealed)
    assert message in refused(copy_of_applied, config_home)


def test_a_summary_that_says_more_than_was_looked_at_is_refused(copy_of_applied: Path, config_home: Path) -> None:
    """One key (releaser)."""
    move = release_of(copy_of_applied)
    statement = payload_of(copy_of_applied, move.attestations[VERIFICATION_SUMMARY])
    statement["predicate"]["verifiedLevels"] = ["SLSA_BUILD_LEVEL_3"]
    sealed = seal(canonical_json(statement), signer_for(Role.RELEASER, config_home))
    names = {**move.attestations, VERIFICATION_SUMMARY: str(digest_of_bytes(sealed))}
    bodies = [*bodies_of(copy_of_applied)[:-1], move.model_copy(update={"attestations": names})]
    rewrite(copy_of_applied, bodies, [sealed], fresh=True)
    assert f"[statement] release of local {VERIFICATION_SUMMARY}" in refused(copy_of_applied, config_home)


def test_a_lock_whose_text_is_gone_is_missed(copy_of_applied: Path, config_home: Path) -> None:
    """One key (trainer): a record of something that cannot be looked at."""
    trained = record_of(copy_of_applied, "tokenizer/small").model_copy(update={"lock": "sha256:" + "a" * 64})
    record, sealed = signed(copy_of_applied, config_home, trained, Role.TRAINER)
    rewrite(copy_of_applied, [*bodies_of(copy_of_applied), record], sealed)
    assert "[statement] lock sha256:aaaa" in refused(copy_of_applied, config_home, record.products["tokenizer"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pytorch_model.bin", "pytorch_model.bin is no file that weights may hold"),
        ("model-00002.safetensors", "model-00002.safetensors is not in the safetensors format"),
        ("config.json", "config.json is a pickle"),
    ],
)
def test_a_pickle_among_weights_is_refused(name: str, message: str, copy_of_applied: Path, config_home: Path) -> None:
    """Keys of the trainer: record, link and OpenSSF signature are in order."""
    trained, store = record_of(copy_of_applied, "train/small"), store_of(copy_of_applied)
    good = store.manifest(trained.products["weights"])
    files = {file.path: store.read_file(good.digest, file.path) for file in good.files}
    evil = store.put_bytes({**files, name: pickle.dumps(print)})
    record, sealed = signed(
        copy_of_applied, config_home, trained.model_copy(update={"products": {"weights": evil.digest}}), Role.TRAINER
    )
    signature = sign_weights(evil, weights_signer_for(config_home))
    names = {**record.attestations, "weights-signature": str(digest_of_bytes(signature))}
    record = record.model_copy(update={"attestations": names})
    rewrite(copy_of_applied, [*bodies_of(copy_of_applied), record], [*sealed, signature])
    assert refused(copy_of_applied, config_home, evil.digest) == f"[format] train/small weights: {message}" + SUFFIX[name]


SUFFIX = {
    "pytorch_model.bin": " (.safetensors, .json, .jinja, .txt, .model): other formats can run code when they are loaded",
    "model-00002.safetensors": ", whatever its name says",
    "config.json": ", whatever its name says",
}


def test_apply_moves_no_pointer_to_a_chain_that_does_not_hold(copy_of_applied: Path, config_home: Path) -> None:
    """No key: the evaluation's signature is gone; a commit asks for another policy, so for a new release."""
    bodies = replaced(copy_of_applied, "evaluate/small.small", lambda body: body.model_copy(update={"attestations": {}}))
    rewrite(copy_of_applied, bodies, fresh=True)
    before = len(bodies)
    path = copy_of_applied / "policies" / "small.yaml"
    path.write_text(path.read_text().replace("max_tokens: 32", "max_tokens: 16"))
    commit_all(copy_of_applied, "a stricter policy")
    done = run_forge(copy_of_applied, config_home, "apply", code=4)
    assert "is not moved, for its chain of evidence does not hold" in done.stderr
    assert "  remedy [" in done.stderr
    assert "[signature] evaluate/small.small test-result: the record has no such attestation" in done.stderr
    assert not [body for body in bodies_of(copy_of_applied)[before:] if isinstance(body, Release)]
