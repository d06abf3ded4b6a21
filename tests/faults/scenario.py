"""What a runner does to the ledger, as a program that can be killed anywhere and started again."""

import multiprocessing
from pathlib import Path

from tests.ledger.conftest import REF, make_record, make_release

from forge import faults
from forge.canonical import digest_of_bytes
from forge.ledger import ledger as ledger_module
from forge.ledger.leases import Leases
from forge.ledger.ledger import Draft, Ledger
from forge.repo.repository import Repository


def run_scenario(folder: Path, remote: str | None, fault: str = "", log: str = "", names: str = "a") -> None:
    """Take a lease, renew it, record the step and its release; take over what a dead run left; mend a damaged index."""
    faults._FAULT, faults._LOG, faults._IS_ARMED = fault, log, bool(fault or log)
    faults._reached.clear()
    ledger_module._PACKS = 1
    with Repository(folder) as repository:
        ledger = Ledger(repository, REF, remote)
        ledger.connect()
        leases = Leases(ledger)
        for number, name in enumerate(names, 1):
            record = make_record(name)
            if ledger.fetch().made(record.key) is None:
                dead = leases.current().get(record.key)
                lease = leases.take_over(dead) if dead else leases.take(record.key, record.step_id, record.commit)
                lease = leases.beat(lease, {"job": name})
                drafts = [Draft(record, (name.encode(),)), Draft(make_release("prod", name, number))]
                ledger.append(drafts, ended=[lease])
        leases.tidy()
        ended = make_record("ended")
        dead = leases.current().get(ended.key)
        leases.end(leases.take_over(dead) if dead else leases.take(ended.key, ended.step_id, ended.commit))
        ledger._index.close()
        for path in sorted((folder / ".git" / "forge").glob("ledger-index.*.sqlite")):
            path.write_bytes(b"damaged")
        ledger.snapshot().check()


def in_a_process(folder: Path, remote: str | None, fault: str = "", log: str = "", names: str = "a") -> int:
    """Run the scenario in a process of its own; returns its exit status (-9 where it was killed)."""
    process = multiprocessing.get_context("fork").Process(target=run_scenario, args=(folder, remote, fault, log, names))
    process.start()
    process.join(120)
    assert process.exitcode is not None, "it hangs"
    return process.exitcode


def final_state(folder: Path, remote: str | None, names: str = "a") -> dict[str, object]:
    """Everything that has to be the same however often a run was killed; checked on the way."""
    with Repository(folder) as repository:
        ledger = Ledger(repository, REF, remote)
        snapshot = ledger.fetch()
        snapshot.check()
        for name in names:
            assert snapshot.record(make_record(name).key) == make_record(name)
            assert snapshot.attestation(digest_of_bytes(name.encode())) == name.encode()
        assert snapshot.release("prod") == make_release("prod", names[-1], len(names))
        return {"head": snapshot.head, "leases": dict(Leases(ledger).current()), "subjects": snapshot.subjects()}
