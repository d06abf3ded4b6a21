"""SIGKILL at any moment: the next apply goes on, no finished step runs again, and the end is the same to the byte."""

import random
import signal
import subprocess
from pathlib import Path

import pytest
from tests.conftest import git
from tests.reconcile.test_apply import snapshot_of, start_apply, step_processes

STEPS = [
    "curate/small",
    "tokenizer/small",
    "tokenize/small",
    "train/small",
    "evaluate/small.small",
    "gate/small-local",
    "release/small-local",
]
KILLS = 8


@pytest.mark.parametrize("with_its_steps", [True, False], ids=["the whole tree", "the runner alone"])
def test_killed_again_and_again_it_ends_where_an_undisturbed_run_ends(
    repository: Path, applied: Path, config_home: Path, with_its_steps: bool
) -> None:
    generator = random.Random(5)
    for kill in range(KILLS):
        runner = start_apply(repository, config_home)
        try:
            runner.communicate(timeout=generator.uniform(0.6, 2.0 + kill))
        except subprocess.TimeoutExpired:
            runner.send_signal(signal.SIGKILL)
            for process in step_processes(repository) if with_its_steps else ():
                process.kill()
            runner.communicate()
    runner = start_apply(repository, config_home)
    _, said = runner.communicate(timeout=300)
    assert runner.returncode == 0, said
    undisturbed, killed = snapshot_of(applied), snapshot_of(repository)
    for step in STEPS:
        expected, found = undisturbed.latest(step), killed.latest(step)
        assert expected is not None
        assert found is not None
        assert found.products == expected.products, step
    entries = [killed.entry(number) for number in range(1, killed.head[0] + 1)]
    recorded = [entry.body.step_id for entry in entries if entry and entry.body.kind == "record"]
    assert sorted(recorded) == sorted(STEPS)
    assert not step_processes(repository)
    assert git(repository, "for-each-ref", "refs/forge/tmp") == ""
