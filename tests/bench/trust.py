"""How long it takes to verify weights from the bytes up, against one sha256 pass over the same files; and to attest them.

Run as ``python tests/bench/trust.py [GIB] [FOLDER]`` (default 2, and this repository). A real chain of the small example, whose
training is then said, signed by all its keys, to have made weights of that size. Prints a table: medians of five, of which each
measures both, in turns, so that what else the machine does falls on both alike.

What attesting costs is measured on the example's own record in FOLDER, which ``make run`` leaves there: its weights are hashed,
its statements made and signed, and a record appended to a copy of its ledger, and that is held against the seconds that the
training took, as that record says.
"""

import gc
import hashlib
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.admission.test_attacks import bodies_of, record_of, rewrite, signed, store_of
from tests.bench.goals import Goals, at_most
from tests.conftest import DEPLOYMENT, ROOT, SUITE, commit_all, git, new_repository, run_forge, write_small

from forge import __version__
from forge.admission.verify import verify
from forge.attest.envelope import seal
from forge.attest.keys import make_development_keys, signer_for, weights_signer_for
from forge.attest.statements import payloads_of
from forge.attest.trust import read_trust_root
from forge.attest.weights import sign_weights
from forge.canonical import digest_of_bytes
from forge.contract.kinds import STEPS, Role, StepKind
from forge.contract.manifest import Manifest
from forge.contract.record import Record
from forge.contract.verdict import REPORT_FILE, VERDICT_FILE, Report
from forge.contract.verdict import check as decide
from forge.ledger.ledger import Draft, Ledger
from forge.plan.graph import build_graph
from forge.plan.step import Step, producers_of, step_key
from forge.repo.desired import read_desired
from forge.repo.repository import Repository
from forge.repo.tree import CommitTree
from forge.spec.deployment import Gate
from forge.spec.settings import read_settings
from forge.store.store import Store

RUNS = 5
RECORDS = 994
SHARDS = 4
LEDGER = "refs/forge/ledger"
EXAMPLE = "train/handbook"
_MOST_MIB = 16
"""What verifying may add in memory, whatever the size of the weights: a few buffers."""


def main(gibibytes: float, example: Path) -> None:
    """Measure and print."""
    goals = Goals()
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as scratch:
        folder, config = new_repository(Path(scratch) / "repository"), Path(scratch) / "config"
        make_development_keys(config)
        write_small(folder)
        commit_all(folder)
        run_forge(folder, config, "apply")
        manifest = large_weights(folder, Path(scratch) / "weights", int(gibibytes * 2**30))
        attested = timed(lambda: attest(folder, config, manifest))
        root, blobs = read_trust_root(config), [Path(path) for path in blobs_of(folder, manifest)]

        def check() -> None:
            with Repository(folder) as repository:
                snapshot = Ledger(repository, "refs/forge/ledger").snapshot()
                verdict = verify(manifest.digest, repository, snapshot, store_of(folder), root)
            if not verdict.holds:
                sys.exit("\n".join(str(finding) for finding in verdict.findings))

        once(blobs)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        pairs = [(timed(lambda: once(blobs)), timed(check)) for _ in range(RUNS)]
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        hashed, verified = (statistics.median(pair[side] for pair in pairs) for side in (0, 1))
        ratio = statistics.median(verify_seconds / hash_seconds for hash_seconds, verify_seconds in pairs)
        size = f"{manifest.size / 2**30:.2f} GiB in {SHARDS} files"
        print("| what | median of 5 | goal |\n|---|---|---|")
        print(f"| one sha256 pass over {size} | {hashed:.2f} s | |")
        print(f"| its chain verified from the bytes up | {verified:.2f} s | |")
        print(f"| ratio | {ratio:.2f} | {goals.judge('ratio', ratio, at_most(1.3))} |")
        flat = goals.judge("memory that verifying adds", grown / 1024, at_most(_MOST_MIB, "MiB"))
        print(f"| memory that verifying adds | {grown / 1024:.0f} MiB | {flat} |")
        print(f"| hashing and signing weights of {size} (once) | {attested:.2f} s | |")
        command = statistics.median(timed(lambda: run_forge(folder, config, "verify", manifest.digest)) for _ in range(RUNS))
        print(f"| `forge verify` of {size}, the whole command | {command:.2f} s | |")
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as scratch:
        seconds, entries = long_chain(Path(scratch))
        what = f"a chain of {entries:,} records with small artifacts, every signature and statement"
        print(f"| {what} | {seconds:.2f} s | {goals.judge(what, seconds, at_most(1, 's'))} |")
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as scratch:
        attest_example(example, Path(scratch), goals)
    print(f"\n{goals.summary()}")


