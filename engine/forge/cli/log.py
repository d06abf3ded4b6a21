"""log: the transparency logs of the ledger and of audit logs, and what others check of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from forge.cli.place import forge_folder, repository_of, tree_of

if TYPE_CHECKING:
    from forge.reconcile.log_place import LogPlace
    from forge.repo.repository import Repository
    from forge.tlog.log import View
    from forge.tlog.note import VerifierKey
    from forge.tlog.seals import Seals

log = typer.Typer(help="Transparency logs: what nobody can take back once it was shown.", no_args_is_help=True)

Environment = Annotated[str | None, typer.Option("--env", help="The audit log of this environment, instead of the ledger.")]
LogKey = Annotated[str, typer.Option("--key", help="The log's verifier key, NAME+ID+KEY, as `forge log init` prints it.")]


def audit_folder(repository: "Repository", environment: str) -> Path:
    """One folder per environment: a file of lines has one writer."""
    return forge_folder(repository) / "serve" / "audit" / environment


@contextmanager
def log_place(context: typer.Context) -> Iterator["LogPlace"]:
    """The logs of the repository that --repo names, as the commit at HEAD places them."""
    from forge.attest.trust import config_folder
    from forge.reconcile.log_place import LogPlace
    from forge.repo.desired import settings_of

    with repository_of(context) as repository:
        yield LogPlace(repository, settings_of(tree_of(repository, "HEAD", worktree=False)), config_folder())


@log.command("init")
def init(
    context: typer.Context,
    environments: Annotated[list[str], typer.Option("--env", help="Print the key of its audit log too; may be repeated.")] = [],  # noqa: B006
) -> None:
    """Make the key that signs this machine's logs, and print what others check them with. An existing key is kept."""
    from forge.attest.trust import read_trust_root
    from forge.tlog.key import load_key, make_key
    from forge.tlog.note import verifier_key

    with log_place(context) as place:
        names = [place.origin(None), *(place.origin(environment) for environment in environments)]
        read_trust_root(place.config)  # `forge keys init` makes none where a key lies already
        typer.echo(f"{'made' if make_key(place.key_file) else 'kept'} the key {place.key_file}", err=True)
        private = load_key(place.key_file)
        for name in names:
            typer.echo(str(verifier_key(name, private)))


@log.command("update")
def update(context: typer.Context, environment: Environment = None) -> None:
    """Log what is new: the ledger's entries, or the audit lines of an environment whose agent does not run."""
    from forge.ledger.ledger import Ledger
    from forge.reconcile import ledger_log
    from forge.tlog.feed import Feed
    from forge.tlog.key import load_key
    from forge.tlog.log import open_writer
    from forge.tlog.seals import Seals

    with log_place(context) as place:
        folder, origin = place.folder(environment), place.origin(environment)
        private = load_key(place.key_file)
        forge_folder(place.repository)
        if environment is None:
            snapshot = Ledger(place.repository, place.settings.ledger.ref, place.settings.ledger.remote).fetch()
        with open_writer(folder, origin, private, Seals(place.seals)) as writer:
            if environment is None:
                count = ledger_log.update(writer, snapshot)
            else:
                feed = Feed(writer, audit_folder(place.repository, environment))
                try:
                    count = feed.poll()
                finally:
                    feed.close()
            typer.echo(f"{count} new; {writer.view().checkpoint}")


@log.command("check")
def check(
    context: typer.Context,
    environment: Environment = None,
    files: Annotated[list[Path], typer.Option(help="A folder that audit files were moved to; may be repeated.")] = [],  # noqa: B006
    key: Annotated[str | None, typer.Option(help="The log's verifier key; default: this machine's log key.")] = None,
) -> None:
    """Hash a whole log again and compare it with the ledger or the audit files; exit 1 with the first place that is wrong."""
    from forge.errors import TrustError
    from forge.ledger.ledger import Ledger
    from forge.reconcile import ledger_log
    from forge.tlog.compare import compare_files
    from forge.tlog.seals import Seals

    with log_place(context) as place:
        try:
            view = _view(place, environment, key)
            _check_not_set_back(view, Seals(place.seals))
            if environment is None:
                waiting = ledger_log.check(view, Ledger(place.repository, place.settings.ledger.ref).snapshot())
                typer.echo(f"holds: {view.checkpoint}; every leaf is an entry of the ledger")
            else:
                found = compare_files(view, [audit_folder(place.repository, environment), *files])
                waiting = found.waiting
                typer.echo(f"holds: {view.checkpoint}; {found.lines} lines of the audit files are as they were logged")
                for name, count in sorted(found.absent.items()):
                    typer.echo(f"not compared: {count} lines of {name}, which is not here (--files names the folder it is in)")
        except TrustError as error:  # the log is what is judged here, not a request that is refused
            typer.echo(str(error), err=True)
            raise typer.Exit(1) from error
        if waiting > 0:
            typer.echo(f"not logged yet: {waiting}; `forge log update` logs them")


