"""verify and keys: who signed what, and whether it holds."""

import gc
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from forge.cli.build import DataFormat
from forge.cli.keyring import keys_new, keys_pin, keys_pin_timestamps, keys_root
from forge.cli.place import Offline, ledger_of, reader_of, repository_of, settings_at_head, store_of
from forge.errors import UsageError

if TYPE_CHECKING:
    from forge.repo.repository import Repository

keys = typer.Typer(help="Signing keys and the trust root.", no_args_is_help=True)
keys.command("new")(keys_new)
keys.command("root")(keys_root)
keys.command("pin")(keys_pin)
keys.command("pin-timestamps")(keys_pin_timestamps)


def verify(
    context: typer.Context,
    subject: Annotated[str, typer.Argument(help="model/NAME, release/ENVIRONMENT, or sha256:.. of an artifact or a step key.")],
    output: Annotated[DataFormat, typer.Option("--format", help="How to print it.")] = DataFormat.TEXT,
    offline: Offline = False,
) -> None:
    """Check a chain of evidence from the bytes up; exit 4 and the names of what is at fault when it does not hold."""
    from forge.admission.verify import verify as check
    from forge.attest.timestamps import read_timestamp_authority
    from forge.attest.trust import config_folder, read_trust_root
    from forge.errors import TrustError
    from forge.ui.verdict import to_data, to_text

    gc.disable()  # as in plan: many small values, no circles, and the process ends with it
    root, timestamps = read_trust_root(config_folder()), read_timestamp_authority(config_folder())
    with repository_of(context) as repository:
        settings = settings_at_head(repository)
        snapshot = ledger_of(repository, settings, root.digest, offline=offline)
        verdict = check(subject, repository, snapshot, store_of(repository, settings), root, timestamps=timestamps)
    typer.echo(json.dumps(to_data(verdict), indent=2) if output is DataFormat.JSON else to_text(verdict), nl=False)
    if not verdict.holds:
        raise typer.Exit(TrustError.exit_code)


@keys.command("init")
def keys_init() -> None:
    """Make development keys, one per role and one for logs, outside Git, and pin their trust root. Existing keys are kept.

    A development root that lacks a role, because it was made before there was that role, gets a key for it.
    """
    from forge.attest.keys import add_missing_keys, make_development_keys
    from forge.attest.trust import config_folder
    from forge.contract.kinds import Role
    from forge.reconcile.log_place import LOG_KEY
    from forge.tlog.key import make_key

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
    make_key(folder / LOG_KEY)
    typer.echo(f"{'made' if new else 'kept'} development keys in {folder}")
    if added:
        typer.echo(
            f"added a key for: {', '.join(role.value for role in added)}. The trust root was {before.digest}; "
            "whoever pinned that one pins the new one"
        )
    typer.echo(root.describe())


@keys.command("show")
def keys_show() -> None:
    """Show the pinned trust root: the key ids of each role; and the pinned time-stamping authority."""
    from forge.attest.timestamps import read_timestamp_authority
    from forge.attest.trust import config_folder, read_trust_root

    root, timestamps = read_trust_root(config_folder()), read_timestamp_authority(config_folder())
    typer.echo(root.describe())
    for role, public in sorted(root.roles.items()):
        typer.echo(f"  {role.value:<14}{', '.join(key.keyid for key in public)}")
    if timestamps is not None:
        typer.echo(f"time stamps of {timestamps.describe()}")


@keys.command("delegate")
def keys_delegate(
    context: typer.Context,
    ref: Annotated[str, typer.Option(help="The commit whose SupplyChain and People are signed.")] = "HEAD",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before signing (never asked without a terminal).")] = False,
) -> None:
    """Sign a commit's supply chain as the root: from then on it says who may do what, and what a release needs.

    Shown before: every key with its fingerprint and validity, and what changes from the one that the root signed last.
    """
    from forge.reconcile.rooting import charter_in_force, delegate, proposed_charter
    from forge.ui.charter import to_text

    with reader_of(context) as reader:
        place = reader.place(ref, writes=True)
        charter = proposed_charter(place)
        typer.echo(to_text(charter, charter_in_force(place)), nl=False)
        if not yes and sys.stdin.isatty() and sys.stdout.isatty():
            typer.confirm("Sign this as the root?", abort=True)
        signed = delegate(place)
    typer.echo(f"signed as delegation {signed.version}: {signed.digest}, commit {signed.commit[:12]}", err=True)


@keys.command("rotate")
def keys_rotate(
    context: typer.Context,
    new: Annotated[Path, typer.Argument(help="Configuration folder of the new root: its trust-root.json and its root key.")],
    ref: Annotated[str, typer.Option(help="The commit whose forge.toml names the ledger.")] = "HEAD",
) -> None:
    """Hand over to a new root, which the old one signs: verifiers that have pinned the old one follow."""
    from forge.attest.trust import TRUST_FILE
    from forge.own_files import read_own_file
    from forge.reconcile.rooting import rotate

    with reader_of(context) as reader:
        place = reader.place(ref, writes=True)
        change = rotate(place, read_own_file(new / TRUST_FILE), new)
    typer.echo(f"root change {change.version}: {change.previous} -> the root in {new}", err=True)


def approve(
    context: typer.Context,
    subject: Annotated[str, typer.Argument(help="release/ENVIRONMENT, or a plan file that `forge plan --out` wrote.")],
    key: Annotated[
        Path | None,
        typer.Option(help="Your SSH key; or its public half, where an agent holds it. Default: git's user.signingKey."),
    ] = None,
    ref: Annotated[str, typer.Option(help="The commit that is to be released.")] = "HEAD",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before signing (never asked without a terminal).")] = False,
) -> None:
    """Approve, as the person whose SSH key signs it; the supply chain says whose approval counts, and how many are needed."""
    from forge.plan.render import to_text
    from forge.plan.saved import from_bytes
    from forge.reconcile.approving import approve as sign
    from forge.reconcile.approving import plan_to_approve, release_to_approve

    with reader_of(context) as reader:
        place = reader.place(ref, writes=True)
        chosen = key or _signing_key(reader.repository)
        if subject.startswith("release/"):
            plan, wanted = None, release_to_approve(place, subject.removeprefix("release/"))
            typer.echo(f"{subject}: weights {wanted.digest}, verdict {wanted.verdict}, commit {wanted.commit[:12]}")
            if wanted.release is not None:
                typer.echo(f"{subject}: with this policy and these engine settings (release step {wanted.release})")
        else:
            plan = Path(subject).read_bytes()
            wanted = plan_to_approve(place, plan, subject)
            typer.echo(to_text(from_bytes(plan, subject).plan), nl=False)
            typer.echo(f"{subject}: plan {wanted.digest}, commit {wanted.commit[:12]}")
        if not yes and sys.stdin.isatty() and sys.stdout.isatty():
            typer.confirm("Approve this?", abort=True)
        given = sign(place, wanted, chosen, plan)
    typer.echo(f"approved by {given.person}", err=True)


def _signing_key(repository: "Repository") -> Path:
    done = repository.program(["config", "--get", "user.signingKey"])
    text = done.stdout.decode(errors="replace").strip()
    if not text or text.startswith(("ssh-", "key::")):
        raise UsageError("say which SSH key signs: --key PATH, or `git config user.signingKey PATH`")
    return Path(text).expanduser()
