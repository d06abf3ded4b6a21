"""Curation beside datatrove's own default pipeline: same documents, filters, thresholds and cores, in one run, as Markdown.

    python tests/bench/curate.py [--megabytes 4] [--runs 5] [--scratch FOLDER] [--without-datatrove]

The corpus is the example's manuals, varied by a fixed seed: copies, near copies (words dropped, a paragraph added) and
documents with shuffled sentences, so that every filter and every kind of duplicate has work. datatrove's half is its
LocalPipelineExecutor with blocks as they ship, words split by spaCy (an environment overlay made of
locks/bench-curate.txt): GopherRepetition, GopherQuality, exact deduplication, MinHash in four stages, JSON lines in and out;
what it takes for a corpus of a few documents, which is starting its processes, stands beside it. Ours also redacts and splits.
Processor seconds are those of all our processes: they say what a busy machine hides.
"""

import argparse
import contextlib
import gzip
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.bench.goals import Goals, at_least  # noqa: E402

GOALS = Goals()
CORPUS = ROOT / "models" / "handbook" / "corpus"
LOCK = ROOT / "locks" / "bench-curate.txt"
CORES = 2
SPLIT = {"validation_fraction": 0.01}
RECIPE: dict[str, Any] = {
    "filters": {"gopher_repetition": {}, "gopher_quality": {"max_non_alpha_words_ratio": 0.5}},
    "dedup": {"exact": True, "minhash": {}},
    "split": SPLIT,
}
OURS = """
import json, sys, time
from pathlib import Path
from forge.contract.kinds import StepKind
from forge.contract.messages import InputArtifact, Resources, StepRequest
from forge.steps import curate
from forge.steps.run import StepRun
recipe, source, folder, threads = json.loads(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
(folder / "output").mkdir(parents=True)
digest = "sha256:" + "0" * 64
request = StepRequest(
    step=StepKind.CURATE, step_version=1, key=digest, subject="DataRecipe/bench", parameters={**recipe, "sources": [{}]},
    inputs={"source-0": InputArtifact(digest=digest, path=source)}, output=str(folder / "output"),
    scratch=str(folder / "scratch"), attempt=1, resources=Resources(threads=threads),
)
began = time.monotonic()
curate.run(StepRun(request, folder))
print(time.monotonic() - began)
"""
THEIRS = """
import sys, time
from datatrove.data import Document
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import (
    ExactDedupFilter, ExactDedupSignature, ExactFindDedups, MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.dedup.exact_dedup import ExactDedupConfig
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter

def text(document: Document) -> str:
    return document.text

if __name__ == "__main__":
    source, folder, cores = sys.argv[1], sys.argv[2], int(sys.argv[3])
    files = lambda name: f"{folder}/{name}"
    read = lambda name: JsonlReader(files(name), add_file_path=False)
    write = lambda name: JsonlWriter(files(name), "${rank}.jsonl", compression=None)
    exact, near = ExactDedupConfig(content_getter=text), MinhashConfig()
    def stage(name, pipeline, tasks=cores):
        LocalPipelineExecutor(pipeline, tasks=tasks, workers=cores, logging_dir=files("logs-" + name)).run()
    began = time.monotonic()
    filters = [
        GopherRepetitionFilter(exclusion_writer=write("dropped-repetition")),
        GopherQualityFilter(max_non_alpha_words_ratio=0.5, exclusion_writer=write("dropped-quality")),
    ]
    stage("filter", [JsonlReader(source, add_file_path=False), *filters, write("filtered")])
    stage("exact-1", [read("filtered"), ExactDedupSignature(files("exact-1"), exact)])
    stage("exact-2", [ExactFindDedups(files("exact-1"), files("exact-2"), exact)], tasks=1)
    stage("exact-3", [read("filtered"), ExactDedupFilter(files("exact-2"), exact), write("unequal")])
    stage("near-1", [read("unequal"), MinhashDedupSignature(files("near-1"), near)])
    stage("near-2", [MinhashDedupBuckets(files("near-1"), files("near-2"), config=near)], tasks=near.num_buckets)
    stage("near-3", [MinhashDedupCluster(files("near-2"), files("near-3"), config=near)], tasks=1)
    stage("near-4", [read("unequal"), MinhashDedupFilter(files("near-3")), write("kept")])
    print(time.monotonic() - began)
"""


