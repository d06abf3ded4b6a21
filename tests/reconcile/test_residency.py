"""Applying what would move data out of its region: nothing is stored, nothing is run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.conftest import DATA, SETTINGS, commit_all


def test_a_plan_out_of_the_region_is_refused_before_a_byte_moves(repository: Path, forge: Callable[..., Any]) -> None:
    (repository / "models" / "data.yaml").write_text(DATA.replace("  dedup:", "  regions: [eu]\n  dedup:"))
    settings = SETTINGS.replace("[executor]", '[store]\nregion = "us"\n[executor]\nregion = "eu"')
    (repository / "forge.toml").write_text(settings)
    commit_all(repository)
    shown = forge(repository, "plan", "--exit-code", code=4)
    assert "REFUSED: residency: DataRecipe/small (`regions: [eu]`) may be in eu alone, and the store is in us" in shown.stdout
    assert "warning: residency: DataRecipe/small" in forge(repository, "validate").stderr
    refused = forge(repository, "apply", "--yes", "--target", "DataRecipe/small", code=4)
    assert "residency: DataRecipe/small" in refused.stderr
    assert not list((repository / ".forge").rglob("*.jsonl*"))
    assert not [path for path in (repository / ".forge" / "store").rglob("*") if path.is_file()]
    (repository / "forge.toml").write_text(settings.replace('"us"', '"eu"'))
    commit_all(repository)
    assert "REFUSED" not in forge(repository, "plan").stdout
