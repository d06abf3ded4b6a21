"""The bundle: everything that a reviewer without Forge needs to come to the verdict by other software, as one archive.

``admission.export`` writes what was signed. Added here: the trust that it rests on (root, its successors, the delegation), the
ledger's entries of approvals, the signed commits, the documents that statements name by digest, the list of weights, and the
commands (``outside/``: README.md, verify.sh and two small programs, the same bytes in every bundle of one engine version).

Invariant: the same ledger gives the same bytes. Nothing in the archive is a link, and no path leads out of it.
"""

import gzip
import io
import tarfile
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from forge.admission.approvals import commits_between
from forge.admission.export import approvals_named, write_export
from forge.admission.verify import Examination
from forge.attest.trust import TrustRoot
from forge.canonical import canonical_json, hex_of
from forge.contract.hyperparameters import HYPERPARAMETERS
from forge.contract.kinds import StepKind
from forge.contract.record import Approval, Delegation, Record, Release, RootChange
from forge.errors import RepoError, TrustError
from forge.ledger.ledger import Snapshot
from forge.repo.repository import Repository
from forge.store.store import Store

TOOLS = ("README.md", "verify.sh", "check.mjs", "verify.mjs", "package.json", "package-lock.json")
"""What lies in ``outside/``."""
WEIGHTS_LIST = "weights.sha256"
_DOCUMENTS = {
    (StepKind.CURATE, "report"),
    (StepKind.EVALUATE, "report"),
    (StepKind.SWEEP, HYPERPARAMETERS),
    (StepKind.GATE, "verdict"),
    (StepKind.RELEASE, "release"),
}
"""Products that are small JSON files and are in the bundle whole; of every other artifact only the manifest is."""
_NAME = "bundle"


def write_bundle(
    examined: Examination, repository: Repository, snapshot: Snapshot, store: Store, root: TrustRoot, folder: Path
) -> dict[str, Any]:
    """Write the bundle to a new or empty folder; returns what its ``index.json`` says.

    Raises what ``write_export`` raises, and TrustError where the subject is no release.
    """
    release = examined.release
    if release is None:
        raise TrustError(f"{examined.verdict.subject}: there is no release to report on")
    index = write_export(examined, snapshot, root, folder)
    sequence = examined.evidence.sequence(release)
    for path, data in (
        *_trust(examined, root, sequence),
        *_entries(examined),
        *_artifacts(examined, store),
        *((record_path(record), record_bytes(record)) for record in examined.evidence.records.values()),
        *((f"commits/{name}.commit", data) for name, data in commits_of(examined, repository, release)),
        *((name, tool(name)) for name in TOOLS),
    ):
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    return index


def record_path(record: Record) -> str:
    """Where the bundle holds a record."""
    return f"records/{hex_of(record.key)}.json"


def record_bytes(record: Record) -> bytes:
    """All that a record says, as the bytes whose digest its statements sign."""
    return canonical_json(record.model_dump(mode="json", exclude={"attestations"}))


def tool(name: str) -> bytes:
    """One of the files that are the same in every bundle."""
    return (resources.files("forge.report") / "outside" / name).read_bytes()


def pack(folder: Path) -> bytes:
    """A folder as a ``.tar.gz`` with one top folder ``bundle/``: sorted, no times, no owners, files and nothing else."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path in sorted(folder.rglob("*"), key=lambda path: path.relative_to(folder).as_posix()):
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise TrustError(f"{path}: neither a file nor a folder; a bundle holds nothing else")
            if path.is_file():
                member = tarfile.TarInfo(f"{_NAME}/{path.relative_to(folder).as_posix()}")
                data = path.read_bytes()
                member.size, member.mode = len(data), 0o644
                archive.addfile(member, io.BytesIO(data))
    return gzip.compress(plain.getvalue(), mtime=0)


def commits_of(examined: Examination, repository: Repository, release: Release) -> Iterator[tuple[str, bytes]]:
    """The raw commit objects that a release brings: those whose authors were judged, where authors may not approve.

    Elsewhere the commits since the release before; the released commit alone where there was none. What cannot be read is left
    out: it is a finding of the verdict where it matters.
    """
    try:
        names = _commits(examined, repository, release)
    except TrustError:
        names = [release.commit]
    for name in names:
        try:
            found = repository.read_object(name)
        except RepoError:
            continue
        if found is not None and found.kind == "commit":
            yield name, found.data


def _commits(examined: Examination, repository: Repository, release: Release) -> Sequence[str]:
    authors, earlier = examined.evidence.authors, examined.evidence.previous
    if authors is not None:
        return authors.commits
    return commits_between(repository, release.commit, [earlier.commit]) if earlier else [release.commit]


def _trust(examined: Examination, root: TrustRoot, sequence: int) -> Iterator[tuple[str, bytes]]:
    """The pinned root as the bytes that its digest is of; what it signed, and its successors signed, up to the release."""
    evidence = examined.evidence
    yield "trust/trust-root.json", canonical_json(root.model_dump(mode="json"))
    for entry in evidence.entries:
        body = entry.body
        if entry.sequence < sequence and isinstance(body, RootChange):
            for name in ("by-previous", "by-itself"):
                data = evidence.attestations.get(body.attestations.get(name, ""))
                if data is not None:
                    yield f"trust/root-change-{body.version}.{name}.json", data
    delegation: Delegation | None = examined.history.delegation(sequence)
    data = evidence.attestations.get(delegation.attestations.get("delegation", "")) if delegation else None
    if data is not None:
        yield "trust/delegation.json", data


def _entries(examined: Examination) -> Iterator[tuple[str, bytes]]:
    """The ledger's entries of the approvals that the release and its records name; their digests are what they name."""
    named = approvals_named(examined)
    for entry in examined.evidence.entries:
        if isinstance(entry.body, Approval) and entry.digest in named:
            yield f"approvals/{entry.body.person}-{entry.sequence}.entry.json", entry.to_bytes()


def _artifacts(examined: Examination, store: Store) -> Iterator[tuple[str, bytes]]:
    """Manifests of all whole artifacts, small documents, and the list of the weights that are released."""
    manifests = examined.evidence.manifests
    for digest, manifest in manifests.items():
        yield f"artifacts/{hex_of(digest)}/manifest.json", manifest.to_bytes()
    for record in examined.evidence.records.values():
        for name, digest in record.products.items():
            if (record.step, name) in _DOCUMENTS and digest in manifests:
                for file in manifests[digest].files:
                    yield f"artifacts/{hex_of(digest)}/{file.path}", store.read_file(digest, file.path)
        weights = manifests.get(record.inputs.get("weights", ""))
        if record.step is StepKind.RELEASE and weights is not None:
            yield WEIGHTS_LIST, "".join(f"{hex_of(file.sha256)}  {file.path}\n" for file in weights.files).encode()
