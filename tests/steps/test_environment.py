"""What a step says of the machine and of what it had installed."""

import subprocess
import sys
from pathlib import Path

import pytest

from forge.steps.environment import hardware, installed


def test_the_lock_is_what_pip_lists() -> None:
    command = [sys.executable, "-m", "pip", "list", "--format=freeze", "--disable-pip-version-check"]
    listed = subprocess.run(command, check=True, capture_output=True).stdout
    assert installed().encode() == b"".join(sorted(listed.splitlines(keepends=True)))


def write(folder: Path, name: str, version: str) -> None:
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n\nVersion: 9 says the readme\n")


def test_of_two_with_one_name_the_first_on_the_path_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "one", "Some_Thing", "1.0")
    write(tmp_path / "two", "some-thing", "2.0")
    write(tmp_path / "two", "other", "3.0")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "one"), str(tmp_path / "two")])
    assert installed() == "Some_Thing==1.0\nother==3.0\n"


def test_the_machine_is_named(tmp_path: Path) -> None:
    found = hardware()
    assert found.cpu
    assert found.cores >= 1
    assert found.memory_bytes > 2**20
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Example CPU @ 2.00GHz\n")
    for number, model in enumerate(("NVIDIA H200", "NVIDIA A100")):
        folder = tmp_path / "driver" / "nvidia" / "gpus" / str(number)
        folder.mkdir(parents=True)
        (folder / "information").write_text(f"Model: \t\t {model}\nIRQ:   \t\t 42\n")
    found = hardware(tmp_path)
    assert found.cpu == "Example CPU @ 2.00GHz"
    assert found.accelerators == ("NVIDIA A100", "NVIDIA H200")


def test_a_machine_without_such_files_is_named_too(tmp_path: Path) -> None:
    assert hardware(tmp_path).cpu
    assert hardware(tmp_path).accelerators == ()
