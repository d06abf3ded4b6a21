"""What serving agents say of themselves, held against what the ledger says that they should serve."""

from collections.abc import Mapping

from forge.admission.history import current_authority
from forge.admission.status import StatusFault, StatusReading, StatusWatch, read_status
from forge.attest.trust import read_trust_root
from forge.contract.kinds import Role
from forge.contract.status import AgentState
from forge.plan.health import Health
from forge.reconcile.place import Place

_ON_ITS_WAY = frozenset({AgentState.STARTING, AgentState.SWITCHING})


def readings(place: Place) -> dict[str, StatusReading]:
    """The status of each environment that was ever released to; raises TrustError where no trust root is pinned."""
    root = read_trust_root(place.config)
    refs = place.ledger.refs
    refs.refresh()
    snapshot = place.ledger.snapshot()
    signers = current_authority(snapshot, root).signers(Role.AGENT, place.now().isoformat())
    return {name: read_status(refs, place.repository, name, signers) for name in snapshot.environments()}


def trouble_with_serving(place: Place, watch: StatusWatch) -> dict[str, tuple[Health, str]]:
    """Environment -> health and words, for each whose agent does not serve what it should. One without an agent is left out."""
    pointers = place.ledger.snapshot().pointers()
    wanted = {name: pointer.release for name, pointer in pointers.items()}
    found = {}
    for name, reading in readings(place).items():
        judged = _judge(reading, wanted, watch)
        if judged is not None:
            found[name] = judged
    return found


def _judge(reading: StatusReading, wanted: Mapping[str, str], watch: StatusWatch) -> tuple[Health, str] | None:
    status = reading.status
    if status is None:
        return None if reading.fault is StatusFault.ABSENT else (Health.DEGRADED, reading.message)
    if status.state in (AgentState.STOPPED, AgentState.WITHDRAWN):
        what = "has stopped" if status.state is AgentState.STOPPED else "serves nothing"
        return Health.DEGRADED, f"its agent on {status.host} {what}: {status.reason or 'told to'}"
    if watch.is_silent(status):
        return Health.DEGRADED, f"its agent on {status.host} has not been heard of since {status.time}"
    if status.state is AgentState.DEGRADED:
        return Health.DEGRADED, f"its agent on {status.host}: {status.reason}"
    if status.state in _ON_ITS_WAY or status.release != wanted.get(reading.environment):
        serves = status.release or "nothing"
        return Health.PROGRESSING, f"its agent on {status.host} is {status.state} and serves {serves}"
    return None
