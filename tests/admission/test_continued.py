"""Weights of a continued training: what holds, and the attacks on where the checkpoint came from.

Attacker: holds the trainer's key where a test says so; else writes only the ledger, the store and the repository.
"""

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.admission.test_attacks import bodies_of, record_of, refused, rewrite, signed, store_of, verdict_of
from tests.conftest import MODEL, commit_all

from forge.attest.keys import weights_signer_for
from forge.attest.weights import sign_weights
from forge.canonical import digest_of_bytes, hex_of
from forge.contract.kinds import Role, StepKind
from forge.contract.messages import Continued, FailureCause
from forge.contract.record import Attempt, Record
from forge.ledger.entry import Body
from forge.plan.step import step_key

CHECKPOINT = "sha256:" + "c" * 64
"""It lies in no store: verification never needs its bytes."""
OTHER = "sha256:" + "d" * 64
TOKENS = 40_000
TENSORS = (2).to_bytes(8, "little") + b"{}longer"


class Forge:
    """A folder in which records are written as a runner with these keys would."""

    def __init__(self, folder: Path, config_home: Path) -> None:
        self.folder, self.config_home = folder, config_home
        self.bodies: list[Body] = bodies_of(folder)
        self.sealed: list[bytes] = []

    def add(self, record: Record) -> Record:
        """Sign, with the trainer's key and over its weights too, and append."""
        made, sealed = signed(self.folder, self.config_home, record, Role.TRAINER)
        manifest = store_of(self.folder).manifest(made.products["weights"])
        signature = sign_weights(manifest, weights_signer_for(self.config_home))
        names = {**made.attestations, "weights-signature": str(digest_of_bytes(signature))}
        made = made.model_copy(update={"attestations": names})
        self.bodies.append(made)
        self.sealed += [*sealed, signature]
        rewrite(self.folder, self.bodies, self.sealed)
        return made

    def short(self, **change: Any) -> Record:
        """The run of 40k, again, with its checkpoint."""
        record = record_of(self.folder, "train/small").model_copy(update={"byproducts": {"checkpoint": CHECKPOINT}, **change})
        return self.add(record)

    def longer(self, continued: Continued | None, model: str = MODEL.replace("40k", "80k"), **change: Any) -> Record:
        """A run of another commit with weights of its own; ``change`` is made to its parameters' ``training``."""
        (self.folder / "models" / "model.yaml").write_text(model)
        commit = commit_all(self.folder, "more tokens")
        record = record_of(self.folder, "train/small")
        training = {**record.parameters["training"], "tokens": 80_000, **change}
        weights = store_of(self.folder).put_bytes({"model.safetensors": TENSORS}).digest
        fields = {
            "commit": commit,
            "parameters": {**record.parameters, "training": training},
            "products": {"weights": weights},
            "byproducts": {},
            "continued": continued,
        }
        return self.add(record.model_copy(update=fields))

    def said(self, record: Record) -> str:
        return refused(self.folder, self.config_home, record.products["weights"])


@pytest.fixture
def forged(copy_of_applied: Path, config_home: Path) -> Forge:
    return Forge(copy_of_applied, config_home)


def test_a_continued_training_holds_though_checkpoint_and_shorter_weights_are_gone(forged: Forge) -> None:
    short = forged.short()
    longer = forged.longer(Continued(key=short.key, checkpoint=CHECKPOINT, tokens=TOKENS))
    gone = hex_of(short.products["weights"])
    (forged.folder / ".forge" / "store" / "manifests" / gone[:2] / f"{gone}.json").unlink()
    verdict = verdict_of(forged.folder, forged.config_home, longer.products["weights"])
    assert verdict.findings == ()
    assert any(CHECKPOINT in check.message for check in verdict.checks)


