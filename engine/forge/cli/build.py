"""validate, plan, apply, status, schema: from a commit to what is released."""

import datetime
import gc
import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from forge.cli.place import acting_as, own_folder, reader_of, repository_of, roles_of, scope_of, tree_of
from forge.errors import SpecError, UsageError, printable, printable_lines

if TYPE_CHECKING:
    from forge.cli.place import Reader
    from forge.ledger.ledger import Snapshot
    from forge.plan.action import Plan
    from forge.plan.desired import Desired
    from forge.plan.saved import Reading
    from forge.reconcile.place import Look, Place
    from forge.repo.tree import Tree

Ref = Annotated[str, typer.Option(help="The commit to read: a branch, tag or commit id.")]
WorkTreeFlag = Annotated[bool, typer.Option("--worktree", help="Read the working tree instead: a preview.")]
Target = Annotated[
    list[str], typer.Option(metavar="KIND/NAME", help="Only this resource and what it needs (KIND/NAME); may be repeated.")
]
Force = Annotated[
    list[str], typer.Option(metavar="STEP", help="Run this step (KIND/NAME) although it is recorded; may be repeated.")
]

As = Annotated[
    list[str],
    typer.Option(
        "--as",
        metavar="ROLE",
        help="Do only what this role signs (SupplyChain), and leave the rest to the others' machines; may be repeated.",
    ),
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
    with reader_of(context) as reader:
        try:
            desired = reader.desired(ref, worktree=worktree)
        except SpecError as error:
            if output is ValidateFormat.TEXT:
                raise
            typer.echo(_machine_readable(error, output))
            raise typer.Exit(error.exit_code) from error
    warnings = _warn(desired, aloud=output is not ValidateFormat.JSON)
    if output is ValidateFormat.JSON:
        found = {"schema_version": 1, "resources": sorted(desired.resources), "diagnostics": [], "warnings": warnings}
        typer.echo(json.dumps(found, indent=2))
    elif output is ValidateFormat.TEXT:
        typer.echo(f"{len(desired.resources)} resources are valid: {', '.join(sorted(desired.resources))}")


def plan(
    context: typer.Context,
    ref: Ref = "HEAD",
    worktree: WorkTreeFlag = False,
    target: Target = [],  # noqa: B006 (typer reads the default, nobody changes it)
    force: Force = [],  # noqa: B006
    base: Annotated[
        str | None, typer.Option(help="Leave out what the plan of this commit holds as well: what a pull request adds.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the plan to a file that `forge apply FILE` carries out.")] = None,
    without_store: Annotated[
        bool,
        typer.Option(
            "--without-store",
            help="Do not read the store: what the ledger records is taken to be there. For a machine that cannot reach it.",
        ),
    ] = False,
    explain: Annotated[
        str | None, typer.Option(metavar="STEP", help="Show the whole chain of why for a step or a resource.")
    ] = None,
    output: Annotated[PlanFormat, typer.Option("--format", help="How to print it.")] = PlanFormat.TEXT,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="Exit 3 when there is something to do.")] = False,
) -> None:
    """Show what applying a commit would do, why, and what it would cost."""
    gc.disable()  # a plan makes many small values and no circles, and the process ends with it: a third of the time
    from forge.plan import render

    if out is not None and (worktree or without_store or base is not None):
        raise UsageError(
            "--out: only the whole plan of a commit can be saved, not a preview (--worktree), a difference (--base), or one "
            "that was made without looking (--without-store)"
        )
    if explain is not None and (output is PlanFormat.MARKDOWN or base is not None):
        raise UsageError(
            "--explain: a chain of why is text or JSON, and of a whole plan: leave out --base and --format markdown"
        )
    notes = ["The store was not read: what the ledger records is taken to be there."] if without_store else []
    with reader_of(context) as reader:
        desired = reader.desired(ref, worktree=worktree)
        special = target or force or base or out or explain or worktree or without_store
        plain = output is PlanFormat.TEXT and not special
        if plain and (idle := reader.glance(desired)) is not None and idle.num_unlisted > render.MOST_IDLE_ROWS:
            typer.echo(render.to_text(idle), nl=False)
            return

        from forge.reconcile.glance import note_in_sync
        from forge.reconcile.place import look

        place = reader.place_for(desired) if plain else reader.place_now(desired, without_store=without_store)
        notes += _warn(place.desired, aloud=output is PlanFormat.TEXT)

        chosen = scope_of(place.desired, target, force)
        readings: list[Reading] = []

        def reading(snapshot: "Snapshot") -> "Reading":
            from forge.plan.saved import Reading

            readings.append(Reading(snapshot))
            return readings[-1]

        now = look(
            place,
            chosen,
            reading if out is not None else None,
            without_store=without_store,
            with_blame=output is not PlanFormat.TEXT or explain is not None or out is not None,
        )
        made = now.plan
        if plain:
            note_in_sync(place.scene, made)
        older = _base_of(reader, base, notes) if base is not None else None
        changed = None
        if older is not None:
            before = look(
                reader.place_for(older, without_store=without_store),
                without_store=without_store,
                with_blame=output is not PlanFormat.TEXT,
            ).plan
            made, changed = _beyond(reader, place.desired, made, older, before)
        if explain is not None:
            printed = _explained(place, now, explain, tree_of(reader.repository, ref, worktree=worktree), output)
        elif output is PlanFormat.MARKDOWN:
            from forge.plan.markdown import to_markdown
            from forge.plan.review import review

            printed = to_markdown(made, review(made, place.desired, older, changed, tuple(notes)))
        else:
            printed = render.to_text(made) if output is PlanFormat.TEXT else render.to_json(made)
    if out is not None:
        from forge import __version__
        from forge.plan.saved import SavedPlan, to_bytes

        out.write_bytes(to_bytes(SavedPlan(made, chosen, __version__, readings[-1].digest)))
    typer.echo(printed, nl=False)
    if made.refusals and exit_code:
        raise typer.Exit(4)
    if exit_code and made.changes:
        raise typer.Exit(3)