@dataclass(frozen=True)
class Run:
    """One run of one side."""

    seconds: float
    processor_seconds: float
    peak_mib: float
    """Of the process and of the largest of its children, together with every other worker taken to be as large."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=4)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--scratch", type=Path, help="keep corpora and results here")
    parser.add_argument("--without-datatrove", action="store_true")
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        scratch = arguments.scratch or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="forge-bench-")))
        once, tenfold = (corpus(scratch / f"corpus-{size}", size) for size in (arguments.megabytes, 10 * arguments.megabytes))
        size = sum(path.stat().st_size for path in once.iterdir()) / 1e6
        print(f"{size:.1f} MB, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n")
        print(f"| | median of {arguments.runs} | processor | MB/s | peak memory |\n|---|---|---|---|---|", flush=True)
        sides: dict[str, list[Run]] = {"datatrove": [], "ours": [], "ours, one process": []}
        for _ in range(arguments.runs):  # in turns: what else the machine does meets both sides
            if not arguments.without_datatrove:
                sides["datatrove"].append(theirs(once, scratch, CORES))
            sides["ours"].append(ours(once, scratch / "ours", CORES))
            sides["ours, one process"].append(ours(once, scratch / "ours-1", 1))
        for name, runs in sides.items():
            show(name, runs, size)
        if not arguments.without_datatrove:
            few = corpus(scratch / "corpus-few", 0)
            show(
                "datatrove, a few documents", [theirs(few, scratch, CORES)], sum(f.stat().st_size for f in few.iterdir()) / 1e6
            )
        large = [ours(tenfold, scratch / "ours-10", CORES)]
        show("ours, 10 times the corpus", large, 10 * size)
        large.append(ours(tenfold, scratch / "ours-10-1", 1))
        show("the same, one process", large[1:], 10 * size)
        seconds = {name: statistics.median(run.seconds for run in runs) for name, runs in sides.items() if runs}
        if "datatrove" in seconds:
            print()
            tell("times datatrove", seconds["datatrove"] / seconds["ours"], 5)
        tell("two processes to one, 10 times the corpus", large[1].seconds / large[0].seconds, 1.8)
        print(f"Memory at 10 times the corpus: {large[0].peak_mib / max(run.peak_mib for run in sides['ours']):.2f} times")
        if "datatrove" in seconds:
            agree(once, scratch)
    print(GOALS.summary())


def tell(what: str, figure: float, floor: float, unit: str = "") -> None:
    """One figure with its goal."""
    print(f"{what}: {figure:.2f}{unit} ({GOALS.judge(what, figure, at_least(floor, unit))})")


def show(name: str, runs: list[Run], megabytes: float) -> None:
    """One row of the table."""
    if runs:
        seconds = statistics.median(run.seconds for run in runs)
        processor = statistics.median(run.processor_seconds for run in runs)
        used = "" if name.startswith("datatrove") else f"{processor:.2f} s"  # its workers are no children of its process
        peak = max(run.peak_mib for run in runs)
        print(f"| {name} | {seconds:.2f} s | {used} | {megabytes / seconds:.2f} | {peak:.0f} MiB |", flush=True)


def corpus(folder: Path, megabytes: int) -> Path:
    """A folder with as many JSON lines files as there are cores, some megabytes of text altogether."""
    if folder.is_dir():
        return folder
    manuals = []
    for path in sorted(CORPUS.glob("*.jsonl.gz")):
        manuals += [json.loads(line)["text"] for line in gzip.decompress(path.read_bytes()).splitlines()]
    folder.mkdir(parents=True)
    generator = random.Random(17)
    with contextlib.ExitStack() as stack:
        files = [
            stack.enter_context((folder / f"{number:05d}.jsonl").open("w", encoding="utf-8", newline="\n"))
            for number in range(CORES)
        ]
        written = 0
        for number, text in enumerate(varied(manuals, generator)):
            if written > megabytes * 1e6 and number > 64 * CORES:
                return folder
            written += files[number // 64 % CORES].write(json.dumps({"id": str(number), "text": text}) + "\n")
    raise AssertionError("varied never ends")


def varied(manuals: list[str], generator: random.Random) -> Iterator[str]:
    """The manuals once, with some copies and near copies; then again and again with their sentences shuffled."""
    for text in manuals:
        yield text
        chance = generator.random()
        if chance < 0.05:
            yield text
        elif chance < 0.15:
            yield " ".join(word for word in text.split(" ") if generator.random() > 0.01) + "\n\nThe end of this copy.\n"
    while True:
        for text in manuals:
            sentences = text.split(". ")
            other = generator.choice(manuals).split(". ")
            generator.shuffle(sentences)
            yield ". ".join([*sentences, *other[: len(sentences)]])


def ours(source: Path, folder: Path, processes: int) -> Run:
    """The curate step, in a process of its own."""
    shutil.rmtree(folder, ignore_errors=True)
    return measured([sys.executable, "-c", OURS, json.dumps(RECIPE), source, folder, str(processes)], processes)


def theirs(source: Path, scratch: Path, cores: int) -> Run:
    """datatrove's pipeline."""
    overlay, folder, script = scratch / "spacy", scratch / f"datatrove-{source.name}", scratch / "datatrove_pipeline.py"
    if not overlay.exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", overlay, "-r", LOCK]
        subprocess.run(pip, check=True)
    shutil.rmtree(folder, ignore_errors=True)
    script.write_text(THEIRS, encoding="utf-8")
    return measured([sys.executable, script, source, folder, str(cores)], cores, {"PYTHONPATH": str(overlay)})


