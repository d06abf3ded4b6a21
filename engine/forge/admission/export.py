"""The attestations of a subject as files, for verifiers that know nothing of Forge: envelopes, bundles, public keys, locks.

``index.json`` lists each file with its digest, what it is about and which key it should be checked with. The verdict stands
in it as this engine came to it; nobody has to believe it. Nothing here is signed anew: a file is what the ledger holds, or
(the Sigstore bundles, which carry the signatures' time stamps) a fixed rewriting of it. Names of files are made here from a
short alphabet, because whoever can write the ledger chooses what an attestation is called.
"""

import datetime
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forge.admission.evidence import Evidence
from forge.admission.reproductions import Run
from forge.admission.thresholds import counted_links, runs_in
from forge.admission.verdict import Verdict
from forge.admission.verify import Examination, examine
from forge.attest.approval import APPROVED_PLAN, unpack
from forge.attest.authority import Authority
from forge.attest.bundle import bundles_of, is_bundle, payload_of, pem_of, signed_by, with_timestamp
from forge.attest.layout import shape_of, steps_behind
from forge.attest.ssh import APPROVAL_NAMESPACE
from forge.attest.timestamps import PREFIX, TimestampAuthority, signatures_in, stated_time
from forge.attest.trust import TrustRoot
from forge.canonical import digest_of_bytes
from forge.contract.kinds import Role, StepKind
from forge.contract.record import Approval, Record, Release, Reproduction
from forge.errors import LedgerError, TrustError, UsageError
from forge.ledger.ledger import Snapshot
from forge.repo.repository import Repository
from forge.store.store import Store

INDEX_FILE = "index.json"
LAYOUT = "in-toto/root.layout"
LINKS = "in-toto/links"
ALLOWED_SIGNERS = "approvals/allowed_signers"
CHAIN = "chain-"
_KINDS = {f"chain-{kind.value}": kind for kind in StepKind}
"""What a release's links by kind of step are called."""
_WEIGHTS = "weights"
"""The group of keys that sign weights; every other group is a role."""


@dataclass(frozen=True)
class _Attestation:
    about: str
    name: str
    group: str
    digest: str
    data: bytes
    token: bytes | None = None
    """The time stamp of its signature."""


def export(
    subject: str,
    repository: Repository,
    snapshot: Snapshot,
    store: Store,
    root: TrustRoot,
    folder: Path,
    timestamps: TimestampAuthority | None = None,
) -> Verdict:
    """Verify a subject and write its attestations to a new or empty folder, whether or not they hold.

    Returns the verdict. Raises what ``verify`` raises, UsageError for a folder that holds something, and TrustError where
    the ledger itself is at fault or an attestation is no envelope.
    """
    examined = examine(subject, repository, snapshot, store, root, timestamps=timestamps)
    write_export(examined, snapshot, root, folder)
    return examined.verdict