def _explained(place: "Place", now: "Look", name: str, planned: "Tree", output: PlanFormat) -> str:
    """The whole chain of why for a step or a resource."""
    from forge.plan.explain import explain
    from forge.plan.explanation import to_json, to_text
    from forge.reconcile.past import PastOf
    from forge.reconcile.place import blame_of

    past = PastOf(place.repository, now.snapshot, planned, blame_of(place))
    told = explain(now.plan, name, place.desired, now.snapshot, past)
    return to_json(told) if output is PlanFormat.JSON else printable_lines(to_text(told))


def _warn(desired: "Desired", *, aloud: bool) -> list[str]:
    """What is valid and may still not be meant; ``aloud`` says it on stderr."""
    from forge.plan.contamination import contamination_warnings
    from forge.plan.residency import residency_warnings
    from forge.plan.upkeep import expiry_warnings

    found = [*contamination_warnings(desired.compiled), *residency_warnings(desired)]
    kept = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=min(desired.settings.retention.days, 36500.0))
    found += expiry_warnings(desired, kept.strftime("%Y-%m-%dT%H:%M:%SZ"))
    for message in found if aloud else ():
        typer.echo(f"warning: {message}", err=True)
    return found


def apply(
    context: typer.Context,
    planfile: Annotated[
        Path | None, typer.Argument(help="A plan that `forge plan --out` wrote: it is carried out as it was shown, or refused.")
    ] = None,
    ref: Ref = "HEAD",
    target: Target = [],  # noqa: B006 (typer reads the default, nobody changes it)
    force: Force = [],  # noqa: B006
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before starting (never asked without a terminal).")] = False,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="After a failure, go on with what does not need the failed step.")
    ] = False,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for another apply to end.")] = 0,
    roles: As = [],  # noqa: B006
) -> None:
    """Make the world match a commit: run, sign and record every step that is needed, then release."""
    from forge.plan.render import duration, to_text
    from forge.reconcile.apply import InterruptedApplyError, Mode
    from forge.reconcile.apply import apply as reconcile
    from forge.reconcile.approved import Approved, approved, approved_in_ledger, how_to_go_on
    from forge.reconcile.lock import apply_lock
    from forge.reconcile.place import look
    from forge.reconcile.stop import Stop, stop_on_signals
    from forge.ui.progress import display

    wanted = roles_of(roles)
    if planfile is not None and (target or force):
        raise UsageError("a plan file says what it is about: --target and --force belong to `forge plan --out`")
    with reader_of(context) as reader:
        place = acting_as(reader.place(ref, writes=True), wanted)
        began = place.now()
        stop, confirmed = Stop(), None
        with apply_lock(reader.repository.state_folder, wait):
            allowed: Approved | None
            if planfile is not None:
                allowed = approved(place, planfile.read_bytes(), str(planfile))
                chosen, made = allowed.saved.scope, allowed.saved.plan
            else:
                chosen = scope_of(place.desired, target, force)
                made = look(place, chosen).plan
                allowed = approved_in_ledger(place, chosen) if made.approvals else None
            typer.echo(to_text(made), nl=False)
            if made.changes and not yes and planfile is None and sys.stdin.isatty() and sys.stdout.isatty():
                typer.confirm("Do this?", abort=True)
                confirmed = made
            shown = display()
            try:
                with stop_on_signals(stop):  # nothing is at work before: Ctrl-C ends the question as it ends any other
                    final = reconcile(place, shown, stop, Mode(chosen, allowed, confirmed, keep_going))
            except InterruptedApplyError as error:
                if allowed is None:
                    raise
                name = str(planfile) if planfile is not None else None
                raise InterruptedApplyError(f"stopped as asked; {how_to_go_on(place, allowed.saved, name)}") from error
            finally:
                shown.close()
        _tell_end(place, final, duration((place.now() - began).total_seconds()))


