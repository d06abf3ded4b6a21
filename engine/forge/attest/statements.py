"""What is signed for a step, as pure functions of its record: the signer and the verifier call the same ones.

Because a statement is a function of the record and its manifests, the verifier rebuilds it and compares whole payloads:
nothing in a record or in a manifest can change without a signature failing. What a record signs is decided by its field
``statements``, so what was signed by an older engine keeps its bytes (tests/attest/golden). Formats: in-toto link 0.9,
in-toto statement v1 with SLSA provenance v1, SLSA verification summary v1, test-result v0.1 or simple verification result
v0.2 (docs/attestations.md lists every field).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from pydantic import ValidationError

from forge.canonical import canonical_json, digest_of_json, hex_of
from forge.contract.inventory import pinned
from forge.contract.kinds import StepKind
from forge.contract.manifest import Manifest
from forge.contract.record import Record, Release, Retirement, Withdrawal
from forge.contract.verdict import Decision, Verdict

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PROVENANCE_TYPE = "https://slsa.dev/provenance/v1"
TEST_RESULT_TYPE = "https://in-toto.io/attestation/test-result/v0.1"
VERIFICATION_RESULT_TYPE = "https://in-toto.io/attestation/svr/v0.2"
VERIFICATION_SUMMARY_TYPE = "https://slsa.dev/verification_summary/v1"
RELEASE_TYPE = "urn:forge:release:v1"
RETIREMENT_TYPE = "urn:forge:retirement:v1"
WITHDRAWAL_TYPE = "urn:forge:withdrawal:v1"
STATUS_PAYLOAD_TYPE = "application/vnd.forge.agent-status+json"
"""The payload of a status is the status itself: it is about no artifact that an in-toto subject could name."""
BUILDER_ID = "urn:forge:executor:local"
GATE_ID = "urn:forge:gate:v1"
"""Who verified, in a gate's result: the decision of ``contract.verdict.check``."""
ADMISSION_ID = "urn:forge:admission:v1"
"""Who verified, in a release's summary: the rules of ``forge.admission``."""
CURRENT_STATEMENTS = 2
VERIFICATION_RESULT, VERIFICATION_SUMMARY = "svr", "verification-summary"
"""The names under which a gate's record and a release list theirs."""


def statement_name(step: StepKind) -> str:
    """The name under which a record lists its statement."""
    return "test-result" if step is StepKind.EVALUATE else "provenance"


def payloads_of(
    record: Record, manifests: Mapping[str, Manifest] | None, producers: Mapping[str, str], documents: Mapping[str, bytes]
) -> dict[str, bytes]:
    """Everything that is signed for a step, by the name under which the record lists it.

    Args:
        record: what the step did.
        manifests: by artifact digest, of every input and product. None where they are not all known: then there is no link.
        producers: input name -> prefix of its paths: ``STEP_ID/PRODUCT`` for what a step made, ``commit/NAME`` for files
            of the commit. A product has the same paths here and where it is read, so that layout rules can match them.
        documents: verdicts by artifact digest. A gate's own result is left out where its verdict is absent, which is a fault
            of the bytes; one that is no verdict gives a payload that nobody signed.
    """
    digest = digest_of_record(record)
    payloads = {statement_name(record.step): _statement(record, producers, digest)}
    document = documents.get(record.products.get("verdict", ""))
    if record.step is StepKind.GATE and record.statements > 1 and document is not None:
        try:
            verdict = Verdict.model_validate_json(document)
        except ValidationError:
            payloads[VERIFICATION_RESULT] = b""
        else:
            payloads[VERIFICATION_RESULT] = _verification_result(record, producers, verdict, digest)
    if manifests is not None:
        payloads["link"] = _link(record, manifests, producers, digest)
    return payloads


