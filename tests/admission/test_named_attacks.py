"""Attacks that must fail, each by its own words: one reads from the refusal what was done, and to what.

The general ones are beside this file: every byte of store and ledger (test_verify.py), forged records and moves
(test_attacks.py), signatures taken away (test_summary.py), rules of a supply chain (test_supply_chain.py).
"""

from pathlib import Path

import pytest
from tests.admission.test_attacks import (
    as_it_stands,
    bodies_of,
    entries_of,
    record_of,
    refused,
    rewrite,
    signed,
    signed_move,
    store_of,
    verdict_of,
)
from tests.conftest import commit_all, run_forge

from forge.attest.keys import make_development_keys, weights_signer_for
from forge.attest.trust import read_trust_root
from forge.attest.weights import sign_weights
from forge.canonical import digest_of_bytes
from forge.contract.kinds import STEPS, Role
from forge.contract.record import Record, Release
from forge.ledger.entry import Body


@pytest.mark.parametrize(
    ("step_id", "product", "name"),
    [
        ("train/small", "weights", "model.safetensors"),
        ("tokenizer/small", "tokenizer", "tokenizer.json"),
        ("curate/small", "documents", "train/00000.jsonl"),
    ],
)
def test_one_byte_of_a_file_is_found_and_the_file_is_named(
    copy_of_applied: Path, config_home: Path, step_id: str, product: str, name: str
) -> None:
    """No key; whoever can write the store."""
    digest = record_of(copy_of_applied, step_id).products[product]
    files = {file.path: file.sha256.removeprefix("sha256:") for file in store_of(copy_of_applied).manifest(digest).files}
    blob = files[name]
    flip(copy_of_applied / ".forge" / "store" / "blobs" / blob[:2] / blob)
    said = refused(copy_of_applied, config_home)
    assert f"[bytes] {step_id}/{product}: " in said
    assert name in said
    assert digest in said


@pytest.mark.parametrize(("step_id", "product"), [("curate/small", "documents"), ("tokenize/small", "tokens")])
def test_one_byte_of_a_data_manifest_is_found_and_the_artifact_is_named(
    copy_of_applied: Path, config_home: Path, step_id: str, product: str
) -> None:
    """No key; whoever can write the store."""
    digest = record_of(copy_of_applied, step_id).products[product]
    name = digest.removeprefix("sha256:")
    flip(copy_of_applied / ".forge" / "store" / "manifests" / name[:2] / f"{name}.json")
    said = refused(copy_of_applied, config_home)
    assert f"[bytes] {step_id}/{product}: " in said
    assert "manifest" in said
    assert digest in said


def flip(path: Path) -> None:
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def test_an_evaluation_of_another_model_is_not_borrowed(copy_of_applied: Path, config_home: Path) -> None:
    """One key (evaluator): the report that the gate read was measured on other weights, and the record says so."""
    weights = record_of(copy_of_applied, "train/small").products["weights"]
    other = store_of(copy_of_applied).put_bytes({"model.safetensors": b"better"}).digest
    honest = record_of(copy_of_applied, "evaluate/small.small")
    borrowed, sealed = signed(
        copy_of_applied, config_home, honest.model_copy(update={"inputs": {**honest.inputs, "weights": other}}), Role.EVALUATOR
    )
    rewrite(copy_of_applied, [borrowed if body == honest else body for body in bodies_of(copy_of_applied)], sealed, fresh=True)
    said = refused(copy_of_applied, config_home)
    assert f"[gate] gate/small-local: report-0 is about {other}, not about these weights ({weights})" in said


def test_other_outputs_for_a_known_key_are_found_where_they_supersede_nothing(copy_of_applied: Path, config_home: Path) -> None:
    """One key (trainer): written past the ledger's own check, so that two records of one step key stand side by side."""
    trained = record_of(copy_of_applied, "train/small")
    other = store_of(copy_of_applied).put_bytes({"model.safetensors": b"other"}).digest
    again, sealed = as_it_stands(
        copy_of_applied, config_home, trained.model_copy(update={"products": {"weights": other}}), Role.TRAINER
    )
    rewrite(copy_of_applied, [*bodies_of(copy_of_applied), again], sealed)
    assert "[ledger] entries/000/000/" in refused(copy_of_applied, config_home)
    assert "the record of train/small does not supersede the one before it" in refused(copy_of_applied, config_home)


def test_a_commit_cannot_swap_the_trust_root(copy_of_applied: Path, config_home: Path, tmp_path: Path) -> None:
    """Every key of a root of the attacker's own, and that root in the repository wherever somebody might look for one."""
    folder, own = copy_of_applied, tmp_path / "own"
    root, _ = make_development_keys(own)
    resigned(folder, own)
    for place in ("trust-root.json", ".config/forge/trust-root.json", "policies/trust-root.json", "forge/trust-root.json"):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_bytes((own / "trust-root.json").read_bytes())
    commit_all(folder, "our new trust root")
    assert verdict_of(folder, own).holds, "the attack is not complete"
    done = run_forge(folder, config_home, "verify", "release/local", code=4)
    assert read_trust_root(config_home).digest in done.stdout
    assert root.digest not in done.stdout
    assert "[signature] train/small link: no valid signature of the role trainer" in done.stdout
    (folder / "forge.toml").write_text((folder / "forge.toml").read_text() + '[trust]\nroot = "trust-root.json"\n')
    commit_all(folder, "and where it lies")
    assert "unknown key `trust`" in run_forge(folder, config_home, "verify", "release/local", code=2).stderr


def resigned(folder: Path, config: Path) -> None:
    """The same ledger, signed by the keys of another configuration folder throughout."""
    bodies: list[Body] = []
    blobs: list[bytes] = []
    for body in bodies_of(folder):
        if not isinstance(body, Record):
            continue
        record, sealed = as_it_stands(folder, config, body, STEPS[body.step].role)
        if "weights" in body.products:
            signature = sign_weights(store_of(folder).manifest(body.products["weights"]), weights_signer_for(config))
            names = {**record.attestations, "weights-signature": str(digest_of_bytes(signature))}
            record, sealed = record.model_copy(update={"attestations": names}), [*sealed, signature]
        bodies.append(record)
        blobs += sealed
    move = next(body for body in bodies_of(folder) if isinstance(body, Release))
    places = {entry.digest: entry.sequence for entry in entries_of(folder) if isinstance(entry.body, Record)}
    order = sorted(places.values())
    rewrite(folder, bodies, blobs, fresh=True)
    mine = {order[entry.sequence - 1]: str(entry.digest) for entry in entries_of(folder)}
    release, sealed = signed_move(
        folder, config, move.model_copy(update={"rests_on": tuple(mine[places[digest]] for digest in move.rests_on)})
    )
    rewrite(folder, [*bodies, release], sealed)
