"""How fast planning is: the whole table of large repositories, medians of five, as Markdown.

    python tests/bench/plan.py [--resources 10000] [--large 100000] [--scratch FOLDER] [--without-dvc]

Whole process: ``forge plan`` from start to exit. Own work: the second of two plans in one process, so that Python's start
and imports are not in it. DVC runs beside it on the same stages in an environment of its own, made of locks/bench.txt.
"""

import argparse
import gc
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from forge.plan.desired import Desired
from forge.plan.graph import build_graph
from forge.plan.step import FromStep
from forge.repo.cache import FILE, SpecCache
from forge.repo.desired import read_desired
from forge.repo.repository import Repository
from forge.repo.tree import CommitTree

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.bench import generator
from tests.bench.goals import Goal, Goals, at_least, at_most

FORGE = Path(sys.executable).with_name("forge")
LOCK = Path(__file__).resolve().parents[2] / "locks" / "bench.txt"
RUNS = 5
GOALS = Goals()
PEAK = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)
"""
"""In a small process of its own: what a child reports as its peak is at least what its parent held when it was started."""
CHANGED = 10
MOST_PARSES = 20
STAGES = 1000
OWN_WORK = """
import contextlib, gc, io, sys, time
from forge.cli.main import app
def once():
    with contextlib.redirect_stdout(io.StringIO()):
        try: app(["plan"], standalone_mode=False)
        except SystemExit as end: assert not end.code, end.code
once()
gc.collect()
began = time.perf_counter()
once()
print(time.perf_counter() - began)
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resources", type=int, default=10_000)
    parser.add_argument("--large", type=int, default=100_000, help="0 leaves the growth out")
    parser.add_argument("--scratch", type=Path, help="keep the repositories here")
    parser.add_argument("--without-dvc", action="store_true")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        scratch = arguments.scratch or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="forge-bench-")))
        scratch.mkdir(parents=True, exist_ok=True)
        print(
            f"| work ({os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}) | median of {RUNS} | goal |\n|---|---|---|",
            flush=True,
        )
        folder = applied(scratch / f"n{arguments.resources}", arguments.resources)
        measure(folder, arguments.resources)
        if arguments.large:
            grow(scratch, folder, arguments)
        if not arguments.without_dvc:
            compare_with_dvc(scratch)
    print(f"\n{GOALS.summary()}")


def applied(folder: Path, resources: int) -> Path:
    """A repository in which everything was applied."""
    if not (folder / ".git").exists():
        generator.write_repository(folder, resources)
        generator.write_history(folder)
    return folder


def measure(folder: Path, resources: int) -> None:
    """The rows about one repository."""
    plan(folder)
    row(f"no-op plan of {resources:,} resources, whole process", median(lambda: plan(folder)), at_most(1.0, "s"))
    row("of which the engine's own work", median(lambda: own_work(folder)), at_most(0.3, "s"))
    read, build = zip(*(reading(folder) for _ in range(RUNS)), strict=True)
    row(
        "of which desired state and graph, if both are built in full",
        statistics.median(map(sum, zip(read, build, strict=True))),
    )
    times, parts = [], []
    start = int(time.time())  # seeds that no earlier run of this bench has used
    for seed in range(start, start + 2 * RUNS, 2):
        commit = generator.change_models(folder, resources, CHANGED, seed=seed)
        parses, seconds = changed_reading(folder)
        if parses > MOST_PARSES:
            sys.exit(f"commit {commit}: {parses} files were parsed, at most {MOST_PARSES} may be")
        parts.append(seconds)
        generator.change_models(folder, resources, CHANGED, seed=seed + 1)
        times.append(plan(folder))
    row(f"{CHANGED} of {resources:,} changed, whole process", statistics.median(times), at_most(1.2, "s"))
    row(f"of which desired state and graph ({parses} YAML parses)", statistics.median(parts))
    row("cold, no cache, whole process", median(lambda: cold(folder)), at_most(6, "s"))


def grow(scratch: Path, folder: Path, arguments: argparse.Namespace) -> None:
    """Ten times as many resources, nothing changed and ten models changed, and the memory that it takes."""
    sizes = {folder: arguments.resources, applied(scratch / f"n{arguments.large}", arguments.large): arguments.large}
    title = f"growth from {arguments.resources:,} to {arguments.large:,}, warm"
    idle: list[float] = []
    for place, resources in sizes.items():
        generator.change_models(place, resources, CHANGED, seed=0)  # what is recorded
        plan(place)
        idle.append(median(lambda place=place: plan(place)))
    growth = idle[1] / idle[0]
    judged = GOALS.judge(f"{title}, no-op", growth, at_most(12, "times"))
    print(f"| {title}, no-op | {growth:.1f} times ({idle[1]:.2f} s) | {judged} |", flush=True)
    changed: list[float] = []
    peaks: list[int] = []
    for place, resources in sizes.items():
        times = []
        for seed in range(int(time.time()), int(time.time()) + RUNS):
            generator.change_models(place, resources, CHANGED, seed=seed)
            times.append(plan(place))
        changed.append(statistics.median(times))
        peaks.append(peak(place))
    growth = changed[1] / changed[0]
    judged = GOALS.judge(f"{title}, {CHANGED} changed", growth, at_most(12, "times"))
    print(f"| {title}, {CHANGED} changed | {growth:.1f} times ({changed[1]:.1f} s) | {judged} |", flush=True)
    print(f"| peak memory of a plan with {CHANGED} changed | {peaks[0]} MiB and {peaks[1]} MiB | |", flush=True)


