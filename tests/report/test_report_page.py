"""The report on a real release, in a browser and on paper."""

from pathlib import Path

from tests.browser import check_report, needs_chromium
from tests.conftest import run_forge

from forge.report.facts import shown


@needs_chromium
def test_the_report_on_a_real_release_reads_and_prints(applied: Path, config_home: Path, tmp_path: Path) -> None:
    run_forge(applied, config_home, "report", "release/local", "--out", str(tmp_path / "report"))
    check_report(tmp_path / "report", "small", "local", tmp_path)


def test_what_stands_at_its_defaults_is_not_said_to_be_none() -> None:
    assert shown({"exact": True, "minhash": {}}) == "exact yes, minhash (defaults)"
    assert shown({}) == "none"