def write_export(examined: Examination, snapshot: Snapshot, root: TrustRoot, folder: Path) -> dict[str, Any]:
    """The same of what was examined already; returns what ``index.json`` says."""
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty: name a new folder to export to")
    verdict, evidence, release = examined.verdict, examined.evidence, examined.release
    if not evidence.records:
        raise TrustError(f"{verdict.subject}: nothing to export: " + "; ".join(str(finding) for finding in verdict.findings))
    for name in ("attestations", "keys", "locks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    sequence = evidence.sequence(release) if release is not None else len(evidence.entries) + 1
    authority = examined.history.authority(sequence)
    moment = examined.history.moment(sequence, release.moved) if release is not None else _now()
    keys = list(_write_keys(authority, moment, folder))
    listed = [_write(number, item, folder) for number, item in enumerate(_attestations(examined, authority), 1)]
    index = {
        "schema_version": 1,
        "subject": verdict.subject,
        "holds": verdict.holds,
        "findings": [str(finding) for finding in verdict.findings],
        "trust_root": root.digest,
        "development": root.development,
        "attestations": listed,
        "keys": keys,
        "locks": list(_write_locks(evidence, reproductions_counted(examined), snapshot, folder)),
        "in_toto": _write_chain(examined, sequence, folder),
        "approvals": list(_write_approvals(examined, sequence, folder)),
    }
    (folder / INDEX_FILE).write_text(json.dumps(index, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return index


def _attestations(examined: Examination, authority: Authority) -> Iterator[_Attestation]:
    """In the ledger's order, the release last; what could not be read is a finding of the verdict."""
    evidence, release = examined.evidence, examined.release
    bodies = {id(record) for record in (*evidence.records.values(), *evidence.continued.values())}
    for entry in evidence.entries:
        if id(entry.body) in bodies and entry.body.kind == "record":
            role = examined.history.authority(entry.sequence).role_of(entry.body.step)
            for name, digest in sorted(entry.body.attestations.items()):
                if digest in evidence.attestations and not name.startswith(PREFIX):
                    group = _WEIGHTS if name == "weights-signature" else role.value
                    token = _token(name, entry.body, evidence)
                    yield _Attestation(entry.body.step_id, name, group, digest, evidence.attestations[digest], token)
    yield from _reproductions(examined)
    for name, digest in sorted(release.attestations.items()) if release else ():
        # which attestations a release lists is not signed: a link of no known kind is nobody's
        is_known = name in _KINDS or not name.startswith(CHAIN)
        if release is not None and is_known and digest in evidence.attestations and not name.startswith(PREFIX):
            kind = _KINDS.get(name, StepKind.RELEASE)
            group = authority.role_of(kind).value
            token = _token(name, release, evidence)
            yield _Attestation(f"release/{release.environment}", name, group, digest, evidence.attestations[digest], token)


def _reproductions(examined: Examination) -> Iterator[_Attestation]:
    """What signs the reproductions that count; whoever can write the ledger can write others."""
    evidence = examined.evidence
    for run in reproductions_counted(examined):
        role = examined.history.authority(run.sequence).role_of(run.body.step)
        for name, digest in sorted(run.body.attestations.items()):
            if digest in evidence.attestations and not name.startswith(PREFIX):
                about, token = f"{run.body.step_id} entry {run.sequence}", _token(name, run.body, evidence)
                yield _Attestation(about, name, role.value, digest, evidence.attestations[digest], token)


def reproductions_counted(examined: Examination) -> list[Run]:
    """The reproductions of the chain's records that count, in the ledger's order."""
    evidence = examined.evidence
    if not any(isinstance(entry.body, Reproduction) for entry in evidence.entries):
        return []
    runs = runs_in(evidence, examined.history, examined.release)
    found = [run for record in evidence.records.values() for run in runs.of(record)]
    counted = [run for run in found if isinstance(run.body, Reproduction) and run.refusal is None]
    return sorted(counted, key=lambda run: run.sequence)


def _token(name: str, body: Record | Reproduction | Release | Approval, evidence: Evidence) -> bytes | None:
    """The time stamp of an attestation; none where it cannot be put beside the one signature that it is about."""
    sealed = evidence.attestations.get(body.attestations.get(name, ""), b"")
    token = evidence.attestations.get(body.attestations.get(f"{PREFIX}{name}", ""))
    return token if isinstance(body, Approval) or len(signatures_in(sealed)) == 1 else None


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
    if item.token is not None:
        files |= {path: with_timestamp(data, item.token) for path, data in files.items() if path.endswith(".sigstore.json")}
        row["timestamp"] = stated_time(item.token)
    payload = payload_of(item.data)
    row["predicate_type"] = payload.get("predicateType", payload.get("_type"))
    for path, data in files.items():
        (folder / path).write_bytes(data)
    return row


def _write_keys(authority: Authority, moment: str, folder: Path) -> Iterator[dict[str, str]]:
    for role in Role:
        for signer in authority.signers(role, moment).known:
            key = signer.key
            path = f"keys/{role.value}-{_safe(key.keyid)[:12]}.pem"
            (folder / path).write_text(pem_of(key), encoding="utf-8")
            yield {"keys": role.value, "keyid": key.keyid, "file": path}
    for number, pem in enumerate(authority.weights_keys(moment), 1):
        path = f"keys/{_WEIGHTS}-{number}.pem"
        (folder / path).write_text(pem, encoding="utf-8")
        yield {"keys": _WEIGHTS, "file": path}


def _write_chain(examined: Examination, sequence: int, folder: Path) -> dict[str, Any] | None:
    """The layout and the links of a release as in-toto-verify reads them; None where the subject has none."""
    release, delegation = examined.release, examined.history.delegation(sequence)
    if release is None or delegation is None:
        return None
    (folder / LINKS).mkdir(parents=True)
    kinds = [_KINDS[name] for name in release.attestations if name in _KINDS]
    graph = examined.evidence.graphs.get(release.commit, {})
    step = graph.get(f"{StepKind.RELEASE}/{release.deployment}")
    shape = None if step is None else shape_of(steps_behind(step, graph))
    layout = examined.evidence.attestations.get(delegation.attestations.get(f"layout-{shape}", ""))
    if layout is None:
        return None
    (folder / LAYOUT).write_bytes(layout)
    for kind in kinds:
        data = examined.evidence.attestations.get(release.attestations[f"{CHAIN}{kind.value}"])
        for keyid in signed_by(data) if data is not None else ():
            (folder / LINKS / f"{kind.value}.{_safe(keyid)[:8]}.link").write_bytes(data or b"")
    for kind, links in counted_links(release, examined.evidence, examined.history).items():
        for link in links:
            for keyid in signed_by(link.sealed):
                (folder / LINKS / f"{kind.value}.{_safe(keyid)[:8]}.link").write_bytes(link.sealed)
    return {"layout": LAYOUT, "links": LINKS, "shape": shape, "delegation": delegation.version}


def _write_approvals(examined: Examination, sequence: int, folder: Path) -> Iterator[dict[str, str]]:
    """Each approval that the release or a record names: the statement, the person's SSH signature, and who may sign as whom.

    Beside the approval of a plan lies the plan.
    """
    charter = examined.history.authority(sequence).charter
    named = approvals_named(examined)
    if charter is None or not named:
        return
    (folder / "approvals").mkdir()
    lines = [
        f'{person.name} namespaces="{APPROVAL_NAMESPACE}" {key.public.strip()}'
        for person in charter.people.people
        for key in person.keys
    ]
    (folder / ALLOWED_SIGNERS).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    for entry in examined.evidence.entries:
        body = entry.body
        data = examined.evidence.attestations.get(body.attestations.get("approval", "")) if isinstance(body, Approval) else None
        if not isinstance(body, Approval) or data is None or entry.digest not in named:
            continue
        try:
            statement, signature = unpack(data)
        except TrustError:  # a finding of the verdict
            continue
        stem = f"approvals/{_safe(body.person)}-{entry.sequence}"
        (folder / f"{stem}.json").write_bytes(statement)
        (folder / f"{stem}.json.sig").write_text(signature, encoding="ascii")
        row = {"person": body.person, "statement": f"{stem}.json", "signature": f"{stem}.json.sig"}
        plan = examined.evidence.attestations.get(body.attestations.get(APPROVED_PLAN, ""))
        if plan is not None:
            (folder / f"{stem}.plan").write_bytes(plan)
            row["plan"] = f"{stem}.plan"
        token = _token("approval", body, examined.evidence)
        if token is not None:
            (folder / f"{stem}.json.sig.tsr").write_bytes(token)
            row["timestamp"] = f"{stem}.json.sig.tsr"
        yield row


def approvals_named(examined: Examination) -> frozenset[str]:
    """Digests of the ledger's approvals that the release, or a record of its chain, says that it rests on."""
    release = examined.release
    named = [digest for record in examined.evidence.records.values() for digest in record.plan_approvals]
    if release is not None:
        named += [*release.approvals, *release.plan_approvals]
    return frozenset(named)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat()


def _write_locks(evidence: Evidence, reproductions: list[Run], snapshot: Snapshot, folder: Path) -> Iterator[str]:
    locks = {record.lock for record in evidence.records.values() if record.lock is not None}
    locks |= {run.body.lock for run in reproductions if run.body.lock is not None}
    for lock in sorted(locks):
        try:
            data = snapshot.attestation(lock)
        except LedgerError:  # it is a finding of the verdict
            continue
        path = f"locks/{digest_of_bytes(data).removeprefix('sha256:')}.txt"
        (folder / path).write_bytes(data)
        yield path


def _safe(name: str) -> str:
    return re.sub(r"[^a-z0-9.-]+", "-", name.lower()).strip(".") or "unnamed"
