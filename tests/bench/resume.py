"""What a killed training costs on this machine: the tokens that are trained again, and the time to the first step then.

Run as ``python tests/bench/resume.py [TOKENS]`` (default 200000) in a clone where ``make run`` has passed. The example's train
step is killed (SIGKILL) at a moment drawn by chance after its first checkpoint, and started again. Lost are the tokens between
the last event before the kill and the checkpoint that the restart takes up: at most one checkpoint interval. Events are written
twice a second, so the figure is exact to half a second of training. Medians of five. Checkpoints are written ten times over
these few tokens, ten times as often as the example's own run writes them: their share of the time is that much larger here.
"""

import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.bench.goals import Goals, at_most
from tests.bench.train import request_of

ROUNDS = 5
INTERVALS = 10


def main(tokens: int) -> None:
    """Kill and restart in turns, and print a table."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as scratch:
        request = request_of(Path(scratch), tokens)
        interval = max(1, round(tokens / INTERVALS / request["parameters"]["training"]["batch_tokens"]))
        request["settings"] = {
            "training": {"checkpoint_every_tokens": interval * request["parameters"]["training"]["batch_tokens"]}
        }
        rounds = [measure(request, random.Random(number)) for number in range(ROUNDS)]
    every = request["settings"]["training"]["checkpoint_every_tokens"]
    lost = [found["lost_tokens"] for found in rounds]
    print("| what | median of 5 | most | goal |\n|---|---|---|---|")
    goals = Goals()
    judged = goals.judge("tokens trained again after SIGKILL, at most", max(lost), at_most(every))
    median = statistics.median(lost)
    print(f"| tokens trained again after SIGKILL | {median:,.0f} | {max(lost):,.0f} | one interval, {judged} |")
    for name, title in (
        ("first_step_seconds", "seconds from the start to the first step"),
        ("resume_seconds", "of them, taking up"),
    ):
        figures = [found[name] for found in rounds]
        print(f"| {title} after a restart | {statistics.median(figures):.1f} | {max(figures):.1f} | |")
    stalls = [found["stall_seconds"] for found in rounds]
    print(f"| seconds that a checkpoint stalls | {statistics.median(stalls):.3f} | {max(stalls):.3f} | |")
    shares = [found["stall_fraction"] for found in rounds]
    print(f"| share of the time, a checkpoint every {every:,} tokens | {statistics.median(shares):.2%} | {max(shares):.2%} | |")
    print(f"\n{goals.summary()}")


def measure(request: dict[str, Any], chance: random.Random) -> dict[str, float]:
    """One training: killed, and started again until its first step."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
        folder = Path(name)
        first = Attempt(request, folder, 1)
        first.wait_for(lambda: bool(first.stalls()))
        time.sleep(chance.uniform(0.0, 4.0))
        if first.process.poll() is not None:
            sys.exit(f"the training ended before it was killed: give more tokens\n{first.process.communicate()[1][-2000:]}")
        first.kill()
        last = max(event["tokens"] for event in first.events() if "learning_rate" in event)
        steps = [event for event in first.events() if "learning_rate" in event]
        worked = steps[-1]["time"] - steps[0]["time"]
        second = Attempt(request, folder, 2)
        second.wait_for(lambda: any("learning_rate" in event for event in second.events()))
        resumed = next(event for event in second.events() if str(event.get("message", "")).startswith("resumed"))
        step = next(event for event in second.events() if "learning_rate" in event)
        second.kill()
        stalls = first.stalls()
    return {
        "lost_tokens": max(0, last - resumed["tokens"]),
        "first_step_seconds": step["time"] - second.started,
        "resume_seconds": resumed["time"] - second.started,
        "stall_seconds": statistics.median(stalls),
        "stall_fraction": sum(stalls) / worked,
    }


class Attempt:
    """One process of the step; attempts share the scratch folder, as those of one key do."""

    def __init__(self, request: dict[str, Any], folder: Path, number: int) -> None:
        self.folder = folder / str(number)
        self.folder.mkdir()
        mine = {**request, "attempt": number, "output": str(self.folder / "output"), "scratch": str(folder / "scratch")}
        (self.folder / "request.json").write_text(json.dumps(mine))
        threads = str(request["resources"]["threads"])
        self.started = time.time()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "forge.steps", str(self.folder / "request.json")],
            env={**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
            stderr=subprocess.PIPE,
            text=True,
        )

    def events(self) -> list[dict[str, Any]]:
        """Those that are whole."""
        path = self.folder / "events.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def stalls(self) -> list[float]:
        """Seconds that each checkpoint has held the training up."""
        return [event["checkpoint_stall_seconds"] for event in self.events() if "checkpoint_stall_seconds" in event]

    def wait_for(self, condition: Callable[[], bool]) -> None:
        while not condition():
            if self.process.poll() is not None:
                sys.exit(f"the training ended with {self.process.returncode}:\n{self.process.communicate()[1][-3000:]}")
            time.sleep(0.01)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200_000)