def measured(command: list[str | Path], processes: int, environment: dict[str, str] | None = None) -> Run:
    """Seconds that the command itself says; processor time and peak memory that the kernel says."""
    wrapper = (
        "import resource, subprocess, sys\n"
        "done = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(done.stdout.split()[-1] if done.returncode == 0 else sys.exit(done.stderr[-3000:]))\n"
        "print(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", wrapper, *map(str, command)],
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    seconds, processor, peak = map(float, done.stdout.split())
    return Run(seconds, processor, peak * (processes if processes == 1 else processes + 1))


def agree(source: Path, scratch: Path) -> None:
    """On how many documents do both decide alike, and why not on the others?"""
    texts = {}
    for path in sorted(source.iterdir()):
        for line in path.open(encoding="utf-8"):
            row = json.loads(line)
            texts[row["id"]] = row["text"]
    peer = scratch / f"datatrove-{source.name}"
    theirs_kept, ours_kept = read_ids(peer / "kept"), read_ids(scratch / "ours" / "output" / "documents")
    differing = sorted(theirs_kept ^ ours_kept, key=int)
    share = 1 - len(differing) / len(texts)
    print()
    tell("decisions alike", 100 * share, 98, "%")
    print(f"Of {len(texts)} documents datatrove keeps {len(theirs_kept)}, ours {len(ours_kept)}")
    dropped = {
        row["id"]: row["metadata"].get("filter_reason", "?")
        for stage in ("dropped-repetition", "dropped-quality")
        for path in (peer / stage).glob("*.jsonl")
        for row in map(json.loads, path.open(encoding="utf-8"))
    }
    reasons = own_reasons([(name, texts[name]) for name in differing])
    rows = [
        f"{name}: kept by {'datatrove' if name in theirs_kept else 'ours'};"
        f" datatrove: {'kept' if name in theirs_kept else dropped.get(name, 'duplicate')},"
        f" ours: {'kept' if name in ours_kept else reasons.get(name, 'duplicate')}"
        for name in differing
    ]
    for reason, count in Counter(row.split("; ", 1)[1] for row in rows).most_common():
        print(f"- {count} x {reason}")
    (scratch / "differing.txt").write_text("\n".join(rows) + "\n", encoding="utf-8")
    print("\n".join(rows))


def read_ids(folder: Path) -> set[str]:
    """The ids of all documents below a folder."""
    return {json.loads(line)["id"] for path in folder.rglob("*.jsonl") for line in path.open(encoding="utf-8")}


def own_reasons(documents: list[tuple[str, str]]) -> dict[str, str]:
    """The rule that drops a document here; nothing for one that no filter drops."""
    from forge.spec.data_recipe import Filters
    from forge.steps.curate.documents import Document
    from forge.steps.curate.sieve import Sieve

    found = {}
    sieve = Sieve(Filters.model_validate(RECIPE["filters"]))
    for name, text in documents:
        removed = Counter[str]()
        sieve.sift([Document(name, text)], removed)
        found |= {name: rule for rule in removed}  # noqa: B035 (one at most)
    return found


if __name__ == "__main__":
    main()