def compare_with_dvc(scratch: Path) -> None:
    """The same stages in both, nothing to do; in turns, so that what else the machine does falls on both."""
    folder = applied(scratch / "stages", STAGES * 10 // 19)
    dvc = scratch / "dvc-environment" / "bin" / "dvc"
    if not dvc.exists():
        subprocess.run([sys.executable, "-m", "venv", dvc.parents[1]], check=True)
        subprocess.run([dvc.with_name("pip"), "install", "--quiet", "--no-deps", "-r", LOCK], check=True)
    theirs = scratch / "dvc"
    if not (theirs / "dvc.lock").exists():
        write_dvc(folder, theirs, dvc)
    stages = (theirs / "dvc.yaml").read_text().count("    cmd: ")
    plan(folder)
    ours: list[float] = []
    peers: dict[str, list[float]] = {"status": [], "repro --dry": []}
    for _ in range(RUNS):
        ours.append(plan(folder))
        for command, seconds in peers.items():
            seconds.append(run([dvc, *command.split()], theirs))
    print(f"| {stages:,} stages: `forge plan` | {statistics.median(ours):.2f} s | |", flush=True)
    for command, seconds in peers.items():
        times = statistics.median(peer / mine for peer, mine in zip(seconds, ours, strict=True))
        judged = GOALS.judge(f"dvc {command}", times, at_least(20, "times"))
        shown = f"{statistics.median(seconds):.2f} s: {times:.1f} times `forge plan`"
        print(f"| `dvc {command}` on the same | {shown} | {judged} |", flush=True)


def write_dvc(folder: Path, theirs: Path, dvc: Path) -> int:
    """Write each step of a repository as a DVC stage, up to date; returns how many there are."""
    theirs.mkdir(parents=True)
    for command in (["git", "init", "--quiet"], [dvc, "init", "--quiet"], [dvc, "config", "core.analytics", "false"]):
        subprocess.run(command, cwd=theirs, check=True)
    lines = ["stages:"]
    with Repository(folder) as repository:
        tree = CommitTree(repository, repository.resolve_commit("HEAD"))
        graph = build_graph(read_desired(tree))
        for step in graph.values():
            lines += [f"  {_dvc_name(step.id)}:", f"    cmd: echo {_dvc_name(step.id)} > out/{_dvc_name(step.id)}", "    deps:"]
            for source in step.inputs.values():
                if isinstance(source, FromStep):
                    lines.append(f"    - out/{_dvc_name(source.step_id)}")
                    continue
                for name, file in source.bundle.files.items():
                    place = theirs / (file.origin or f"inline/{_dvc_name(source.address)}/{name}")
                    place.parent.mkdir(parents=True, exist_ok=True)
                    place.write_bytes(file.inline if file.inline is not None else tree.read(file.origin or ""))
                    lines.append(f"    - {place.relative_to(theirs)}")
            lines += ["    outs:", f"    - out/{_dvc_name(step.id)}"]
            (theirs / "out").mkdir(exist_ok=True)
            (theirs / "out" / _dvc_name(step.id)).write_text(_dvc_name(step.id) + "\n")
    (theirs / "dvc.yaml").write_text("\n".join(lines) + "\n")
    subprocess.run([dvc, "commit", "--quiet", "--force"], cwd=theirs, check=True)
    return len(graph)


def _dvc_name(name: str) -> str:
    return name.replace("/", "-").replace(".", "--")


def plan(folder: Path) -> float:
    """Seconds of ``forge plan`` as a process."""
    return run([FORGE, "plan"], folder)


def cold(folder: Path) -> float:
    """The same without anything that was learnt before."""
    (folder / ".git" / "forge" / FILE).unlink(missing_ok=True)
    return plan(folder)


def own_work(folder: Path) -> float:
    """Seconds of a plan in a process that has made one before."""
    done = subprocess.run([sys.executable, "-c", OWN_WORK], cwd=folder, check=True, capture_output=True, text=True)
    return float(done.stdout.splitlines()[-1])


def changed_reading(folder: Path) -> tuple[int, float]:
    """How many files were parsed for HEAD, and the seconds until its graph was there."""
    with desired_of(folder) as read:
        began = time.perf_counter()
        desired = read()
        build_graph(desired)
        return desired.num_parsed, time.perf_counter() - began


def reading(folder: Path) -> tuple[float, float]:
    """Seconds for the fingerprint, and for all that follows it."""
    with desired_of(folder) as read:
        began = time.perf_counter()
        desired = read()
        known = time.perf_counter()
        build_graph(desired)
        return known - began, time.perf_counter() - known


@contextmanager
def desired_of(folder: Path) -> Iterator[Callable[[], Desired]]:
    """What reads the desired state of HEAD, with the cache; garbage is not collected meanwhile, as `forge plan` does not."""
    gc.disable()
    try:
        with Repository(folder) as repository, SpecCache(repository.state_folder) as cache:
            yield lambda: read_desired(CommitTree(repository, repository.resolve_commit("HEAD")), cache)
    finally:
        gc.enable()


def run(command: list[str | Path], folder: Path) -> float:
    """Seconds of a process that has to end well."""
    began = time.perf_counter()
    done = subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed in {folder}:\n{done.stderr}")
    return time.perf_counter() - began


def peak(folder: Path) -> int:
    """MiB that ``forge plan`` takes at most."""
    command = [sys.executable, "-c", PEAK, str(FORGE), "plan"]
    return int(subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout)


def median(work: Callable[[], float]) -> float:
    """The median of five."""
    return statistics.median(work() for _ in range(RUNS))


def row(name: str, seconds: float, goal: Goal | None = None) -> None:
    """One row of the table."""
    print(f"| {name} | {seconds:.2f} s | {GOALS.judge(name, seconds, goal)} |", flush=True)


if __name__ == "__main__":
    main()