def long_chain(scratch: Path) -> tuple[float, int]:
    """Seconds to verify a verdict that rests on a thousand records, median, and how many records there are.

    One model, evaluated under so many suites, each with a record of its own in a ledger of two hundred commits.
    """
    folder, config = new_repository(scratch / "repository"), scratch / "config"
    make_development_keys(config)
    write_small(folder)
    commit_all(folder)
    run_forge(folder, config, "apply")
    evaluated, gated = record_of(folder, "evaluate/small.small"), record_of(folder, "gate/small-local")
    gates = []
    for number in range(RECORDS):
        name = f"suite-{number:04d}"
        (folder / "evals" / f"{name}.yaml").write_text(
            SUITE.replace("name: small", f"name: {name}") + f"  seed: {number + 2}\n"
        )
        gates.append(
            f"    - suite: EvalSuite/{name}\n      thresholds: [{{task: small_bpb, metric: bits_per_byte, max: 7.0}}]\n"
        )
    head = DEPLOYMENT.split("  gates:")[0].replace("small-local", "small-wide").replace("local", "wide")
    (folder / "models" / "wide.yaml").write_text(head + "  gates:\n" + "".join(gates))
    commit = commit_all(folder)
    with Repository(folder) as repository:
        graph = build_graph(read_desired(CommitTree(repository, commit)))
        store, ledger = store_of(folder), Ledger(repository, "refs/forge/ledger")
        drafts = []
        for step in graph.values():
            if step.kind is StepKind.EVALUATE and step.name != "small.small":
                change = {"step_id": step.id, "parameters": dict(step.parameters), "commit": commit}
                drafts.append(drafted(evaluated.model_copy(update=change), step, store, config))
        for start in range(0, len(drafts), 5):
            ledger.append(drafts[start : start + 5])
        step = graph["gate/small-wide"]
        reports = dict.fromkeys(step.inputs, evaluated.products["report"])
        verdict = wide_verdict(folder, step, reports)
        change = {
            "step_id": step.id,
            "parameters": dict(step.parameters),
            "commit": commit,
            "inputs": reports,
            "products": {"verdict": verdict},
            "about": dict(gated.about),
        }
        ledger.append([drafted(gated.model_copy(update=change), step, store, config)])
        root = read_trust_root(config)

        def check() -> None:
            found = verify(verdict, repository, ledger.snapshot(), store, root)
            if not found.holds:
                sys.exit("\n".join(str(finding) for finding in found.findings[:5]))

        gc.disable()  # as `forge verify` does
        try:
            return statistics.median(timed(check) for _ in range(RUNS)), len(drafts) + 6
        finally:
            gc.enable()


def wide_verdict(folder: Path, step: Step, reports: Mapping[str, str]) -> str:
    """The digest of the verdict that a gate over some reports gives."""
    gates = [Gate.model_validate(gate) for gate in step.parameters["gates"]]
    report = Report.model_validate_json(store_of(folder).read_file(next(iter(reports.values())), REPORT_FILE))
    made = folder.parent / "verdict"
    made.mkdir()
    (made / VERDICT_FILE).write_bytes(decide(gates, [report] * len(gates)).to_bytes())
    return store_of(folder).put_folder(made).digest


def drafted(record: Record, step: Step, store: Store, config: Path) -> Draft:
    """A record that its commit asks for, signed by its role."""
    key = step_key(record.step, record.step_version, record.parameters, record.inputs)
    record = record.model_copy(update={"key": key, "attestations": {}, "supersedes": None})
    manifests = {digest: store.manifest(digest) for digest in {*record.inputs.values(), *record.products.values()}}
    producers = producers_of(step)
    documents = {
        digest: store.read_file(digest, VERDICT_FILE) for digest in record.products.values() if record.step is StepKind.GATE
    }
    payloads = payloads_of(record, manifests, producers, documents)
    sealed = {name: seal(payload, signer_for(STEPS[record.step].role, config)) for name, payload in payloads.items()}
    names = {name: str(digest_of_bytes(data)) for name, data in sealed.items()}
    return Draft(record.model_copy(update={"attestations": names}), tuple(sealed.values()))


