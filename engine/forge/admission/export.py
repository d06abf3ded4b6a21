"""The attestations of a subject as files, for verifiers that know nothing of Forge: envelopes, bundles, public keys, locks.

``index.json`` lists each file with its digest, what it is about and which key it should be checked with. The verdict stands
in it as this engine came to it; nobody has to believe it. Nothing here is signed anew: a file is what the ledger holds, or
(the Sigstore bundles) a fixed rewriting of it. Names of files are made here from a short alphabet, because whoever can write
the ledger chooses what an attestation is called.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forge.admission.evidence import Evidence
from forge.admission.verdict import Verdict
from forge.admission.verify import examine
from forge.attest.bundle import bundles_of, is_bundle, payload_of, pem_of
from forge.attest.trust import TrustRoot
from forge.canonical import digest_of_bytes
from forge.contract.kinds import STEPS, Role, StepKind
from forge.contract.record import Release
from forge.errors import LedgerError, TrustError, UsageError
from forge.ledger.ledger import Snapshot
from forge.repo.repository import Repository
from forge.store.store import Store

INDEX_FILE = "index.json"
_WEIGHTS = "weights"
"""The group of keys that sign weights; every other group is a role."""


@dataclass(frozen=True)
class _Attestation:
    about: str
    name: str
    group: str
    digest: str
    data: bytes


def export(subject: str, repository: Repository, snapshot: Snapshot, store: Store, root: TrustRoot, folder: Path) -> Verdict:
    """Verify a subject and write its attestations to a new or empty folder, whether or not they hold.

    Returns the verdict. Raises what ``verify`` raises, UsageError for a folder that holds something, and TrustError where
    the ledger itself is at fault or an attestation is no envelope.
    """
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty: name a new folder to export to")
    verdict, evidence, release = examine(subject, repository, snapshot, store, root)
    if not evidence.records:
        raise TrustError(f"{subject}: nothing to export: " + "; ".join(str(finding) for finding in verdict.findings))
    for name in ("attestations", "keys", "locks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    keys = list(_write_keys(root, folder))
    listed = [_write(number, item, folder) for number, item in enumerate(_attestations(evidence, release), 1)]
    index = {
        "schema_version": 1,
        "subject": subject,
        "holds": verdict.holds,
        "findings": [str(finding) for finding in verdict.findings],
        "trust_root": root.digest,
        "development": root.development,
        "attestations": listed,
        "keys": keys,
        "locks": list(_write_locks(evidence, snapshot, folder)),
    }
    (folder / INDEX_FILE).write_text(json.dumps(index, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return verdict


def _attestations(evidence: Evidence, release: Release | None) -> Iterator[_Attestation]:
    """In the ledger's order, the release last; what could not be read is a finding of the verdict."""
    bodies = {id(record) for record in (*evidence.records.values(), *evidence.continued.values())}
    for entry in evidence.entries:
        if id(entry.body) in bodies and entry.body.kind == "record":
            role = STEPS[entry.body.step].role
            for name, digest in sorted(entry.body.attestations.items()):
                if digest in evidence.attestations:
                    group = _WEIGHTS if name == "weights-signature" else role.value
                    yield _Attestation(entry.body.step_id, name, group, digest, evidence.attestations[digest])
    for name, digest in sorted(release.attestations.items()) if release else ():
        if release is not None and digest in evidence.attestations:
            group = STEPS[StepKind.RELEASE].role.value
            yield _Attestation(f"release/{release.environment}", name, group, digest, evidence.attestations[digest])


def _write(number: int, item: _Attestation, folder: Path) -> dict[str, Any]:
    """Write an attestation in every form that it has; returns its row in the index."""
    stem = f"attestations/{number:03d}-{_safe(item.about)}.{_safe(item.name)}"
    row: dict[str, Any] = {"about": item.about, "name": item.name, "keys": item.group, "digest": item.digest}
    if is_bundle(item.data):
        files = {f"{stem}.sigstore.json": item.data}
        row["sigstore"] = [f"{stem}.sigstore.json"]
    else:
        bundles = bundles_of(item.data)
        files = {f"{stem}.{_safe(keyid)[:12]}.sigstore.json": data for keyid, data in bundles.items()}
        row |= {"dsse": f"{stem}.dsse.json", "sigstore": sorted(files)}
        files[f"{stem}.dsse.json"] = item.data
    payload = payload_of(item.data)
    row["predicate_type"] = payload.get("predicateType", payload.get("_type"))
    for path, data in files.items():
        (folder / path).write_bytes(data)
    return row


def _write_keys(root: TrustRoot, folder: Path) -> Iterator[dict[str, str]]:
    for role in Role:
        for key in root.roles.get(role, ()):
            path = f"keys/{role.value}-{_safe(key.keyid)[:12]}.pem"
            (folder / path).write_text(pem_of(key), encoding="utf-8")
            yield {"keys": role.value, "keyid": key.keyid, "file": path}
    for number, pem in enumerate(root.weights, 1):
        path = f"keys/{_WEIGHTS}-{number}.pem"
        (folder / path).write_text(pem, encoding="utf-8")
        yield {"keys": _WEIGHTS, "file": path}


def _write_locks(evidence: Evidence, snapshot: Snapshot, folder: Path) -> Iterator[str]:
    for lock in sorted({record.lock for record in evidence.records.values() if record.lock is not None}):
        try:
            data = snapshot.attestation(lock)
        except LedgerError:  # it is a finding of the verdict
            continue
        path = f"locks/{digest_of_bytes(data).removeprefix('sha256:')}.txt"
        (folder / path).write_bytes(data)
        yield path


def _safe(name: str) -> str:
    return re.sub(r"[^a-z0-9.-]+", "-", name.lower()).strip(".") or "unnamed"
