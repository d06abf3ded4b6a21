"""impact: what descends from something, whether or not it is withdrawn."""

import json
from pathlib import Path
from typing import Annotated

import typer

from forge.cli.build import DataFormat
from forge.cli.place import forge_folder, reader_of


def impact(
    context: typer.Context,
    subject: Annotated[
        str, typer.Argument(help="sha256:DIGEST of an artifact or a file, key:KEYID, DataRecipe/, EvalSuite/ or Model/NAME.")
    ],
    audit: Annotated[
        list[Path],
        typer.Option(help="A folder of audit logs; may be repeated. Default: .forge/serve/audit, where there is one."),
    ] = [],  # noqa: B006 (typer reads the default, nobody changes it)
    output: Annotated[DataFormat, typer.Option("--format", help="How to print it.")] = DataFormat.TEXT,
) -> None:
    """List the models, evaluations, gates, releases and answered requests that descend from something."""
    from forge.admission.impact import impact_of
    from forge.admission.search import search
    from forge.errors import UsageError
    from forge.plan.lineage import Lineage
    from forge.serve.audit import read_audit
    from forge.spec.withdrawals import subject_fault
    from forge.ui.impact import to_data, to_text

    fault = subject_fault(subject)
    if fault is not None:
        raise UsageError(f"not a subject: {subject!r}; {fault}")
    with reader_of(context) as reader:
        place = reader.place("HEAD")
        snapshot = place.ledger.snapshot()
        own = forge_folder(place.repository) / "serve" / "audit"
        folders = audit or ([own] if own.is_dir() else [])
        found = search(subject, place.repository, snapshot, place.store, Lineage(place.desired, snapshot).later_names(subject))
        faults: list[str] = []
        made = impact_of(subject, found.descent, found.moves, found.own_moves, read_audit(folders, faults))
        noted = snapshot.withdrawals().get(subject)
        in_force = noted if noted is not None and not noted.lifted else None
    show = (made, in_force, found.unread, faults)
    typer.echo(json.dumps(to_data(*show), indent=2) if output is DataFormat.JSON else to_text(*show).rstrip("\n"))