@log.command("prove")
def prove(
    context: typer.Context,
    subject: Annotated[str, typer.Argument(help="sha256:DIGEST of a ledger's entry or attestation, or a request's id.")],
    environment: Environment = None,
    out: Annotated[Path | None, typer.Option(help="Write the proof to this file instead of stdout.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Prove it against this checkpoint, e.g. a cosigned one.")] = None,
    key: Annotated[str | None, typer.Option(help="The log's verifier key; default: this machine's log key.")] = None,
) -> None:
    """Write a file that proves, without the log, that it holds an entry."""
    from forge.canonical import is_digest
    from forge.errors import UsageError
    from forge.reconcile.ledger_log import find_leaf
    from forge.tlog.lines import find_request
    from forge.tlog.proof import prove as make_proof

    if environment is None and not is_digest(subject):
        raise UsageError(f"{subject!r} is no sha256:DIGEST; for the id of a request, name its environment (--env)")
    with log_place(context) as place:
        view = _view(place, environment, key, checkpoint)
        index = find_leaf(view, subject) if environment is None else find_request(view, subject)
        proof = make_proof(view, index)
    if out is None:
        typer.echo(proof.to_bytes(), nl=False)
    else:
        out.write_bytes(proof.to_bytes())
        typer.echo(f"{out}: leaf {index} of {view.checkpoint}")


@log.command("verify")
def verify(
    proof: Annotated[Path, typer.Argument(help="A file that `forge log prove` wrote.")],
    key: LogKey,
    witnesses: Annotated[list[str], typer.Option("--witness", help="A witness's verifier key; each must have cosigned.")] = [],  # noqa: B006
    subject: Annotated[str | None, typer.Option(help="What the leaf must name: a digest, or a request's id.")] = None,
) -> None:
    """Check a proof, offline and without a repository; exit 4 where it does not hold. Prints the leaf that it is about."""
    from forge.errors import TrustError, printable
    from forge.tlog.note import parse_verifier_key
    from forge.tlog.proof import check_proof, read_proof

    found = read_proof(proof.read_bytes())
    signed = check_proof(found, parse_verifier_key(key), tuple(parse_verifier_key(text) for text in witnesses))
    if subject is not None and f'"{subject}"' not in found.leaf:
        raise TrustError(f"{proof}: the proof holds, but its leaf does not name {subject}: {printable(found.leaf)}")
    typer.echo(f"holds: leaf {found.index} of {signed.checkpoint}")
    for cosignature in signed.cosignatures:
        typer.echo(f"cosigned: {cosignature.key.name} at {cosignature.time} (seconds since 1970)")
    typer.echo(printable(found.leaf))


@log.command("witness")
def witness(
    folder: Annotated[Path, typer.Argument(help="The log's folder, or a copy of it.")],
    state: Annotated[Path, typer.Option(help="A file of the witness's own: the last checkpoint that it saw of each log.")],
    key: Annotated[Path, typer.Option(help="The witness's private key: Ed25519, PEM.")],
    name: Annotated[str, typer.Option(help="The witness's name, e.g. witness.example.org.")],
    log_key: Annotated[str, typer.Option(help="The log's verifier key, as its operator published it.")],
    out: Annotated[Path | None, typer.Option(help="Write the cosigned checkpoint to this file.")] = None,
) -> None:
    """Cosign a log's checkpoint if the log continues what was seen before; exit 4 and both roots if it does not."""
    import time

    from forge.tlog.key import load_key
    from forge.tlog.note import SignatureType, parse_verifier_key, verifier_key
    from forge.tlog.seals import Seals
    from forge.tlog.witness import Witness

    private = load_key(key)
    view, line = Witness(name, private, Seals(state), time.time).cosign(folder, parse_verifier_key(log_key))
    typer.echo(f"cosigned: {view.checkpoint}", err=True)
    typer.echo(f"verifier key: {verifier_key(name, private, SignatureType.COSIGNATURE)}", err=True)
    if out is None:
        typer.echo(line, nl=False)
    else:
        out.write_bytes(view.signed.data + line.encode())


def _view(place: "LogPlace", environment: str | None, key: str | None, checkpoint: Path | None = None) -> "View":
    from forge.tlog.log import read_log, view_at

    verifier = _verifier(place, environment, key)
    folder = place.folder(environment)
    return read_log(folder, verifier) if checkpoint is None else view_at(folder, checkpoint.read_bytes(), verifier)


def _verifier(place: "LogPlace", environment: str | None, key: str | None) -> "VerifierKey":
    from forge.tlog.key import load_key
    from forge.tlog.note import parse_verifier_key, verifier_key

    if key is not None:
        return parse_verifier_key(key)
    return verifier_key(place.origin(environment), load_key(place.key_file))


def _check_not_set_back(view: "View", seals: "Seals") -> None:
    """The log must continue what was signed here last, where anything was."""
    from forge.errors import TrustError

    seal = seals.last(view.checkpoint.origin)
    if seal is not None:
        try:
            view.check_continues(seal.checkpoint)
        except TrustError as error:
            raise TrustError(
                f"{view.files.folder}: {seal.checkpoint} was signed here last, the log is at {view.checkpoint}: it was set "
                f"back, cut or exchanged ({error})"
            ) from error
