"""The transparency log: appending, proving, checking. ``python tests/bench/tlog.py [LEAVES]``

Audit lines of the length that the gateway writes, in a folder on this machine's disk. Every figure is the median of five
(checking all: of three). The peer in the same run is the disk itself: the same bytes in one file with one fsync, and one fsync
of one line.
"""

import datetime
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.bench.goals import Goals

from forge.serve.audit import AuditRecord
from forge.tlog.check import check_log
from forge.tlog.feed import Feed
from forge.tlog.log import open_writer
from forge.tlog.proof import check_proof, prove
from forge.tlog.seals import Seals
from forge.tlog.witness import Witness

ORIGIN = "example.org/forge/audit/prod"
LINES = 10_000


def audit_line(number: int) -> bytes:
    """A line as the gateway writes it."""
    moment = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(milliseconds=number)
    return AuditRecord(
        time=moment.isoformat(timespec="milliseconds"), request_id=f"{number:032x}", role="reader", key_id="0123456789abcdef",
        route="chat", model="handbook", weights_digest="sha256:" + "a" * 64, policy_digest="sha256:" + "b" * 64,
        release_digest="sha256:" + "c" * 64, decision="allowed", policies=("readers-ask",), reason=None, status=200,
        prompt_tokens=120, completion_tokens=256, stream=True, duration_seconds=1.25, redactions={"email": 1},
    ).to_line()  # fmt: skip


def median(act: Callable[[], object], times: int = 5) -> float:
    """Seconds."""
    found = []
    for _ in range(times):
        begin = time.perf_counter()
        act()
        found.append(time.perf_counter() - begin)
    return statistics.median(found)


def synced(path: Path, data: bytes) -> None:
    """The peer."""
    with path.open("ab") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def main(leaves: int) -> None:
    """Print the table."""
    lines = [audit_line(number) for number in range(LINES)]
    print(f"{LINES} lines of {len(lines[0])} bytes; proofs in a log of {leaves} leaves\n")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        private = Ed25519PrivateKey.generate()
        numbers = iter(range(1000))

        def feed_all() -> None:
            place = folder / f"feed-{next(numbers)}"
            (place / "audit").mkdir(parents=True)
            (place / "audit" / "requests-2030-01-01.jsonl").write_bytes(b"".join(lines))
            with open_writer(place / "log", ORIGIN, private, Seals(place / "seals")) as writer:
                Feed(writer, place / "audit").poll()

        show(f"{LINES} lines into a new log", median(feed_all))
        show("  the same bytes into one file, one fsync", median(lambda: synced(folder / "peer", b"".join(lines))))
        with open_writer(folder / "log", ORIGIN, private, Seals(folder / "seals")) as writer:
            for begin in range(0, leaves, LINES):
                writer.append([b"%d " % begin + line[:-1] for line in lines[: leaves - begin]])
            show("100 lines, one append", median(lambda: writer.append([line[:-1] for line in lines[:100]])))
            show("1 line, one append", median(lambda: writer.append([lines[0][:-1]])))
            show("  1 line into one file, one fsync", median(lambda: synced(folder / "peer", lines[0])))
            view = writer.view()
        key = writer.key
        show("proof of one leaf", median(lambda: prove(view, leaves // 3)))
        proof = prove(view, leaves // 3)
        print(f"{'size of the proof file':<44}{len(proof.to_bytes()):>10} bytes, {len(proof.hashes)} hashes")
        show("checking a proof", median(lambda: check_proof(proof, key)))
        witness = Witness("w.example", Ed25519PrivateKey.generate(), Seals(folder / "witness"), time.time)
        show("a witness's look", median(lambda: witness.cosign(folder / "log", key)))
        show(f"hashing all {view.size} leaves again", median(lambda: check_log(view), 3))
        size = sum(path.stat().st_size for path in (folder / "log").rglob("*") if path.is_file())
        entries = sum(len(entry) for entry in view.entries())
        print(f"{'size on the disk':<44}{size / 2**20:>10.1f} MiB, {size / entries:.2f} times the lines'")
    print(f"\n{Goals().summary()}")


def show(what: str, seconds: float) -> None:
    """One line of the table."""
    print(f"{what:<44}{seconds * 1000:>10.2f} ms")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
