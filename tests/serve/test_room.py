"""Whether a second engine fits: an estimate that errs on the careful side, within the container's limit."""

from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from forge.serve.release import ServableRelease
from forge.serve.room import available_bytes, needed_bytes, shortage

GIB = 2**30


@pytest.fixture
def gigabyte(release: ServableRelease, tmp_path: Path) -> ServableRelease:
    """A release whose weights have a (sparse) gibibyte."""
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(GIB)
    (tmp_path / "config.json").write_text("{}")
    engine = release.engine.model_copy(update={"dtype": "bfloat16", "kv_cache_gib": 3})
    return replace(release, model_path=tmp_path, engine=engine)


def test_weights_cache_and_processes_are_counted(gigabyte: ServableRelease) -> None:
    assert needed_bytes(gigabyte) == (1 + 3 + 2) * GIB
    float32 = replace(gigabyte, engine=gigabyte.engine.model_copy(update={"dtype": "float32"}))
    assert needed_bytes(float32) == (2 + 3 + 2) * GIB


def test_a_shortage_names_both_figures_and_the_way_out(gigabyte: ServableRelease) -> None:
    assert shortage(gigabyte, 6 * GIB) is None
    message = shortage(gigabyte, 6 * GIB - 1)
    assert message is not None
    assert "about 6.0 GiB" in message
    assert "--switch stop-first" in message


def test_a_containers_limit_counts_where_it_is_the_lower_one(tmp_path: Path) -> None:
    machine = psutil.virtual_memory().available
    assert available_bytes(tmp_path) == pytest.approx(machine, rel=0.2)  # no cgroup v2 there
    (tmp_path / "memory.max").write_text(f"{GIB}\n")
    (tmp_path / "memory.current").write_text(f"{GIB - 100}\n")
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 50\n")
    assert available_bytes(tmp_path) == 150
    (tmp_path / "memory.max").write_text("max\n")
    assert available_bytes(tmp_path) == pytest.approx(machine, rel=0.2)
