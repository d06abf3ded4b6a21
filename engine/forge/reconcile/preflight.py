"""What is checked before any work begins: whether the plan may be carried out, and whether what is signed at the end counts."""

from securesystemslib.signer import Signer

from forge.admission.history import current_authority
from forge.attest.authority import Signers, public_key
from forge.attest.keys import signer_for, weights_signer_for
from forge.attest.signers import prove
from forge.attest.trust import read_trust_root
from forge.contract.kinds import Role, StepKind
from forge.errors import RefusedError, TrustError
from forge.plan.action import Plan
from forge.reconcile.place import Place
from forge.reconcile.timestamping import check_authority


def check_plan(place: Place, plan: Plan, approvals: int) -> None:
    """Raise RefusedError for a plan that may not be applied, and TrustError where a key for it is missing or does not count."""
    if plan.refusals:
        raise RefusedError("\n".join(plan.refusals))
    check_approved(place, plan, approvals)
    if plan.changes:
        _check_keys(place, plan)


def check_approved(place: Place, plan: Plan, approvals: int) -> None:
    """Raise RefusedError for a plan that needs more approvals than it has, also one that came to need them in the middle.

    Whoever has nothing of it to do needs none.
    """
    if plan.approvals > approvals and any(place.acts_on(action) for action in plan.changes):
        raise RefusedError(
            f"this plan needs the approval of {plan.approvals}: write it (`forge plan --out FILE`), have it approved "
            "(`forge approve FILE`), and apply again"
        )


def _check_keys(place: Place, plan: Plan) -> None:
    snapshot = place.ledger.snapshot()
    authority = current_authority(snapshot, read_trust_root(place.config))
    now = place.now().isoformat()
    check_authority(place, authority.charter)
    for step in dict.fromkeys(action.step or StepKind.RELEASE for action in plan.changes):
        if not place.acts_for(step):
            continue
        role = place.role_of(step)
        counting_signer(place, authority.signers(role, now), role)
        if step is StepKind.TRAIN:
            weights = weights_signer_for(place.config)
            prove(weights)
            listed = {public_key(pem).keyid for pem in authority.weights_keys(now)}
            if weights.public_key.keyid not in listed:
                raise TrustError(
                    f"the key for weights here ({weights.public_key.keyid[:12]}) does not count: neither the trust root "
                    "nor its supply chain lists it among the trainer's keys that are valid now"
                )


def counting_signer(place: Place, signers: Signers, role: Role) -> Signer:
    """The signer of a role on this machine; raises TrustError where it does not sign, or what it signs would not count."""
    signer = own_signer(place, signers, role)
    prove(signer)
    return signer


def own_signer(place: Place, signers: Signers, role: Role) -> Signer:
    """The same, without asking it to sign yet."""
    signer = signer_for(role, place.config)
    keyid = signer.public_key.keyid
    if not signers.count(keyid):
        refusal = next((f"{known.name} {known.refusal}" for known in signers.known if known.key.keyid == keyid), None)
        raise TrustError(
            f"the key of the {role.value} here ({keyid[:12]}) does not count: "
            f"{refusal or 'neither the trust root nor its supply chain lists it for this role'}"
        )
    return signer
