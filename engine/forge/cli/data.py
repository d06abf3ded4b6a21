"""data: what a recipe says of data from outside of its repository."""

import subprocess
import sys
from typing import Annotated

import typer

data = typer.Typer(no_args_is_help=True, help="Data from outside of the repository.", rich_markup_mode=None)


@data.callback()
def commands() -> None:
    """Data from outside of the repository."""


@data.command(short_help="Print what pins a file behind a URL, or a branch or tag of a Git repository.")
def pin(
    address: Annotated[str, typer.Argument(help="The URL of a file, which is read whole; or the address of a Git repository.")],
    name: Annotated[str | None, typer.Argument(metavar="REF", help="A branch or a tag of the repository.")] = None,
) -> None:
    """Print the part of a recipe's source that pins what is at an address now. Look at what it is before you use it."""
    command = [sys.executable, "-m", "forge.steps.fetch", address, *([] if name is None else [name])]
    status = subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode
    if status:
        raise typer.Exit(status if status in (1, 2) else 1)