def _tell_end(place: "Place", final: "Plan", took: str) -> None:
    """What an apply came to; exits 1 where something that is this machine's to do is held back."""
    from forge.contract.kinds import StepKind
    from forge.reconcile.blocked import left_to_others, no_go_table

    if any(place.acts_on(action) for action in final.blocked):
        typer.echo(no_go_table(place, final), err=True)
        raise typer.Exit(1)
    made = [action.id for action in final.changes if action.step is StepKind.RELEASE and action.products]
    if made and place.acts_for(StepKind.RELEASE):
        typer.echo(f"Not released yet, for others have to sign first: {', '.join(made)}.", err=True)
        raise typer.Exit(1)
    left = left_to_others(place, final)
    if left:
        typer.echo(f"Done as {', '.join(sorted(place.roles))} ({took}). {left}.", err=True)
    else:
        typer.echo(f"In sync with commit {(final.commit or '')[:12]} ({took}).", err=True)


def status(
    context: typer.Context,
    ref: Ref = "HEAD",
    output: Annotated[DataFormat, typer.Option("--format", help="How to print it.")] = DataFormat.TEXT,
) -> None:
    """Desired, recorded and live state: each step with its last record, each environment with what it serves."""
    from forge.errors import TrustError
    from forge.reconcile.place import look
    from forge.reconcile.serving import readings
    from forge.ui.status import to_data, to_text

    with reader_of(context) as reader:
        place = reader.place(ref)
        now = look(place)
        try:
            agents = readings(place)
        except TrustError:  # without a trust root no agent's word can be judged; everything else can be shown
            agents = {}
        data = to_data(now, agents)
    typer.echo(json.dumps(data, indent=2) if output is DataFormat.JSON else to_text(data))


def schema(
    context: typer.Context,
    out: Annotated[Path | None, typer.Option(help="Folder for the schemas; default: .forge/schemas.")] = None,
) -> None:
    """Write a JSON Schema for each kind, for completion and errors in editors."""
    from forge.spec.schema import schemas

    with repository_of(context) as repository:
        # Specs name it by its place beside them, so a linked work tree needs its own.
        folder = out or own_folder(repository.root) / "schemas"
    folder.mkdir(parents=True, exist_ok=True)
    for kind, content in schemas().items():
        (folder / f"{kind}.json").write_text(json.dumps(content, indent=2) + "\n")
    print(f"{len(schemas())} schemas in {folder}", file=sys.stderr)


def _base_of(reader: "Reader", base: str, notes: list[str]) -> "Desired | None":
    """What the base asks for; None, with a note, where it is not valid: a change that mends it can be planned all the same."""
    commit = reader.repository.resolve_commit(base)
    try:
        return reader.desired(commit)
    except (SpecError, UsageError) as error:
        notes.append(f"Commit {commit[:12]}, the base, is not valid itself: this is the whole plan.")
        typer.echo(f"--base: commit {commit[:12]} is not valid, so nothing is left out:\n{error}", err=True)
        return None


def _beyond(
    reader: "Reader", desired: "Desired", made: "Plan", older: "Desired", before: "Plan"
) -> "tuple[Plan, frozenset[str] | None]":
    """The plan without what an older commit's holds as well, and the paths that differ between the two commits."""
    from forge.plan.graph import build_graph, unchanged_steps

    beyond = made.beyond(before, unchanged_steps(build_graph(desired), build_graph(older)))
    if beyond.commit is None or older.commit is None:
        return beyond, None
    return beyond, frozenset(change.path for change in reader.repository.changes(older.commit, beyond.commit))


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
