"""keys new, root, pin and pin-timestamps: what sets up a team's trust, without a line of code of its own."""

import getpass
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from forge.errors import UsageError

if TYPE_CHECKING:
    from forge.attest.signers import KeyName

_RESERVED = "log"
"""`keys/log.pem` signs transparency logs (`forge log init`)."""

Encrypt = Annotated[
    bool, typer.Option("--encrypt", help="Encrypt the private key with a passphrase, asked for on the terminal.")
]
Passphrase = Annotated[
    str | None, typer.Option(help="Where the passphrase is found instead: env:NAME or file:PATH. Means --encrypt.")
]


def keys_new(
    role: Annotated[str, typer.Argument(help="data-steward, trainer, evaluator, releaser, agent or weights.")],
    name: Annotated[
        str | None,
        typer.Option(help="What the key is called, and its file. Default: the role; give another beside an old key."),
    ] = None,
    encrypt: Encrypt = False,
    passphrase: Passphrase = None,
) -> None:
    """Make a key pair for a role; print its public half as YAML, ready for `roles: {ROLE: {keys: ..}}` of a SupplyChain."""
    from pydantic import TypeAdapter, ValidationError

    from forge.attest.keys import make_key
    from forge.attest.signers import WEIGHTS
    from forge.attest.trust import config_folder
    from forge.contract.kinds import Role
    from forge.spec.fields import Name
    from forge.spec.load import did_you_mean

    roles: dict[str, KeyName] = {**{str(each): each for each in Role if each is not Role.ROOT}, WEIGHTS: WEIGHTS}
    if role == Role.ROOT:
        raise UsageError("a SupplyChain lists no root: `forge keys root` makes one, and pins it")
    if role not in roles:
        raise UsageError(f"there is no role `{role}`{did_you_mean(role, roles)}")
    called = name or role
    try:
        TypeAdapter(Name).validate_python(called)
    except ValidationError as error:
        raise UsageError(f"--name: {called!r}: expected lower-case letters, digits and hyphens, at most 63") from error
    if called in (_RESERVED, Role.ROOT, *(roles.keys() - {role})):
        raise UsageError(f"--name: `{called}` is another key's name")
    folder = config_folder()
    secret, reference = _secret(encrypt, passphrase, folder)
    public = make_key(roles[role], called, folder, secret)
    typer.echo(_as_yaml(called, public, datetime.now(UTC)), nl=False)
    _say_entry(folder, role, called, reference)
    listed = "trainer" if role == WEIGHTS else role
    typer.echo(f"list it under `roles: {listed}: keys:`, then `forge keys delegate`: until then it does not count", err=True)


def keys_root(
    encrypt: Encrypt = False,
    passphrase: Passphrase = None,
    public: Annotated[
        list[Path] | None,
        typer.Option(help="A PEM file with a public key of the root whose private key is elsewhere; may be repeated."),
    ] = None,
) -> None:
    """Make a root that is not for development, and pin it here. It trusts nobody until it has signed a SupplyChain."""
    from forge.attest.keys import make_root
    from forge.attest.trust import TRUST_FILE, config_folder

    if public and (encrypt or passphrase):
        raise UsageError("--public makes no private key: there is nothing to encrypt")
    folder = config_folder()
    secret, reference = _secret(encrypt, passphrase, folder)
    root = make_root(folder, secret, public or ())
    typer.echo(root.describe())
    if public:
        typer.echo(f"say in {folder / 'signers.toml'} under [root] where its private key is", err=True)
    else:
        _say_entry(folder, "root", "root", reference)
    typer.echo(
        f"give everybody who verifies {folder / TRUST_FILE}, and by another way its digest: they run `forge keys pin`", err=True
    )


def keys_pin(
    file: Annotated[Path, typer.Argument(help="The root, as the trust-root.json of whoever keeps it.")],
    digest: Annotated[str, typer.Option(help="Its digest, sha256:.., as somebody whom you trust told you by another way.")],
    replace: Annotated[bool, typer.Option("--replace", help="Trust this root instead of the one that is pinned.")] = False,
) -> None:
    """Pin a root: every verdict here rests on it, and on the successors that it signs."""
    from forge.attest.trust import config_folder, pin_trust_root

    typer.echo(f"pinned {pin_trust_root(config_folder(), file.read_bytes(), digest, replace=replace).describe()}")


def keys_pin_timestamps(
    file: Annotated[
        Path, typer.Argument(help="The authority's certificates, PEM: the self-signed ones, and those in between.")
    ],
    fingerprints: Annotated[
        list[str],
        typer.Option("--fingerprint", help="SHA-256 of each self-signed certificate, as somebody whom you trust told you."),
    ],
    replace: Annotated[bool, typer.Option("--replace", help="Believe these instead of those that are pinned.")] = False,
) -> None:
    """Pin a time-stamping authority: what it says about the time of a signature is believed here, and nobody else's word."""
    from forge.attest.timestamps import pin_timestamp_authority
    from forge.attest.trust import config_folder

    authority = pin_timestamp_authority(config_folder(), file.read_bytes(), fingerprints, replace=replace)
    typer.echo(f"pinned the time-stamping authority {authority.describe()}")


def _secret(encrypt: bool, passphrase: str | None, folder: Path) -> tuple[str | None, str | None]:
    """The passphrase, and what signers.toml calls the place where it is found; None and None for a key in the clear."""
    from forge.attest.signers import read_secret

    if passphrase is not None:
        if not passphrase.startswith(("env:", "file:")):
            raise UsageError(
                "--passphrase: expected env:NAME or file:PATH, never the passphrase itself: others see a command line"
            )
        if passphrase.startswith("file:"):
            passphrase = f"file:{Path(passphrase.removeprefix('file:')).absolute()}"
        return read_secret(passphrase, folder, "passphrase"), passphrase
    if not encrypt:
        return None, None
    if not sys.stdin.isatty():
        raise UsageError("--encrypt asks for a passphrase, and there is no terminal: use --passphrase env:NAME or file:PATH")
    typed = getpass.getpass("Passphrase: ")
    if getpass.getpass("Again: ") != typed:
        raise UsageError("the two passphrases differ: no key was made")
    return typed, "ask"


def _say_entry(folder: Path, role: str, called: str, reference: str | None) -> None:
    """What has to stand in signers.toml for the new key to be used; nothing for a key that needs no entry."""
    lines = [f"[{role}]"]
    if called != role:
        lines.append(f'uri = "file2:keys/{called}.pem"')
    if reference is not None:
        lines.append(f'secret = "{reference}"')
    if len(lines) > 1:
        typer.echo(f"for it to sign here, {folder / 'signers.toml'} says:\n" + "\n".join(lines), err=True)


def _as_yaml(name: str, public: str, now: datetime) -> str:
    rows = [f"- name: {name}", "  public: |", *(f"    {line}" for line in public.splitlines())]
    return "\n".join([*rows, f"  valid_from: '{now.strftime('%Y-%m-%dT00:00:00Z')}'", ""])
