"""From an environment's name to a release that may serve: read the pointer, verify the chain, lay out the weights.

What does not hold is refused here, before anything is started or changed; the weights are hashed again as they are laid out,
and before each start of an engine that reads them.
"""

import json
import shutil
from pathlib import Path

from pydantic import ValidationError

from forge.admission.verdict import WithdrawnSubject, told
from forge.admission.verify import verify
from forge.admission.withdrawals import REMEDY
from forge.attest.timestamps import TimestampAuthority
from forge.attest.trust import TrustRoot
from forge.contract.control_tokens import NAMED_FILE, control_tokens_of
from forge.contract.release import POLICY_FILE, RELEASE_FILE, ReleaseDocument
from forge.errors import RefusedError, ServeError, StoreError, TrustError
from forge.ledger.ledger import Snapshot
from forge.repo.repository import Repository
from forge.serve.release import ServableRelease
from forge.spec.inference_policy import InferencePolicySpec
from forge.store.store import Store, manifest_of_folder


class WithdrawnError(RefusedError):
    """A release descends from something that is withdrawn, and who withdrew it had the right to."""

    def __init__(self, environment: str, subjects: tuple[WithdrawnSubject, ...]) -> None:
        self.subjects = subjects
        super().__init__(
            f"release/{environment} may not serve: {'; '.join(map(str, subjects))}. {REMEDY[0].upper()}{REMEDY[1:]}"
        )


def pull(
    environment: str,
    repository: Repository,
    snapshot: Snapshot,
    store: Store,
    root: TrustRoot,
    folder: Path,
    timestamps: TimestampAuthority | None = None,
) -> ServableRelease:
    """The verified release of an environment, its weights below ``folder``; raises what ``admit`` and ``lay_out`` raise."""
    return lay_out(admit(environment, repository, snapshot, store, root, folder, timestamps), store)


def admit(
    environment: str,
    repository: Repository,
    snapshot: Snapshot,
    store: Store,
    root: TrustRoot,
    folder: Path,
    timestamps: TimestampAuthority | None = None,
) -> ServableRelease:
    """The verified release of an environment; its weights are not there yet: ``lay_out`` puts them below ``folder``.

    Raises WithdrawnError for what descends from something withdrawn, TrustError naming every finding when the chain does not
    hold, RefusedError when nothing is released (a RetiredError when it was and is retired), ServeError when this engine cannot
    read it.
    """
    if not snapshot.releases(environment):
        raise RefusedError(f"nothing is released to {environment!r}: `forge apply` releases what passes its gates")
    verdict = verify(f"release/{environment}", repository, snapshot, store, root, timestamps=timestamps)
    if verdict.withdrawn:
        raise WithdrawnError(environment, verdict.withdrawn)
    if not verdict.holds:
        raise TrustError(f"release/{environment} may not serve: its chain of evidence does not hold\n{told(verdict.findings)}")
    if verdict.release is None:
        message = "its verification names no release: `forge apply` releases what passes its gates"
        raise TrustError(f"release/{environment} may not serve: {message}")
    try:  # what was verified, never a second look-up: the ledger's index could answer otherwise
        document = ReleaseDocument.model_validate_json(store.read_file(verdict.release, RELEASE_FILE))
        policy = json.loads(store.read_file(document.policy, POLICY_FILE))
        if policy["schema_version"] != 1:
            raise ServeError(f"policy {document.policy} has schema version {policy['schema_version']}; this engine reads 1")
        spec = InferencePolicySpec.model_validate(policy["spec"])
        names = ["tokenizer.json", "tokenizer_config.json"]
        names += [NAMED_FILE] if NAMED_FILE in (file.path for file in store.manifest(document.weights).files) else []
        control_tokens = control_tokens_of(*(json.loads(store.read_file(document.weights, name)) for name in names))
    except (ValidationError, KeyError, ValueError) as error:
        raise ServeError(f"release {verdict.release} is not one this engine reads: {error}") from error
    return ServableRelease(
        environment=environment,
        deployment=document.deployment,
        model=document.model,
        policy_name=document.policy_name,
        policy=spec,
        policy_digest=document.policy,
        weights_digest=document.weights,
        release_digest=verdict.release,
        model_path=folder / document.weights.removeprefix("sha256:"),
        control_tokens=control_tokens,
        engine=document.engine,
        trust=verdict.trust,
    )


def lay_out(release: ServableRelease, store: Store) -> ServableRelease:
    """Lay out the weights in their folder, anew and hashed; raises StoreError. No engine may run from that folder now."""
    folder = release.model_path
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    store.lay_out(release.weights_digest, folder, link=False)  # own bytes: a writer of the store must not reach them later
    return release


def check_weights(release: ServableRelease) -> None:
    """Hash what lies in the release's folder; raises ServeError when it is not, file for file, what was verified."""
    try:
        found = manifest_of_folder(release.model_path).digest
    except (OSError, StoreError) as error:
        raise ServeError(f"the weights in {release.model_path} cannot be read: {error}") from error
    if found != release.weights_digest:
        raise ServeError(
            f"the weights in {release.model_path} are no longer those that were verified ({release.weights_digest}, now "
            f"{found}): no engine is started with them. Find out who wrote there, then start the agent anew: it lays them "
            "out again"
        )