def run_payloads(
    run: Record, manifests: Mapping[str, Manifest] | None, producers: Mapping[str, str], what: str, digest: str
) -> dict[str, bytes]:
    """Link and provenance of a run that the ledger keeps as something else than a record: as ``what``, of that digest."""
    provenance = _as_statement(run.step_id, run.products, PROVENANCE_TYPE, _provenance(run, producers, digest, what))
    links = {} if manifests is None else {"link": _link(run, manifests, producers, digest, what)}
    return {**links, "provenance": provenance}


def _link(
    record: Record, manifests: Mapping[str, Manifest], producers: Mapping[str, str], digest: str, what: str = "record"
) -> bytes:
    """The in-toto link of a step.

    A by-product stands for itself, by the digest of its manifest: its files may be gone when the link is verified.
    """
    materials: dict[str, dict[str, str]] = {}
    for name, artifact in record.inputs.items():
        for file in manifests[artifact].files:
            materials[f"{producers[name]}/{file.path}"] = {"sha256": hex_of(file.sha256)}
    if record.continued is not None:
        materials[_byproduct_path(record.continued.key, record.continued.byproduct)] = _sha256(record.continued.checkpoint)
    products: dict[str, dict[str, str]] = {}
    for name, artifact in record.products.items():
        for file in manifests[artifact].files:
            products[f"{record.step_id}/{name}/{file.path}"] = {"sha256": hex_of(file.sha256)}
    for name, artifact in record.byproducts.items():
        products[_byproduct_path(record.key, name)] = _sha256(artifact)
    return canonical_json(
        {
            "_type": "link",
            "name": record.step_id,
            "materials": materials,
            "products": products,
            "byproducts": {"return-value": 0, what: digest},
            "command": ["python", "-m", "forge.steps", "request.json"],
            "environment": record.environment,
        }
    )


def _statement(record: Record, predecessors: Mapping[str, str], record_digest: str) -> bytes:
    """The in-toto statement of a step: provenance, or for an evaluation its test result."""
    evaluate = record.step is StepKind.EVALUATE
    subject = {"weights": record.inputs["weights"]} if evaluate else record.products
    prefix = predecessors["weights"].removesuffix("/weights") if evaluate else record.step_id
    if evaluate:
        return _as_statement(prefix, subject, TEST_RESULT_TYPE, _test_result(record, predecessors, record_digest))
    return _as_statement(prefix, subject, PROVENANCE_TYPE, _provenance(record, predecessors, record_digest))


def _as_statement(prefix: str, subject: Mapping[str, str], predicate_type: str, predicate: Mapping[str, Any]) -> bytes:
    return canonical_json(
        {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": f"{prefix}/{name}", "digest": _sha256(digest)} for name, digest in sorted(subject.items())],
            "predicateType": predicate_type,
            "predicate": predicate,
        }
    )


def _verification_result(record: Record, predecessors: Mapping[str, str], verdict: Verdict, record_digest: str) -> bytes:
    """A gate's verdict about weights: in-toto simple verification result v0.2.

    The specification lists passing properties only, so a NO-GO has those of the checks that passed; the verdict itself stands
    in an extension field. The subjects are the weights; where they were not known, the reports that the gate read.
    """
    reports = {predecessors[name]: digest for name, digest in record.inputs.items()}
    passed = [f"FORGE_CHECK_PASSED {c.suite} {c.task} {c.metric} {c.bound} {c.threshold!r}" for c in verdict.checks if c.passed]
    return canonical_json(
        {
            "_type": STATEMENT_TYPE,
            "subject": [
                {"name": name, "digest": _sha256(digest)} for name, digest in sorted((record.about or reports).items())
            ],
            "predicateType": VERIFICATION_RESULT_TYPE,
            "predicate": {
                "verifier": {
                    "id": GATE_ID,
                    "policies": [
                        {
                            "name": "gates",
                            "uri": f"urn:forge:commit:{record.commit}:{record.subject}",
                            "digest": _sha256(digest_of_json(record.parameters.get("gates"))),
                        }
                    ],
                },
                "timeCreated": record.finished,
                "properties": ["FORGE_GATE_GO", *passed] if verdict.verdict is Decision.GO else passed,
                "urn:forge:verdict": {
                    "verdict": verdict.verdict.value,
                    "digest": _sha256(record.products["verdict"]),
                    "reports": [{"name": name, "digest": _sha256(digest)} for name, digest in sorted(reports.items())],
                    "record": {"digest": _sha256(record_digest)},
                },
            },
        }
    )


