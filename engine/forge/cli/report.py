"""report: what a reviewer reads about a release, and the bundle by which anyone checks it."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from forge.cli.place import Offline, ledger_of, repository_of, settings_at_head, store_of
from forge.errors import TrustError, UsageError

if TYPE_CHECKING:
    from forge.report.make import Place
    from forge.report.model import Report


def report(
    context: typer.Context,
    subject: Annotated[str, typer.Argument(help="release/ENVIRONMENT.")],
    out: Annotated[Path | None, typer.Option(help="A new or empty folder to write the report to.")] = None,
    check: Annotated[Path | None, typer.Option(help="A report to compare with the one that Forge writes.")] = None,
    offline: Offline = False,
) -> None:
    """Write a report that opens from a folder, with its bundle; exit 4 where the model may not serve or a report was edited."""
    from forge.admission.verdict import told
    from forge.attest.timestamps import read_timestamp_authority
    from forge.attest.trust import config_folder, read_trust_root
    from forge.report.make import Place

    if (out is None) == (check is None):
        raise UsageError("say either --out DIR, to write a report, or --check DIR, to compare one")
    root, timestamps = read_trust_root(config_folder()), read_timestamp_authority(config_folder())
    with repository_of(context) as repository:
        settings = settings_at_head(repository)
        snapshot = ledger_of(repository, settings, root.digest, offline=offline)
        place = Place(repository, snapshot, store_of(repository, settings), root, timestamps)
        made = _write(subject, place, out) if out is not None else _compare(subject, place, check or Path())
    answer = "may serve" if made.verdict.holds else "MAY NOT SERVE"
    typer.echo(f"{subject}: {made.model} {answer}; {made.verdict.trust}")
    if made.verdict.findings:
        typer.echo(told(made.verdict.findings, "FAIL "))
    if out is not None:
        typer.echo(f"{out / 'index.html'}; check it without Forge: sh verify.sh {made.trust_root} bundle.tar.gz", err=True)
    if not made.verdict.holds:
        raise typer.Exit(TrustError.exit_code)


def _write(subject: str, place: "Place", out: Path) -> "Report":
    from forge.report.bundle import pack, tool
    from forge.report.make import make_report
    from forge.ui.report import ARCHIVE, DATA, PAGE, to_data, to_page
    from forge.ui.report_parts import BUNDLE

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is not an empty folder: name a new one")
    made = make_report(subject, place, out / BUNDLE)
    (out / ARCHIVE).write_bytes(pack(out / BUNDLE))
    (out / "verify.sh").write_bytes(tool("verify.sh"))
    (out / PAGE).write_bytes(to_page(made))
    (out / DATA).write_bytes(to_data(made))
    return made


def _compare(subject: str, place: "Place", found: Path) -> "Report":
    from forge.report.compare import differences

    if not found.is_dir():
        raise UsageError(f"{found}: there is no such folder")
    with tempfile.TemporaryDirectory() as scratch:
        made = _write(subject, place, Path(scratch) / "report")
        wrong = list(differences(Path(scratch) / "report", found))
    if wrong:
        raise TrustError(
            f"{found} is not the report that Forge writes from the ledger up to entry {made.entries}: it was edited, or the "
            "ledger went on since. `--out` writes the one that holds now; `--offline` does not ask the remote what is new\n"
            + "\n".join(f"  {line}" for line in wrong)
        )
    return made
