"""A person approves: what they saw becomes a statement, their SSH key signs it, and the ledger keeps it.

What is approved is looked up here, never typed: the weights and the verdict that the plan would release now, or the digest of
a plan file.
"""

from pathlib import Path

from forge.admission.history import current_authority
from forge.attest.approval import APPROVED_PLAN, approval_statement, pack
from forge.attest.authority import Authority
from forge.attest.ssh import APPROVAL_NAMESPACE, sign_with_ssh, ssh_signer
from forge.attest.trust import read_trust_root
from forge.canonical import digest_of_bytes
from forge.contract.record import Approval
from forge.errors import RefusedError, TrustError, UsageError
from forge.ledger.ledger import Draft
from forge.plan.graph import build_graph
from forge.plan.saved import digest_of, from_bytes
from forge.plan.step import key_of
from forge.plan.upkeep import approvals_cover_release
from forge.reconcile.place import Place, look
from forge.reconcile.timestamping import check_authority, tokens


def release_to_approve(place: Place, environment: str) -> Approval:
    """The approval of what the commit would release to an environment now, with nobody's name on it yet.

    Raises UsageError for an environment that no deployment has, RefusedError while nothing that could be released is there.
    """
    releases = {action.environment: action for action in look(place).plan.actions if action.id.startswith("release/")}
    action = releases.get(environment)
    if action is None:
        known = ", ".join(sorted(str(name) for name in releases)) or "none"
        raise UsageError(f"release/{environment}: no Deployment of this commit is for that environment; there is: {known}")
    if "weights" not in action.inputs or "verdict" not in action.inputs:
        reasons = "; ".join(str(reason) for reason in action.reasons)
        raise RefusedError(f"release/{environment}: there is no model to approve yet ({reasons})")
    return Approval(
        subject=f"release/{environment}",
        digest=action.inputs["weights"],
        verdict=action.inputs["verdict"],
        release=key_of(build_graph(place.desired)[action.id], action.inputs)
        if approvals_cover_release(place.desired)
        else None,
        person="nobody",
        commit=place.desired.commit or "",
        given=place.now().isoformat(timespec="milliseconds"),
    )


def plan_to_approve(place: Place, data: bytes, name: str) -> Approval:
    """The approval of a plan file, with nobody's name on it yet; raises RefusedError for one that was altered."""
    saved = from_bytes(data, name)
    return Approval(
        subject="plan",
        digest=digest_of(saved),
        person="nobody",
        commit=saved.plan.commit or "",
        given=place.now().isoformat(timespec="milliseconds"),
    )


def approve(place: Place, approval: Approval, key: Path, plan: bytes | None = None) -> Approval:
    """Sign an approval with a person's SSH key and append it; raises TrustError for a key that is no approver's.

    ``plan``: the file that is approved, where it is one. It is kept beside the approval, so that whoever verifies what was
    made under it can read what was approved.
    """
    authority = current_authority(place.ledger.snapshot(), read_trust_root(place.config))
    person = _person(authority, key, approval.given)
    named = approval.model_copy(update={"person": person})
    check_authority(place, authority.charter)
    statement = approval_statement(named)
    signature = sign_with_ssh(statement, key, APPROVAL_NAMESPACE)
    signer = ssh_signer(statement, signature, APPROVAL_NAMESPACE)
    if authority.person_of(signer, approval.given) != person:
        raise TrustError(f"{key}: another key signed than the one that was asked for")
    sealed = {"approval": pack(statement, signature), **tokens({"approval": signature.encode()}, place)}
    if plan is not None:
        sealed[APPROVED_PLAN] = plan
    signed = named.model_copy(update={"attestations": {name: str(digest_of_bytes(data)) for name, data in sealed.items()}})
    place.ledger.append([Draft(signed, tuple(sealed.values()))])
    return signed


def _person(authority: Authority, key: Path, moment: str) -> str:
    """Whose key it is, by its public half: an approval that would not count is not signed at all."""
    public = key if key.suffix == ".pub" else key.with_name(f"{key.name}.pub")
    try:
        text = public.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{public}: the public half of the key is needed, as ssh-keygen writes it: {error}") from error
    person = authority.person_of(text, moment)
    if person is None:
        message = "the supply chain in force lists this key for nobody, or not as valid now (policies/, kind People)"
        raise TrustError(f"{public}: {message}")
    charter = authority.charter
    if charter is None or person not in charter.supply_chain.approvers:
        raise TrustError(f"{person} is no approver of the supply chain in force")
    return person
