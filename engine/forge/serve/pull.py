"""From an environment's name to a release that may serve: read the pointer, verify the chain, lay out the weights.

The one place of this package that reads state. What does not hold is refused here, before any engine is started; the
weights are hashed again as they are laid out.
"""

import json
import shutil
from pathlib import Path

from pydantic import ValidationError

from forge.admission.verify import verify
from forge.attest.trust import TrustRoot
from forge.contract.release import POLICY_FILE, RELEASE_FILE, ReleaseDocument
from forge.errors import RefusedError, ServeError, TrustError
from forge.ledger.ledger import Snapshot
from forge.repo.repository import Repository
from forge.serve.release import ServableRelease
from forge.spec.inference_policy import InferencePolicySpec
from forge.store.store import Store


def pull(
    environment: str, repository: Repository, snapshot: Snapshot, store: Store, root: TrustRoot, folder: Path
) -> ServableRelease:
    """The verified release of an environment, its weights below ``folder``.

    Raises TrustError naming every finding when the chain does not hold, RefusedError when nothing is released.
    """
    if snapshot.release(environment) is None:
        raise RefusedError(f"nothing is released to {environment!r}: `forge apply` releases what passes its gates")
    verdict = verify(f"release/{environment}", repository, snapshot, store, root)
    if not verdict.holds:
        findings = "\n".join(f"  {finding}" for finding in verdict.findings)
        raise TrustError(f"release/{environment} may not serve: its chain of evidence does not hold\n{findings}")
    if verdict.release is None:
        raise TrustError(f"release/{environment} may not serve: its verification names no release")
    try:  # what was verified, never a second look-up: the ledger's index could answer otherwise
        document = ReleaseDocument.model_validate_json(store.read_file(verdict.release, RELEASE_FILE))
        policy = json.loads(store.read_file(document.policy, POLICY_FILE))
        if policy["schema_version"] != 1:
            raise ServeError(f"policy {document.policy} has schema version {policy['schema_version']}; this engine reads 1")
        spec = InferencePolicySpec.model_validate(policy["spec"])
    except (ValidationError, KeyError, ValueError) as error:
        raise ServeError(f"release {verdict.release} is not one this engine reads: {error}") from error
    weights = folder / document.weights.removeprefix("sha256:")
    shutil.rmtree(weights, ignore_errors=True)
    weights.mkdir(parents=True)
    store.lay_out(document.weights, weights, link=False)  # own bytes: a writer of the store must not reach them later
    return ServableRelease(
        environment=environment,
        deployment=document.deployment,
        model=document.model,
        policy_name=document.policy_name,
        policy=spec,
        policy_digest=document.policy,
        weights_digest=document.weights,
        release_digest=verdict.release,
        model_path=weights,
        engine=document.engine,
        trust=verdict.trust,
    )