def verification_summary(release: Release, weights: str, records: Sequence[Record]) -> bytes:
    """What was verified before a pointer moved: SLSA verification summary v1, about the weights and the release document.

    Args:
        release: the move.
        weights: digest of the weights that the release names.
        records: those that ``release.rests_on`` names, in its order; their attestations are the summary's inputs.
    """
    inputs = [
        {"name": f"{record.step_id} {name}", "uri": f"urn:forge:attestation:{hex_of(digest)}", "digest": _sha256(digest)}
        for record in records
        for name, digest in sorted(record.attestations.items())
    ]
    return canonical_json(
        {
            "_type": STATEMENT_TYPE,
            "subject": [
                {"name": f"release/{release.environment}", "digest": _sha256(release.release)},
                {"name": "weights", "digest": _sha256(weights)},
            ],
            "predicateType": VERIFICATION_SUMMARY_TYPE,
            "predicate": {
                "verifier": {"id": ADMISSION_ID},
                "timeVerified": release.moved,
                "resourceUri": f"urn:forge:release:{release.environment}",
                "policy": {
                    "uri": f"urn:forge:commit:{release.commit}:Deployment/{release.deployment}",
                    "digest": {"gitCommit": release.commit},
                },
                "inputAttestations": inputs,
                "verificationResult": "PASSED",
                # One machine, whose owner can reach the keys: the provenance exists and is signed, nothing more is claimed.
                "verifiedLevels": ["SLSA_BUILD_LEVEL_1", "FORGE_CHAIN_VERIFIED", "FORGE_GATE_GO"],
                "slsaVersion": "1.1",
            },
        }
    )


def release_statement(release: Release) -> bytes:
    """What the releaser signs when an environment's pointer moves."""
    return canonical_json(
        {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": f"release/{release.environment}", "digest": _sha256(release.release)}],
            "predicateType": RELEASE_TYPE,
            "predicate": release.model_dump(mode="json", exclude={"attestations"}),
        }
    )


def retirement_statement(retirement: Retirement) -> bytes:
    """What the releaser signs when an environment is retired; its subject is the commit that no longer asks for it."""
    return canonical_json(
        {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": f"release/{retirement.environment}", "digest": {"gitCommit": retirement.commit}}],
            "predicateType": RETIREMENT_TYPE,
            "predicate": retirement.model_dump(mode="json", exclude={"attestations"}),
        }
    )


def withdrawal_statement(withdrawal: Withdrawal) -> bytes:
    """What the releaser signs when something is withdrawn, or no longer is.

    The subject has the digest of what is withdrawn where that is a digest; else the commit, which says what the name means.
    """
    named = withdrawal.subject
    digest = _sha256(named) if named.startswith("sha256:") else {"gitCommit": withdrawal.commit}
    return canonical_json(
        {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": f"withdrawal/{named}", "digest": digest}],
            "predicateType": WITHDRAWAL_TYPE,
            "predicate": withdrawal.model_dump(mode="json", exclude={"attestations"}),
        }
    )


def digest_of_record(record: Record) -> str:
    """The digest of all that a record says, its attestations left out: they sign it."""
    return digest_of_json(record.model_dump(mode="json", exclude={"attestations"}))


