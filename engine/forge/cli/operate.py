"""reconcile, gc, scrub, init: keeping a branch, a store and a server in order."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from forge.cli.build import As
from forge.cli.place import acting_as, reader_of, roles_of


def reconcile(
    context: typer.Context,
    watch: Annotated[bool, typer.Option("--watch", help="Go on: look again at every interval, and heal what drifts.")] = False,
    interval: Annotated[float, typer.Option(min=1, help="Seconds between two looks.")] = 30.0,
    ref: Annotated[str, typer.Option(help="The branch to follow.")] = "main",
    remote: Annotated[
        str | None, typer.Option(help="The remote to fetch it from; default: ledger.remote of forge.toml, or none.")
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Serve Prometheus metrics on this port of --metrics-host; 0: a free one."),
    ] = None,
    metrics_host: Annotated[str, typer.Option(help="Address for the metrics.")] = "127.0.0.1",
    roles: As = [],  # noqa: B006 (typer reads the default, nobody changes it)
) -> None:
    """The controller: fetch, plan, apply, heal. Exit 1 when a pass without --watch leaves something degraded."""
    from forge.admission.status import StatusWatch
    from forge.ledger.ledger import Ledger
    from forge.plan.health import Health
    from forge.reconcile.controller import Controller
    from forge.reconcile.notify import Metrics, Webhook
    from forge.reconcile.place import Place
    from forge.reconcile.serving import trouble_with_serving
    from forge.reconcile.stop import Stop, stop_on_signals
    from forge.reconcile.telling import Teller, memory_of
    from forge.ui.controller import ControllerDisplay

    wanted = roles_of(roles)
    with reader_of(context) as reader:
        here = reader.settings("HEAD")
        source = remote or here.ledger.remote

        connected = False

        def newest() -> str:
            return reader.repository.fetch_branch(source, ref) if source else reader.repository.resolve_commit(ref)

        def open_place() -> Place:
            nonlocal connected
            place = acting_as(reader.place(newest(), writes=not connected), wanted)
            connected = True
            return place

        ledger = Ledger(reader.repository, here.ledger.ref, here.ledger.remote)

        def origin() -> tuple[str | None, ...]:
            commit = newest()
            ledger.refs.refresh()
            return commit, ledger.refs.target(here.ledger.ref)

        metrics, stop, silence = Metrics(), Stop(), StatusWatch()
        shown = ControllerDisplay()
        webhook = Webhook(here.notify.webhook) if here.notify.webhook else None
        if metrics_port is not None:
            shown.said(f"metrics on http://{metrics_host}:{metrics.listen(metrics_host, metrics_port)}/metrics")
        teller = Teller(shown, metrics, webhook, memory_of(reader.repository.state_folder, ref))
        controller = Controller(
            ref,
            open_place,
            origin,
            shown,
            stop,
            metrics,
            teller,
            interval,
            lambda place: trouble_with_serving(place, silence),
        )
        with stop_on_signals(stop):
            if watch:
                controller.watch()
                return
            made = controller.reconcile()
    if not made or any(found.health is Health.DEGRADED for found in teller.health.values()):
        raise typer.Exit(1)


def gc(
    context: typer.Context,
    ref: Annotated[str, typer.Option(help="The commit whose needs are kept, beside what the ledger keeps.")] = "HEAD",
    yes: Annotated[bool, typer.Option("--yes", help="Delete what is shown, without asking.")] = False,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for an apply to end.")] = 0,
) -> None:
    """Delete artifacts that no release, kept record, protected resource, commit or open lease reaches; shows them first."""
    from forge.reconcile.gc import collect_garbage, find_garbage
    from forge.reconcile.lock import apply_lock
    from forge.reconcile.place import look

    with reader_of(context) as reader:
        place = reader.place(ref)
        with apply_lock(reader.repository.state_folder, wait):
            garbage = find_garbage(place, look(place))
            for digest in garbage.artifacts:
                typer.echo(digest)
            typer.echo(
                f"{len(garbage.artifacts)} artifacts ({garbage.size:,} bytes) are reached by nothing; {garbage.kept} stay, "
                f"{garbage.young} of them only because they are young (retention.grace_hours)",
                err=True,
            )
            if garbage.undated:
                typer.echo(
                    f"{garbage.undated} artifacts more are reached by nothing and stay: the store {place.store.url} does not "
                    "tell when a file was written, so nobody can say whether they are past retention.grace_hours. To collect "
                    "them, set that to 0 in forge.toml, and say --yes only while no apply is at work anywhere",
                    err=True,
                )
            asks = sys.stdin.isatty() and sys.stdout.isatty()
            # With --yes even so: a collection that was killed may have left blobs without manifests.
            if not (yes or (garbage.artifacts and asks and typer.confirm("Delete them?"))):
                if garbage.artifacts and not asks:
                    typer.echo("nothing is deleted: say --yes", err=True)
                return
            count, size = collect_garbage(place, garbage)
        if garbage.artifacts or count:
            told = f"{len(garbage.artifacts)} artifacts are deleted, and with them {count} blobs ({size:,} bytes)"
            typer.echo(told, err=True)


def scrub(
    context: typer.Context,
    ref: Annotated[str, typer.Option(help="The commit whose forge.toml names the store.")] = "HEAD",
) -> None:
    """Hash every artifact of the store from its bytes; what is damaged is named, noted, and made again by the next apply."""
    with reader_of(context) as reader:
        place = reader.place(ref)
        whole, faults = 0, 0
        for _digest, fault in place.store.scrub():
            if fault is None:
                whole += 1
            else:
                faults += 1
                typer.echo(str(fault), err=True)
    typer.echo(f"{whole} artifacts are whole, {faults} are damaged")
    if faults:
        raise typer.Exit(1)


def init(
    server_hook: Annotated[
        Path,
        typer.Option(
            metavar="BARE_REPOSITORY", help="Install the update hook that protects the ledger in a bare repository of your own."
        ),
    ],
) -> None:
    """Prepare a Git server that you run yourself: pushes that rewrite or delete the ledger are refused there."""
    from forge.ledger.hook import install_server_hook

    typer.echo(f"installed {install_server_hook(server_hook)}", err=True)
