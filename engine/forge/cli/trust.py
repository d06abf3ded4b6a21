"""verify and keys: who signed what, and whether it holds."""

import json
from typing import Annotated

import typer

from forge.cli.build import DataFormat
from forge.cli.place import repository_of, store_of, tree_of

keys = typer.Typer(help="Signing keys and the trust root.", no_args_is_help=True)


def verify(
    context: typer.Context,
    subject: Annotated[str, typer.Argument(help="model/NAME, release/ENVIRONMENT or sha256:DIGEST.")],
    output: Annotated[DataFormat, typer.Option("--format", help="How to print it.")] = DataFormat.TEXT,
) -> None:
    """Check a chain of evidence from the bytes up; exit 4 and the names of what is at fault when it does not hold."""
    from forge.admission.verify import verify as check
    from forge.attest.trust import config_folder, read_trust_root
    from forge.errors import TrustError
    from forge.ledger.ledger import Ledger
    from forge.repo.desired import read_desired
    from forge.ui.verdict import to_data, to_text

    root = read_trust_root(config_folder())
    with repository_of(context) as repository:
        desired = read_desired(tree_of(repository, "HEAD", worktree=False))
        snapshot = Ledger(repository, desired.settings.ledger.ref).snapshot()
        verdict = check(subject, repository, snapshot, store_of(repository, desired), root)
    typer.echo(json.dumps(to_data(verdict), indent=2) if output is DataFormat.JSON else to_text(verdict), nl=False)
    if not verdict.holds:
        raise typer.Exit(TrustError.exit_code)


@keys.command("init")
def keys_init() -> None:
    """Make development keys, one per role, outside Git, and pin their trust root. Existing keys are kept.

    A development root that lacks a role, because it was made before there was that role, gets a key for it.
    """
    from forge.attest.keys import add_missing_keys, make_development_keys
    from forge.attest.trust import config_folder
    from forge.contract.kinds import Role

    folder = config_folder()
    before, new = make_development_keys(folder)
    if not before.development:
        lacking = ", ".join(role.value for role in Role if not before.roles.get(role))
        typer.echo(f"kept the trust root in {folder}: it is not a development root, and is never changed here")
        if lacking:
            typer.echo(f"it has no key for: {lacking}. Whoever keeps it adds one, and every verifier pins the new root")
        typer.echo(before.describe())
        return
    root, added = add_missing_keys(folder)
    typer.echo(f"{'made' if new else 'kept'} development keys in {folder}")
    if added:
        typer.echo(
            f"added a key for: {', '.join(role.value for role in added)}. The trust root was {before.digest}; "
            "whoever pinned that one pins the new one"
        )
    typer.echo(root.describe())


@keys.command("show")
def keys_show() -> None:
    """Show the pinned trust root: the key ids of each role."""
    from forge.attest.trust import config_folder, read_trust_root

    root = read_trust_root(config_folder())
    typer.echo(root.describe())
    for role, public in sorted(root.roles.items()):
        typer.echo(f"  {role.value:<14}{', '.join(key.keyid for key in public)}")
