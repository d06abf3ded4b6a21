"""runs, logs, plot: what ran, what it said, and how its figures went."""

import json
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from forge.cli.build import DataFormat
from forge.cli.place import repository_of, settings_at_head, work_folder
from forge.errors import UsageError, printable

if TYPE_CHECKING:
    from forge.executors.runs import Run
    from forge.repo.repository import Repository
    from forge.ui.series import Series

_LOOK_EVERY_SECONDS = 0.5
_NO_PEAK = (
    ": MFU is a share of a peak that nobody named; below [accelerators.NAME] of forge.toml, where NAME is what they ran on, "
    "add `peak_flops_per_second = ..`, the datasheet's figure at their precision (dense), and commit it"
)
_RUN = "A run's id or the beginning of its key, as `forge runs` shows it; or a step, such as train/handbook: its newest run."


def runs(
    context: typer.Context,
    number: Annotated[int, typer.Option("-n", min=1, help="How many, the newest first.")] = 20,
    step: Annotated[str | None, typer.Option(help="Only of this step, such as train/handbook, or of a kind: train.")] = None,
    output: Annotated[DataFormat, typer.Option("--format", help="How to print it.")] = DataFormat.TEXT,
) -> None:
    """List attempts at steps, here and as the ledger tells, the newest first: state, time, and the last that was heard."""
    from forge.ui.runs import to_data, to_text

    with repository_of(context) as repository:
        found = [run for run in _known(repository) if step is None or step in (run.step_id, run.step_id.split("/")[0])]
    shown = found[:number]
    typer.echo(json.dumps(to_data(shown), indent=2) if output is DataFormat.JSON else to_text(shown))


def logs(
    context: typer.Context,
    run: Annotated[str, typer.Argument(help=_RUN)],
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until the run ends.")] = False,
    output: Annotated[DataFormat, typer.Option("--format", help="json: the events as they are, one a line.")] = DataFormat.TEXT,
) -> None:
    """Print what a run reported and what its process wrote, the newest attempt's. Exit 1 when it failed and --follow saw it."""
    from forge.executors.runs import RunState
    from forge.reconcile.history import find_runs
    from forge.ui.log import LogTail

    with repository_of(context) as repository:
        found = find_runs(_known(repository), run)[0]
        folder = _folder(found)
        tail = LogTail(folder, as_json=output is DataFormat.JSON)
        _print(tail.read())
        while follow and found.state is RunState.RUNNING:
            time.sleep(_LOOK_EVERY_SECONDS)
            found = find_runs(_known_here(repository), found.id)[0]
            _print(tail.read())
    if output is DataFormat.TEXT:
        typer.echo(
            f"{found.id} {found.step_id}: {found.state.value}{': ' + printable(found.message) if found.message else ''}",
            err=True,
        )
    if follow and found.state in (RunState.FAILED, RunState.INTERRUPTED):
        raise typer.Exit(1)


def plot(
    context: typer.Context,
    runs: Annotated[list[str], typer.Argument(help=_RUN + " Several are drawn over each other.")],
    metric: Annotated[
        list[str] | None, typer.Option(help="What to draw, repeated for several; in the terminal the losses by default.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write a PNG to this file instead of drawing in the terminal.")] = None,
    tensorboard: Annotated[Path | None, typer.Option(help="Write TensorBoard event files below this folder.")] = None,
) -> None:
    """Draw the figures of trainings over their tokens: losses, learning rate, gradient norm, tokens/s, MFU, memory."""
    from forge.spec.load import did_you_mean
    from forge.ui.plot import to_png, to_tensorboard, to_terminal
    from forge.ui.series import names

    for name in metric or ():
        if name not in names():
            raise UsageError(f"--metric: there is no {name!r}{did_you_mean(name, names())}")
    with repository_of(context) as repository:
        curves = _curves(repository, runs)
    wanted = metric or [*names()]
    missing = [name for name in wanted if not any(name in series for series in curves.values())]
    if metric and missing:
        hint = _NO_PEAK if "mfu" in missing else ""
        raise UsageError(f"--metric: these runs report no {', '.join(missing)}{hint}")
    if tensorboard is not None:
        to_tensorboard(curves, tensorboard)
        typer.echo(f"event files are in {tensorboard}", err=True)
    if out is not None:
        if out.suffix.lower() != ".png":
            raise UsageError(f"--out: {out} is no .png file, and PNG is what is drawn")
        to_png(curves, wanted, out)
        typer.echo(f"{out}", err=True)
    elif tensorboard is None:
        size = shutil.get_terminal_size((100, 30))
        shown = metric or ["loss", "bits_per_byte"]
        typer.echo(to_terminal(curves, shown, min(size.columns, 120), max(12, min(size.lines - 4, 22))), nl=False)


def _curves(repository: "Repository", names: list[str]) -> "dict[str, dict[str, Series]]":
    from forge.executors.events import read_events
    from forge.executors.runs import request_of
    from forge.reconcile.history import find_runs
    from forge.ui.series import series_of

    known, settings = _known(repository), settings_at_head(repository)
    curves = {}
    for name in names:
        attempts = [run for run in reversed(find_runs(known, name)) if run.folder is not None]
        if not attempts:
            _folder(find_runs(known, name)[0])
        request = request_of(attempts[-1])
        peak = settings.peak_flops_per_second(request.resources.accelerator, request.resources.processes)
        series = series_of([read_events(_folder(run)) for run in attempts], peak)
        if not series:
            raise UsageError(f"{attempts[-1].step_id} reports no figures over tokens: only trainings do")
        curves[f"{attempts[-1].step_id} {attempts[-1].id.partition('-')[0]}"] = dict(series)
    return curves


def _known(repository: "Repository") -> "list[Run]":
    """The attempts in this clone and in the ledger as this clone has it."""
    from forge.ledger.ledger import Ledger
    from forge.reconcile.history import runs_of

    return runs_of(Ledger(repository, settings_at_head(repository).ledger.ref).snapshot(), work_folder(repository))


def _known_here(repository: "Repository") -> "list[Run]":
    from forge.executors.runs import local_runs

    return local_runs(work_folder(repository))


def _folder(run: "Run") -> Path:
    if run.folder is None:
        raise UsageError(f"{run.id} ({run.step_id}) has no folder here: it ran elsewhere, or .forge/work was cleared")
    return run.folder


def _print(lines: list[str]) -> None:
    for line in lines:
        typer.echo(line)
    sys.stdout.flush()
