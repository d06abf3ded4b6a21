"""Time and memory of whole commands on an applied repository, medians of five.

Run as ``make bench`` in a clone where ``make run`` has passed. Prints a table; the README quotes it with date and machine.
"""

import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.bench.goals import Goal, Goals, at_most

FORGE = Path(sys.executable).with_name("forge")
RUNS = 5
COMMANDS: dict[str, tuple[list[str], Goal | None]] = {
    "`forge apply`, nothing to do": (["apply"], at_most(1.5, "s")),
    "`forge plan`": (["plan"], at_most(1.0, "s")),
    "`forge verify model/handbook`": (["verify", "model/handbook"], None),
}


def main() -> None:
    """Measure and print."""
    goals = Goals()
    print("| command | median of 5 | goal | peak memory |\n|---|---|---|---|")
    for name, (arguments, goal) in COMMANDS.items():
        measured = [measure(arguments) for _ in range(RUNS)]
        seconds = statistics.median(time for time, _ in measured)
        memory = max(peak for _, peak in measured)
        print(f"| {name} | {seconds:.2f} s | {goals.judge(name, seconds, goal)} | {memory / 1024:.0f} MiB |")
    print(f"\n{goals.summary()}")


def measure(arguments: list[str]) -> tuple[float, int]:
    """Seconds and peak KiB of one run as a process of its own."""
    began = time.monotonic()
    process = subprocess.Popen([FORGE, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - began
    if status:
        sys.exit(f"forge {' '.join(arguments)} failed: run it by hand to see why")
    return seconds, int(resource.struct_rusage(usage).ru_maxrss)


if __name__ == "__main__":
    main()