def _dependencies(record: Record, predecessors: Mapping[str, str]) -> list[dict[str, Any]]:
    commit = {"name": "commit", "digest": {"gitCommit": record.commit}}
    inputs = [{"name": predecessors[name], "digest": _sha256(digest)} for name, digest in sorted(record.inputs.items())]
    return [commit, *inputs, *_fetched(record, predecessors), *_continued(record), *_lock(record)]


def _fetched(record: Record, addresses: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """What a curation read from outside of its commit: each Git commit, and each file by its digest."""
    if record.step is StepKind.CURATE:
        for name, digest in pinned(record.parameters):
            yield {"name": name, **_uri(name, addresses), "digest": digest}


def _uri(name: str, addresses: Mapping[str, str]) -> dict[str, str]:
    """The address as a URI; an absolute path and ``USER@HOST:PATH`` are none, and become one."""
    address = addresses.get(name)
    if address is None:
        return {}
    if "://" not in address:
        host, _, path = address.partition(":")
        address = f"file://{quote(address)}" if address.startswith("/") else f"ssh://{host}/{quote(path.lstrip('/'))}"
    return {"uri": address if "/" in name else f"git+{address}"}


def _lock(record: Record) -> list[dict[str, Any]]:
    """The distributions that the step had installed."""
    return [] if record.lock is None else [{"name": "lock", "digest": _sha256(record.lock)}]


def _continued(record: Record) -> list[dict[str, Any]]:
    """The checkpoint that a run went on from: a dependency that is no input of its key."""
    if record.continued is None:
        return []
    path = _byproduct_path(record.continued.key, record.continued.byproduct)
    return [{"name": path, "uri": f"urn:forge:step-key:{record.continued.key}", "digest": _sha256(record.continued.checkpoint)}]


def _byproduct_path(key: str, name: str) -> str:
    """The path of a by-product in links and statements; by the step's key, for a step may be renamed in between."""
    return f"byproduct/{hex_of(key)}/{name}"


def _provenance(record: Record, predecessors: Mapping[str, str], digest: str, what: str = "record") -> dict[str, Any]:
    return {
        "buildDefinition": {
            "buildType": f"urn:forge:step:{record.step.value}:v{record.step_version}",
            "externalParameters": {"subject": record.subject, "parameters": record.parameters},
            "internalParameters": {"key": record.key, "environment": record.environment, **_hardware(record, "hardware")},
            "resolvedDependencies": _dependencies(record, predecessors),
        },
        "runDetails": {
            "builder": {"id": BUILDER_ID} if record.statements == 1 else {"id": BUILDER_ID, "version": _versions(record)},
            "metadata": {
                "invocationId": f"{record.key}/{record.attempt}",
                "startedOn": record.started,
                "finishedOn": record.finished,
            },
            "byproducts": [
                {"name": what, "digest": _sha256(digest)},
                *(
                    {"name": _byproduct_path(record.key, name), "digest": _sha256(digest)}
                    for name, digest in sorted(record.byproducts.items())
                ),
            ],
        },
    }


def _test_result(record: Record, predecessors: Mapping[str, str], record_digest: str) -> dict[str, Any]:
    return {
        "result": "PASSED",  # every task ran to its end; whether its figures suffice is the gate's matter
        "configuration": _dependencies(record, predecessors),
        "passedTests": list(record.parameters.get("tasks", [])),
        "warnedTests": [],
        "failedTests": [],
        "report": {"name": f"{record.step_id}/report", "digest": _sha256(record.products["report"])},
        "record": {"digest": _sha256(record_digest)},
        **_hardware(record, "urn:forge:hardware"),
    }


def _hardware(record: Record, name: str) -> dict[str, Any]:
    return {} if record.hardware is None else {name: record.hardware.model_dump(mode="json")}


def _versions(record: Record) -> dict[str, str]:
    """The engine's own version, as the step said it."""
    return {name: version for name, version in record.environment.items() if name == "forge"}


def _sha256(digest: str) -> dict[str, str]:
    return {"sha256": hex_of(digest)}
