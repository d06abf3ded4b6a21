"""validate, plan, apply, status, schema: from a commit to what is released."""

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from forge.cli.place import forge_folder, place_of, repository_of, targets, tree_of
from forge.errors import SpecError, printable

Ref = Annotated[str, typer.Option(help="The commit to read: a branch, tag or commit id.")]
WorkTreeFlag = Annotated[bool, typer.Option("--worktree", help="Read the working tree instead: a preview.")]
Target = Annotated[
    list[str], typer.Option(metavar="KIND/NAME", help="Only this resource and what it needs (KIND/NAME); may be repeated.")
]


class PlanFormat(StrEnum):
    """How a plan is printed."""

    TEXT = "text"
    MARKDOWN = "markdown"
    JSON = "json"


class ValidateFormat(StrEnum):
    """How diagnostics are printed."""

    TEXT = "text"
    JSON = "json"
    GITHUB = "github"


class DataFormat(StrEnum):
    """Text for people, JSON for programs."""

    TEXT = "text"
    JSON = "json"


def validate(
    context: typer.Context,
    ref: Ref = "HEAD",
    worktree: WorkTreeFlag = False,
    output: Annotated[ValidateFormat, typer.Option("--format", help="How to print it.")] = ValidateFormat.TEXT,
) -> None:
    """Check every spec; exit 2 with path:line:column for each fault."""
    from forge.repo.desired import read_desired

    with repository_of(context) as repository:
        try:
            desired = read_desired(tree_of(repository, ref, worktree=worktree))
        except SpecError as error:
            if output is ValidateFormat.TEXT:
                raise
            typer.echo(_machine_readable(error, output))
            raise typer.Exit(error.exit_code) from error
    if output is ValidateFormat.JSON:
        typer.echo(json.dumps({"schema_version": 1, "resources": sorted(desired.resources), "diagnostics": []}, indent=2))
    elif output is ValidateFormat.TEXT:
        typer.echo(f"{len(desired.resources)} resources are valid: {', '.join(sorted(desired.resources))}")


def plan(
    context: typer.Context,
    ref: Ref = "HEAD",
    worktree: WorkTreeFlag = False,
    target: Target = [],  # noqa: B006 (typer reads the default, nobody changes it)
    output: Annotated[PlanFormat, typer.Option("--format", help="How to print it.")] = PlanFormat.TEXT,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="Exit 3 when there is something to do.")] = False,
) -> None:
    """Show what applying a commit would do, why, and what it would cost."""
    from forge.plan import render
    from forge.plan.plan import make_plan
    from forge.repo.desired import read_desired

    with repository_of(context) as repository:
        from forge.cli.place import store_of
        from forge.ledger.ledger import Ledger

        desired = read_desired(tree_of(repository, ref, worktree=worktree))
        snapshot = Ledger(repository, desired.settings.ledger.ref).snapshot()
        made = make_plan(desired, snapshot, store_of(repository, desired).index(), targets(desired, target))
    form = {PlanFormat.TEXT: render.to_text, PlanFormat.MARKDOWN: render.to_markdown, PlanFormat.JSON: render.to_json}
    typer.echo(form[output](made), nl=False)
    if exit_code and made.changes:
        raise typer.Exit(3)


def apply(
    context: typer.Context,
    ref: Ref = "HEAD",
    target: Target = [],  # noqa: B006 (typer reads the default, nobody changes it)
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for another apply to end.")] = 0,
) -> None:
    """Make the world match a commit: run, sign and record every step that is needed, then release."""
    from forge.plan.render import duration
    from forge.reconcile.apply import apply as reconcile
    from forge.reconcile.apply import no_go_table
    from forge.reconcile.lock import apply_lock
    from forge.repo.desired import read_desired
    from forge.ui.progress import display

    with repository_of(context) as repository:
        tree = tree_of(repository, ref, worktree=False)
        place = place_of(repository, tree, read_desired(tree))
        chosen = targets(place.desired, target)
        shown = display()
        began = place.now()
        with apply_lock(repository.state_folder, wait):
            try:
                final = reconcile(place, shown, chosen)
            except KeyboardInterrupt:
                shown.close()
                typer.echo("interrupted; `forge apply` goes on where it stopped", err=True)
                raise typer.Exit(130) from None
            finally:
                shown.close()
        if final.blocked:
            typer.echo(no_go_table(place, final), err=True)
            raise typer.Exit(1)
        took = duration((place.now() - began).total_seconds())
        typer.echo(f"In sync with commit {(final.commit or '')[:12]} ({took}).", err=True)


def status(
    context: typer.Context,
    ref: Ref = "HEAD",
    output: Annotated[DataFormat, typer.Option("--format", help="How to print it.")] = DataFormat.TEXT,
) -> None:
    """Desired and recorded state: each step with its last record, each environment with what it serves."""
    from forge.plan.plan import make_plan
    from forge.repo.desired import read_desired
    from forge.ui.status import to_data, to_text

    with repository_of(context) as repository:
        from forge.cli.place import store_of
        from forge.ledger.ledger import Ledger

        desired = read_desired(tree_of(repository, ref, worktree=False))
        snapshot = Ledger(repository, desired.settings.ledger.ref).snapshot()
        made = make_plan(desired, snapshot, store_of(repository, desired).index())
        data = to_data(made, snapshot)
    typer.echo(json.dumps(data, indent=2) if output is DataFormat.JSON else to_text(data))


def schema(
    context: typer.Context,
    out: Annotated[Path | None, typer.Option(help="Folder for the schemas; default: .forge/schemas.")] = None,
) -> None:
    """Write a JSON Schema for each kind, for completion and errors in editors."""
    from forge.spec.schema import schemas

    with repository_of(context) as repository:
        folder = out or forge_folder(repository) / "schemas"
    folder.mkdir(parents=True, exist_ok=True)
    for kind, content in schemas().items():
        (folder / f"{kind}.json").write_text(json.dumps(content, indent=2) + "\n")
    print(f"{len(schemas())} schemas in {folder}", file=sys.stderr)


def _machine_readable(error: SpecError, output: ValidateFormat) -> str:
    if output is ValidateFormat.JSON:
        rows = [{"path": d.path, "line": d.line, "column": d.column, "message": d.message} for d in error.diagnostics]
        return json.dumps({"schema_version": 1, "diagnostics": rows}, indent=2)
    lines = []
    for fault in error.diagnostics:
        message, path = (printable(text).replace("%", "%25") for text in (fault.message, fault.path))
        path = path.replace(":", "%3A").replace(",", "%2C")
        lines.append(f"::error file={path},line={fault.line},col={fault.column}::{message}")
    return "\n".join(lines)
