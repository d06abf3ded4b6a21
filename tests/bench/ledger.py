"""A ledger of 100,000 records: append, look up, read what is new. ``python tests/bench/ledger.py [RECORDS]``

The ledger is written by one ``git fast-import``: records of some 2 kB, two attestations each of 1 to 5 kB, four records under
each step id, 100 records a commit. Every figure is the median of five and stands beside a peer's in the same run: the plain git
commands that do the same, or SQLite alone.
"""

import base64
import hashlib
import json
import random
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.bench.goals import Goal, Goals, at_most

from forge.contract.record import Record
from forge.ledger.batch import Draft
from forge.ledger.entry import Entry, attestation_path, index_paths, sequence_path
from forge.ledger.ledger import Ledger
from forge.repo.repository import Repository

REF = "refs/forge/ledger"
GOALS = Goals()
KINDS = ("curate", "tokenizer", "tokenize", "train", "evaluate", "gate")
SUBJECTS = ("DataRecipe", "Tokenizer", "Tokenizer", "Model", "EvalSuite", "Deployment")


def digest(text: str) -> str:
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def record_fields(number: int, distinct_steps: int) -> dict[str, object]:
    """The body of a record, as its JSON has it."""
    step = number % distinct_steps
    kind, name = KINDS[step % 6], f"resource-{step // 6:06d}"
    metrics: dict[str, object] = {"verdict": "GO"} if kind == "gate" else {f"validation_loss_{part}": 2.5 for part in range(8)}
    return {
        "kind": "record", "key": digest(f"key {number}"), "step": kind, "step_version": 1, "step_id": f"{kind}/{name}",
        "subject": f"{SUBJECTS[step % 6]}/{name}", "parameters": {f"parameter_{part}": f"value {part}" for part in range(12)},
        "inputs": {name: digest(f"{name} {number}") for name in ("documents", "tokens", "vocabulary")},
        "products": {name: digest(f"{name} {number}") for name in ("weights", "report")}, "sources": {}, "metrics": metrics,
        "commit": hashlib.sha1(str(number // 40).encode(), usedforsecurity=False).hexdigest(), "attempt": 1,
        "started": "2026-01-01T00:00:00.000+00:00", "finished": "2026-01-01T00:00:01.000+00:00",
        "environment": {f"library_{part}": f"{part}.17.4" for part in range(16)}, "estimate": None,
        "actual": {"seconds": 1.5, "cost": None},
        "attestations": {}, "supersedes": None,
    }  # fmt: skip


def canonical(value: object) -> bytes:
    """RFC 8785 for what is in these records: ASCII, whole numbers and short fractions."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def stream(records: int, distinct_steps: int, batch: int = 100) -> Iterator[bytes]:
    """A fast-import stream that makes a ledger."""
    generator = random.Random(7)
    previous: str | None = None
    for first in range(1, records + 1, batch):
        last = min(first + batch - 1, records)
        files = []
        for sequence in range(first, last + 1):
            body = record_fields(sequence, distinct_steps)
            sealed = [base64.b64encode(generator.randbytes(generator.randint(750, 3750))) for _ in range(2)]
            names = ["sha256:" + hashlib.sha256(data).hexdigest() for data in sealed]
            body["attestations"] = {"link": names[0], "provenance": names[1]}
            data = canonical({"schema_version": 1, "sequence": sequence, "previous": previous, "body": body})
            previous = "sha256:" + hashlib.sha256(data).hexdigest()
            yield b"blob\nmark :%d\ndata %d\n%s\n" % (sequence, len(data), data)
            key, step_id, number = str(body["key"])[7:], body["step_id"], f"{sequence:09d}"
            for path in (
                sequence_path(sequence),
                f"keys/{key[:2]}/{key[2:4]}/{key}/{number}.json",
                f"steps/{step_id}/{number}.json",
            ):
                files.append(b"M 100644 :%d %s\n" % (sequence, path.encode()))
            for name, attestation in zip(names, sealed, strict=True):
                path = attestation_path(name).encode()
                files.append(b"M 100644 inline %s\ndata %d\n%s\n" % (path, len(attestation), attestation))
        message = f"forge: entries {first}-{last}\n\nForge-Head: {last} {previous}\n".encode()
        yield b"commit %s\ncommitter F <f@l> %d +0000\ndata %d\n%s\n" % (REF.encode(), first, len(message), message)
        yield from files
        yield b"\n"
    yield b"done\n"


def make_ledger(folder: Path, records: int, distinct_steps: int) -> None:
    """A bare repository with a ledger of so many records."""
    subprocess.run(["git", "init", "--quiet", "--bare", str(folder)], check=True)
    command = ["git", "-c", "pack.compression=1", "fast-import", "--quiet", "--done", "--date-format=raw"]
    with subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE) as importer:
        assert importer.stdin is not None
        for part in stream(records, distinct_steps):
            importer.stdin.write(part)
    assert importer.returncode == 0


def median(measure: Callable[[], object], runs: int = 5) -> float:
    """Median seconds."""
    taken = []
    for _ in range(runs):
        began = time.perf_counter()
        measure()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def new_draft(number: int, steps: int) -> Draft:
    attestations = (base64.b64encode(random.randbytes(2000)), base64.b64encode(random.randbytes(2000)))
    return Draft(Record.model_validate(record_fields(number, steps)), attestations)


def plain_append(folder: Path, number: int, steps: int) -> None:
    """What a person would do: hash-object, one mktree for each folder on the way, commit-tree, update-ref."""

    def git(*arguments: str, stdin: str = "") -> str:
        fsync = ["-c", "core.fsync=all"]
        done = subprocess.run(["git", *fsync, *arguments], cwd=folder, input=stdin, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    head = git("rev-parse", "refs/heads/peer")
    entry = Entry(sequence=number, previous=None, body=Record.model_validate(record_fields(number, steps)))
    blob = git("hash-object", "-w", "--stdin", stdin=entry.to_bytes().decode())
    root = head
    for path in (sequence_path(number), *index_paths(entry)):
        folders = path.split("/")[:-1]
        row = f"100644 blob {blob}\t{path.split('/')[-1]}"
        for depth in range(len(folders), -1, -1):
            place = "/".join(folders[:depth])
            listing = subprocess.run(
                ["git", "ls-tree", f"{root}:{place}"], cwd=folder, capture_output=True, text=True, check=False
            )
            name = row.split("\t")[1]
            rows = [line for line in listing.stdout.splitlines() if line.split("\t")[1] != name]
            tree = git("mktree", stdin="\n".join([*rows, row]) + "\n")
            row = f"040000 tree {tree}\t{folders[depth - 1] if depth else ''}"
        root = tree
    commit = git("commit-tree", "-p", head, "-m", "peer", root)
    git("update-ref", "refs/heads/peer", commit, head)


def show(label: str, seconds: float, unit: str = "ms", goal: Goal | None = None) -> None:
    figure = seconds * {"s": 1, "ms": 1e3, "us": 1e6}[unit]
    print(f"  {label:<42}{figure:9.2f} {unit:<4}{GOALS.judge(label, figure, goal)}".rstrip(), flush=True)


def measure(folder: Path, records: int, steps: int) -> None:
    with Repository(folder) as repository:
        ledger = Ledger(repository, REF)
        show("index built from nothing", median(lambda: ledger.snapshot().check(), 1), "s")
        numbers = iter(range(records + 1, 10 * records))
        for _ in range(3):  # git's helper processes start
            ledger.append([new_draft(next(numbers), steps)])
        show("append one record", median(lambda: ledger.append([new_draft(next(numbers), steps)])), goal=at_most(50, "ms"))
        subprocess.run(["git", "update-ref", "refs/heads/peer", REF], cwd=folder, check=True)
        show("  plain git commands", median(lambda: plain_append(folder, next(numbers), steps)))
        batch = [new_draft(next(numbers), steps) for _ in range(100)]
        show("append 100 in one batch", median(lambda: ledger.append(batch), 1))

        picks = random.Random(3)
        keys = [digest(f"key {picks.randint(1, records)}") for _ in range(10_000)]
        one = iter(keys)
        snapshot = ledger.snapshot()
        snapshot.check()
        show("look up a key, the full record", median(lambda: snapshot.record(next(one))), goal=at_most(5, "ms"))
        show("newest record of a step id, full", median(lambda: snapshot.latest("train/resource-000001")))
        show("look up a key in the index", median(lambda: snapshot.made(next(one))))
        name = sequence_path(records // 2)
        command = ["git", "cat-file", "blob", f"{REF}:{name}"]
        show("  git cat-file, one-shot", median(lambda: subprocess.run(command, cwd=folder, capture_output=True, check=True)))
        show("10,000 keys at once, each", median(lambda: snapshot.made_many(keys)) / len(keys), "us")
        alone = sqlite3.connect(next((folder / "forge").glob("*.sqlite")))
        blobs = [bytes.fromhex(item[7:]) for item in keys]

        def sqlite_alone() -> None:
            for blob in blobs:
                alone.execute("SELECT document FROM records WHERE key = ?", (blob,)).fetchall()

        show("  SQLite alone, one query each", median(sqlite_alone) / len(keys), "us")
        show("every subject", median(snapshot.subjects))
        new = []
        for _ in range(5):
            before = Ledger(repository, REF)
            before.snapshot().check()
            for _ in range(10):
                ledger.append([new_draft(next(numbers), steps) for _ in range(100)])
            new.append(median(lambda before=before: before.snapshot().check(), 1))
        show("read 1,000 new entries", statistics.median(new), goal=at_most(300, "ms"))
        plain = ["git", "log", "--raw", "--no-abbrev", "--format=", f"{REF}~10..{REF}"]
        show(
            "  git log --raw of the same commits",
            median(lambda: subprocess.run(plain, cwd=folder, capture_output=True, check=True)),
        )

        def fresh() -> None:
            with Repository(folder) as opened:
                Ledger(opened, REF).snapshot().made(keys[0])

        show("open a repository, head, one look-up", median(fresh))


def main(records: int) -> None:
    steps = max(6, records // 4)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "ledger.git"
        began = time.perf_counter()
        make_ledger(folder, records, steps)
        print(f"{records} records, {steps} step ids, written in {time.perf_counter() - began:.0f} s", flush=True)
        measure(folder, records, steps)
    print(GOALS.summary())


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
