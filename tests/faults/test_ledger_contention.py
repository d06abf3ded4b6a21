"""Many writers at once: nothing is lost, nobody starves, history stays linear, tokens grow, and no clock matters."""

import json
import multiprocessing
import statistics
import time
from pathlib import Path

import pytest
from tests.conftest import git, new_repository
from tests.ledger.conftest import REF, make_record

from forge.ledger.leases import Leases
from forge.ledger.ledger import Draft, Ledger
from forge.repo.repository import Repository

WRITERS = 8
COMMIT = "c" * 40


def write(folder: Path, remote: str | None, writer: int, batches: int, size: int, out: Path) -> None:
    """Append batches as a reconcile pass does, each under a lease; this process's clock is off by up to an hour."""
    skew = (writer / (WRITERS - 1) - 0.5) * 7200
    with Repository(folder) as repository:
        ledger = Ledger(repository, REF, remote, clock=lambda: time.time() + skew)
        leases = Leases(ledger)
        tokens, waits = [], []
        for batch in range(batches):
            records = [make_record(f"w{writer}-{batch}-{number}") for number in range(size)]
            lease = leases.take(records[0].key, records[0].step_id, COMMIT)
            tokens.append(lease.token)
            began = time.monotonic()
            ledger.append([Draft(record, (record.key.encode(),)) for record in records], ended=[lease])
            waits.append(time.monotonic() - began)
        report = {"wait": max(waits), "usual": statistics.median(waits), "total": sum(waits)}
        out.write_text(json.dumps({"tokens": tokens, "attempts": ledger.most_attempts, **report}))


def contend(tmp_path: Path, remote: str | None, batches: int, size: int) -> list[dict[str, object]]:
    folders = [new_repository(tmp_path / f"w{writer if remote else 0}") for writer in range(WRITERS)]
    if remote:
        git(tmp_path, "init", "--quiet", "--bare", "shared.git")
        for folder in folders:
            git(folder, "remote", "add", remote, str(tmp_path / "shared.git"))
    context = multiprocessing.get_context("fork")
    outs = [tmp_path / f"out{writer}" for writer in range(WRITERS)]
    processes = [
        context.Process(target=write, args=(folders[writer], remote, writer, batches, size, outs[writer]))
        for writer in range(WRITERS)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    said = [json.loads(out.read_text()) for out in outs]
    with Repository(folders[0]) as repository:
        ledger = Ledger(repository, REF, remote)
        snapshot = ledger.fetch()
        expected = [make_record(f"w{w}-{b}-{n}") for w in range(WRITERS) for b in range(batches) for n in range(size)]
        assert snapshot.head[0] == len(expected)
        made = snapshot.made_many(record.key for record in expected)
        assert {key: item.products for key, item in made.items()} == {record.key: record.products for record in expected}
        assert sorted(item.sequence for item in made.values()) == list(range(1, len(expected) + 1))
        assert Leases(ledger).current() == {}
        assert git(repository.root, "rev-list", "--min-parents=2", REF) == ""
        assert int(git(repository.root, "rev-list", "--count", REF)) == WRITERS * batches
    for report in said:
        assert report["tokens"] == sorted(report["tokens"])
    assert sorted(token for report in said for token in report["tokens"]) == list(range(1, WRITERS * batches + 1))
    return said


def show(said: list[dict[str, object]]) -> None:
    for report in said:
        print(f"most attempts {report['attempts']}, longest append {report['wait']:.2f} s, all {report['total']:.1f} s")


def test_eight_processes_append_to_one_ledger(tmp_path: Path) -> None:
    said = contend(tmp_path, None, batches=3, size=4)
    show(said)
    assert max(report["attempts"] for report in said) <= 3  # the lock is fair: only a heartbeat or a gc can come between


def test_eight_clones_append_to_one_remote(tmp_path: Path) -> None:
    said = contend(tmp_path, "origin", batches=2, size=4)
    show(said)


@pytest.mark.soak
def test_eight_processes_append_500_records_each(tmp_path: Path) -> None:
    said = contend(tmp_path, None, batches=20, size=25)
    show(said)
    assert max(report["attempts"] for report in said) <= 3
    waits = [report["usual"] for report in said]  # not the longest: one of them joins the packs for all
    assert max(waits) < 4 * min(waits)  # who starts first or ends last has fewer beside him; who starves waits for all others


@pytest.mark.soak
def test_eight_clones_append_500_records_each(tmp_path: Path) -> None:
    said = contend(tmp_path, "origin", batches=20, size=25)
    show(said)
    assert max(report["attempts"] for report in said) <= 30
