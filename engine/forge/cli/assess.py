"""assess: whether the documents of a recipe are usable for training, and why."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from forge.cli.place import reader_of


class AssessFormat(StrEnum):
    """How an assessment is printed."""

    TEXT = "text"
    JSON = "json"
    HTML = "html"


def assess(
    context: typer.Context,
    recipe: Annotated[str, typer.Argument(help="DataRecipe/NAME.")],
    ref: Annotated[str, typer.Option(help="The commit whose recipe and models are meant.")] = "HEAD",
    output: Annotated[
        AssessFormat, typer.Option("--format", help="text, json, or html: one page with plots.")
    ] = AssessFormat.TEXT,
    out: Annotated[Path | None, typer.Option(help="Write it to this file instead.")] = None,
) -> None:
    """Say whether a curated recipe's documents are usable for training. Exit 1 when they are not, or were not curated."""
    from forge.report.assess import assess as judge
    from forge.report.curated import read_curated
    from forge.report.readiness import Answer
    from forge.ui.readiness import to_data, to_text
    from forge.ui.readiness_page import to_page

    with reader_of(context) as reader:
        place = reader.place(ref)
        readiness = judge(read_curated(recipe, place.desired, place.ledger.snapshot(), place.store))
    match output:
        case AssessFormat.TEXT:
            data = to_text(readiness).encode()
        case AssessFormat.JSON:
            data = to_data(readiness)
        case AssessFormat.HTML:
            data = to_page(readiness)
    if out is None:
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    else:
        out.write_bytes(data)
        typer.echo(f"{recipe}: {readiness.answer.value}; {out}", err=True)
    if readiness.answer is Answer.NOT_USABLE:
        raise typer.Exit(1)
