"""``forge``: the application, its global options, and the one place where an error becomes a message and an exit code.

Commands import what they need when they run, so that ``forge plan`` loads nothing heavy.
"""

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from forge import __version__
from forge.cli import assess, build, data, impact, log, operate, report, reproduce, runs, serving, trust
from forge.errors import ForgeError, printable_lines

_GIT_ENVIRONMENT = (
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_NAMESPACE",
    "GIT_PREFIX",
)
"""Set in hooks. The repository is the one that --repo or the current folder names, never one that git's environment names."""

app = typer.Typer(
    help="Turn a Git repository into a private model factory.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command(short_help="Check every spec of a commit.")(build.validate)
app.command(short_help="Show what applying a commit would do, why, and for how much.")(build.plan)
app.command(short_help="Make the world match a commit.")(build.apply)
app.command(short_help="Show desired beside recorded state.")(build.status)
app.command(short_help="List what ran, here and as the ledger tells.")(runs.runs)
app.command(short_help="Print what a run reported.")(runs.logs)
app.command(short_help="Draw a training's figures.")(runs.plot)
app.command(short_help="The controller: fetch, plan, apply, heal.")(operate.reconcile)
app.command(short_help="Delete artifacts that nothing reaches.")(operate.gc)
app.command(short_help="Hash every artifact of the store from its bytes.")(operate.scrub)
app.command(short_help="Protect the ledger on a Git server of your own.")(operate.init)
app.command(short_help="Write JSON Schemas for editors.")(build.schema)
app.command(short_help="Check a chain of evidence from the bytes up.")(trust.verify)
app.command(short_help="Approve a plan, or what an environment is to serve.")(trust.approve)
app.command(short_help="Carry out a recorded step again, with your own key.")(reproduce.reproduce)
app.command(short_help="List what descends from something, down to answered requests.")(impact.impact)
app.command(short_help="Say whether a recipe's documents are usable for training.")(assess.assess)
app.command(short_help="Write what a reviewer reads about a release.")(report.report)
app.add_typer(data.data, name="data")
app.add_typer(trust.keys, name="keys")
app.add_typer(log.log, name="log")
app.command(short_help="Verify a release, then serve it.")(serving.serve)


@dataclass(frozen=True)
class Options:
    """What stands before the verb."""

    repo: Path


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"forge {__version__}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    repo: Annotated[Path, typer.Option(help="A folder of the configuration repository.")] = Path(),
    _version_wanted: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Forge: data recipes, tokenizers, models, evaluations, policies and deployments as YAML in Git."""
    context.obj = Options(repo)


def _interrupt(_number: int, _frame: object) -> None:
    """A runner that is told to stop ends its steps as Ctrl-C does; without this they would outlive it."""
    raise KeyboardInterrupt


def run() -> None:
    """Entry point: a user's mistake ends with a message and its exit code, never with a traceback."""
    signal.signal(signal.SIGTERM, _interrupt)
    os.environ["PYDANTIC_DISABLE_PLUGINS"] = "1"  # nothing that happens to be installed decides what a valid spec is
    for name in _GIT_ENVIRONMENT:
        os.environ.pop(name, None)
    try:
        app(standalone_mode=True)
    except (
        KeyboardInterrupt
    ):  # before the command line is read: from then on typer answers it, with the same words and exit code
        print("Aborted.", file=sys.stderr)
        sys.exit(130)
    except ForgeError as error:
        sys.stdout.flush()
        print(printable_lines(str(error)), file=sys.stderr)
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        print(f"{error}: this command needs the whole installation (make setup PROFILE=cpu)", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        print(f"{error.filename or 'forge'}: {error.strerror or error}", file=sys.stderr)
        sys.exit(1)
