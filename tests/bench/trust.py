"""How long it takes to verify weights from the bytes up, against one sha256 pass over the same files; and to attest them.

Run as ``python tests/bench/trust.py [GIB]`` (default 2). A real chain of the small example, whose training is then said, signed
by all its keys, to have made weights of that size. Prints a table: medians of five, of which each measures both, in turns, so
that what else the machine does falls on both alike.
"""

import hashlib
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.admission.test_attacks import bodies_of, record_of, rewrite, signed, store_of
from tests.conftest import commit_all, new_repository, run_forge, write_small

from forge.admission.verify import verify
from forge.attest.keys import make_development_keys, weights_signer_for
from forge.attest.trust import read_trust_root
from forge.attest.weights import sign_weights
from forge.canonical import digest_of_bytes
from forge.contract.kinds import Role
from forge.contract.manifest import Manifest
from forge.ledger.ledger import Ledger
from forge.repo.repository import Repository

RUNS = 5
SHARDS = 4
_TRAINING_SECONDS = 120.0
"""What the example trains for (README)."""


def main(gibibytes: float) -> None:
    """Measure and print."""
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
        print(f"| ratio | {ratio:.2f} | 1.3 |")
        print(f"| memory that verifying adds | {grown / 1024:.0f} MiB | flat |")
        small = record_of(folder, "train/small")
        example = statistics.median(timed(lambda: attest_only(folder, config, small.products["weights"])) for _ in range(RUNS))
        print(f"| hashing and signing weights of {size} (once) | {attested:.2f} s | |")
        share = example / _TRAINING_SECONDS
        print(f"| the same for the small example | {example:.3f} s, {share:.2%} of {_TRAINING_SECONDS:.0f} s | 1% |")
        command = statistics.median(timed(lambda: run_forge(folder, config, "verify", manifest.digest)) for _ in range(RUNS))
        print(f"| `forge verify` of {size}, the whole command | {command:.2f} s | |")


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


def attest_only(folder: Path, config: Path, weights: str) -> None:
    """Hash and sign, without the ledger."""
    manifest = store_of(folder).check(weights)
    signed(folder, config, record_of(folder, "train/small"), Role.TRAINER)
    sign_weights(manifest, weights_signer_for(config))


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
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 2.0)