def large_weights(folder: Path, source: Path, size: int) -> Manifest:
    """Weights of a size in the store, in shards of incompressible bytes behind a safetensors header."""
    source.mkdir()
    (source / "config.json").write_text("{}")
    for shard in range(SHARDS):
        with (source / f"model-{shard}.safetensors").open("wb") as file:
            file.write((2).to_bytes(8, "little") + b"{}")
            for _ in range(size // SHARDS >> 20):
                file.write(os.urandom(1 << 20))
    manifest = store_of(folder).put_folder(source)
    for path in source.iterdir():
        path.unlink()
    return manifest


def attest(folder: Path, config: Path, manifest: Manifest) -> None:
    """Hash the weights once more, and put a record of them into the ledger, signed by the trainer's keys."""
    store_of(folder).check(manifest.digest)
    trained = record_of(folder, "train/small").model_copy(update={"products": {"weights": manifest.digest}})
    record, sealed = signed(folder, config, trained, Role.TRAINER)
    signature = sign_weights(manifest, weights_signer_for(config))
    names = {**record.attestations, "weights-signature": str(digest_of_bytes(signature))}
    rewrite(folder, [*bodies_of(folder), record.model_copy(update={"attestations": names})], [*sealed, signature])


def attest_example(example: Path, scratch: Path, goals: Goals) -> None:
    """Measure and print what attesting the example's training takes, from its bytes to its entry in the ledger."""
    config, copy = scratch / "config", new_repository(scratch / "copy")
    make_development_keys(config)
    with Repository(example) as repository:
        record = Ledger(repository, LEDGER).snapshot().latest(EXAMPLE)
        if record is None:
            print(f"| attesting the example's training: {example} has no record of {EXAMPLE}; `make run` makes it | | |")
            return
        graph = build_graph(read_desired(CommitTree(repository, record.commit)))
        store = Store(read_settings((example / "forge.toml").read_bytes(), __version__).store.url, example)
    git(copy, "fetch", "--quiet", str(example), f"{LEDGER}:{LEDGER}")
    producers = producers_of(graph[EXAMPLE])

    def attest_again(ledger: Ledger, number: int) -> None:
        weights = store.check(record.products["weights"])
        manifests = {digest: store.manifest(digest) for digest in record.inputs.values()} | {weights.digest: weights}
        again = record.model_copy(update={"key": str(digest_of_bytes(str(number).encode())), "attestations": {}})
        sealed = {
            name: seal(payload, signer_for(Role.TRAINER, config))
            for name, payload in payloads_of(again, manifests, producers, {}).items()
        }
        sealed["weights-signature"] = sign_weights(weights, weights_signer_for(config))
        names = {name: str(digest_of_bytes(data)) for name, data in sealed.items()}
        ledger.append([Draft(again.model_copy(update={"attestations": names}), tuple(sealed.values()))])

    with Repository(copy) as repository:
        ledger = Ledger(repository, LEDGER)
        before = ledger.snapshot().head[0]
        took = [timed(partial(attest_again, ledger, number)) for number in range(RUNS + 1)][1:]
        if ledger.snapshot().head[0] != before + RUNS + 1:
            sys.exit("the ledger did not grow by what was appended")
    seconds, trained = statistics.median(took), record.actual.seconds
    what = f"hashing, stating, signing and appending {EXAMPLE}, which trained for {trained:.0f} s"
    judged = goals.judge("attesting the example's training", 100 * seconds / trained, at_most(1, "%"))
    print(f"| {what} | {seconds:.3f} s, {seconds / trained:.4%} | {judged} |")


def blobs_of(folder: Path, manifest: Manifest) -> list[str]:
    """The files that hold an artifact's bytes."""
    names = [file.sha256.removeprefix("sha256:") for file in manifest.files]
    return [str(folder / ".forge" / "store" / "blobs" / name[:2] / name) for name in names]


def once(paths: list[Path]) -> None:
    """One sha256 pass."""
    for path in paths:
        with path.open("rb") as file:
            hashlib.file_digest(file, "sha256")


def timed(work: Callable[[], object]) -> float:
    """Seconds that it takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 2.0, Path(sys.argv[2] if len(sys.argv) > 2 else ROOT).resolve())
