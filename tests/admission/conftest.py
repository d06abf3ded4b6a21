"""A governed repository with one approved release, made once for each file that asks for it."""

import shutil
from pathlib import Path

import pytest
from tests.conftest import new_repository, run_forge
from tests.governed import Governed, make_governed, write_approved


@pytest.fixture(scope="module")
def governed(tmp_path_factory: pytest.TempPathFactory) -> Governed:
    return make_governed(tmp_path_factory.mktemp("governed"))


@pytest.fixture(scope="module")
def released_once(tmp_path_factory: pytest.TempPathFactory, governed: Governed, applied: Path) -> Path:
    """Written and signed by cleo, delegated by the root, approved by ana, released."""
    folder = new_repository(tmp_path_factory.mktemp("released") / "repository")
    write_approved(folder, governed, applied)
    run_forge(folder, governed.config, "apply")
    return folder


@pytest.fixture
def released(released_once: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "copy"
    shutil.copytree(released_once, folder, symlinks=True)
    return folder