def test_provenance_and_link_name_the_checkpoint(forged: Forge) -> None:
    short = forged.short()
    longer = forged.longer(Continued(key=short.key, checkpoint=CHECKPOINT, tokens=TOKENS))
    documents = {digest_of_bytes(data): json.loads(data) for data in forged.sealed}

    def payload(record: Record, name: str) -> Any:
        return json.loads(base64.b64decode(documents[record.attestations[name]]["payload"]))

    path, digest = f"byproduct/{hex_of(short.key)}/checkpoint", {"sha256": hex_of(CHECKPOINT)}
    dependencies = payload(longer, "provenance")["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert [item["name"] for item in dependencies[-2:]] == [path, "lock"]
    assert dependencies[-2] == {"name": path, "uri": f"urn:forge:step-key:{short.key}", "digest": digest}
    assert payload(longer, "link")["materials"][path] == digest == payload(short, "link")["products"][path]
    byproducts = payload(short, "provenance")["predicate"]["runDetails"]["byproducts"]
    assert {"name": path, "digest": digest} in byproducts


def test_a_chain_is_followed_to_its_start(forged: Forge) -> None:
    short = forged.short()
    middle = forged.longer(
        Continued(key=short.key, checkpoint=CHECKPOINT, tokens=TOKENS), MODEL.replace("40k", "60k"), tokens=60_000
    )
    middle = forged.add(middle.model_copy(update={"byproducts": {"checkpoint": OTHER}}))
    last = forged.longer(Continued(key=middle.key, checkpoint=OTHER, tokens=60_000))
    verdict = verdict_of(forged.folder, forged.config_home, last.products["weights"])
    assert verdict.findings == ()
    assert sum("is a checkpoint of" in check.message for check in verdict.checks) == 2


def test_a_checkpoint_that_was_swapped(forged: Forge) -> None:
    """Trainer's key: the checkpoint is one that no run left."""
    short = forged.short()
    longer = forged.longer(Continued(key=short.key, checkpoint=OTHER, tokens=TOKENS))
    assert f"names the checkpoint {OTHER}" in forged.said(longer)


def test_a_key_that_was_never_run(forged: Forge) -> None:
    """Trainer's key: a shorter run that would be legal, and is not recorded."""
    short = forged.short()
    training = {**short.parameters["training"], "tokens": 20_000}
    key = step_key(StepKind.TRAIN, short.step_version, {**short.parameters, "training": training}, short.inputs)
    longer = forged.longer(Continued(key=key, checkpoint=CHECKPOINT, tokens=20_000))
    assert f"no record of step key {key}" in forged.said(longer)


def test_another_models_checkpoint(forged: Forge) -> None:
    """Trainer's key: a recorded run, but of another step."""
    short = forged.short()
    tokenized = record_of(forged.folder, "tokenize/small")
    longer = forged.longer(Continued(key=tokenized.key, checkpoint=CHECKPOINT, tokens=TOKENS))
    said = forged.said(longer)
    assert f"step key {tokenized.key} is not this step's" in said
    assert short.key not in said


@pytest.mark.parametrize(
    ("model", "change"),
    [
        (MODEL.replace("40k", "80k").replace("seed: 5", "seed: 6"), {"seed": 6}),
        (MODEL.replace("40k", "80k").replace("warmup_tokens: 2k", "warmup_tokens: 3k"), {"schedule": (3_000, 10_000)}),
    ],
)
def test_parameters_that_differ_in_a_second_field(forged: Forge, model: str, change: dict[str, Any]) -> None:
    """Trainer's key."""
    short = forged.short()
    if "schedule" in change:
        change = {"schedule": {**short.parameters["training"]["schedule"], "warmup_tokens": change["schedule"][0]}}
    longer = forged.longer(Continued(key=short.key, checkpoint=CHECKPOINT, tokens=TOKENS), model, **change)
    assert "is not this step's with training.tokens 40,000: other parameters or inputs" in forged.said(longer)


def test_fewer_tokens_are_no_continuation(forged: Forge) -> None:
    """Trainer's key: the key fits, the direction does not."""
    short = forged.short()
    continued = Continued(key=short.key, checkpoint=CHECKPOINT, tokens=TOKENS)
    longer = forged.longer(continued, MODEL.replace("40k", "30k"), tokens=30_000)
    assert "was lowered from 40,000 to 30,000" in forged.said(longer)


def test_a_checkpoint_that_was_written_into_a_record_after_it_was_signed(forged: Forge) -> None:
    """No key for the shorter run's record: its by-products are signed."""
    short = forged.short()
    longer = forged.longer(Continued(key=short.key, checkpoint=OTHER, tokens=TOKENS))
    swapped = [
        body.model_copy(update={"byproducts": {"checkpoint": OTHER}}) if body == short else body for body in forged.bodies
    ]
    rewrite(forged.folder, swapped, forged.sealed, fresh=True)
    assert "train/small provenance" in forged.said(longer)


def test_a_continuation_that_was_written_into_a_record_after_it_was_signed(forged: Forge) -> None:
    """No key."""
    short = forged.short()
    longer = forged.longer(None)
    changed: Sequence[Body] = [
        body.model_copy(update={"continued": Continued(key=short.key, checkpoint=CHECKPOINT, tokens=TOKENS)})
        if body == longer
        else body
        for body in forged.bodies
    ]
    rewrite(forged.folder, changed, forged.sealed, fresh=True)
    assert "[statement]" in forged.said(longer)


@pytest.mark.parametrize(("cause", "holds"), [(FailureCause.STOPPED, True), (FailureCause.INTERNAL, False)])
def test_a_run_that_was_stopped_to_be_continued_is_named_by_its_attempt(
    forged: Forge, cause: FailureCause, holds: bool
) -> None:
    """No attack, where the cause is the stop: a commit raised the tokens of a step that was running."""
    record = record_of(forged.folder, "train/small")
    parameters = {**record.parameters, "training": {**record.parameters["training"], "tokens": 60_000}}
    key = step_key(StepKind.TRAIN, record.step_version, parameters, record.inputs)
    attempt = Attempt(
        key=key,
        step=StepKind.TRAIN,
        step_id="train/small",
        subject="Model/small",
        commit=record.commit,
        attempt=1,
        cause=cause,
        message="superseded",
        seconds=1.0,
        byproducts={"checkpoint": OTHER},
    )
    forged.bodies.append(attempt)
    longer = forged.longer(Continued(key=key, checkpoint=OTHER, tokens=60_000))
    if holds:
        assert verdict_of(forged.folder, forged.config_home, longer.products["weights"]).findings == ()
    else:
        assert f"no record of step key {key}" in forged.said(longer)


def test_a_record_of_another_kind_continues_nothing(forged: Forge) -> None:
    """No key."""
    continued = Continued(key=OTHER, checkpoint=CHECKPOINT, tokens=TOKENS)
    bodies = [
        body.model_copy(update={"continued": continued}) if isinstance(body, Record) and body.step is StepKind.CURATE else body
        for body in forged.bodies
    ]
    rewrite(forged.folder, bodies, fresh=True)
    assert "a curate step continues no checkpoint" in forged.said(record_of(forged.folder, "train/small"))
