"""serve: the agent that runs next to the accelerators."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from forge.cli.place import forge_folder, repository_of, settings_at_head

if TYPE_CHECKING:
    from forge.reconcile.log_place import LogPlace
    from forge.serve.transparency import AuditLogPlace


class Switch(StrEnum):
    """--switch; the agent's own type lives with the engines, whose libraries ``forge plan`` must not load."""

    SIDE_BY_SIDE = "side-by-side"
    STOP_FIRST = "stop-first"


def serve(
    context: typer.Context,
    environment: Annotated[str, typer.Option("--env", help="The environment to serve.")],
    host: Annotated[str, typer.Option(help="Address of the gateway.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the gateway; 0: a free one, named in .forge/serve/ENV.json.")
    ] = 8080,
    expose: Annotated[bool, typer.Option("--expose", help="Allow a host other than loopback (put TLS before it).")] = False,
    poll: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks at the environment's pointer.")] = 10.0,
    switch: Annotated[
        Switch,
        typer.Option(help="How a new engine follows the old one: beside it, or after it (less memory; 503 in between)."),
    ] = Switch.SIDE_BY_SIDE,
    engine_port: Annotated[
        int | None, typer.Option(help="Port of vLLM on loopback; an engine beside it takes a free one, as is the default.")
    ] = None,
    engine_key: Annotated[
        str | None, typer.Option(help="vLLM's own key as env:NAME or file:PATH; default: a random secret.")
    ] = None,
) -> None:
    """Pull an environment's release, verify it, serve it (vLLM behind the policy gateway), and follow its pointer."""
    import os
    import re

    from forge.attest.trust import config_folder
    from forge.errors import UsageError
    from forge.reconcile.log_place import LogPlace
    from forge.serve.agent import ServeSettings, serve_environment
    from forge.serve.keys import resolve_secret
    from forge.serve.service import SwitchMode
    from forge.serve.watch import Source

    if re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", environment) is None:
        raise UsageError(f"--env: {environment!r} is no name of an environment")
    with repository_of(context) as repository:
        place = settings_at_head(repository)
        logs = LogPlace(repository, place, config_folder())
        audit_log = audit_log_place(logs, environment)
        state = forge_folder(repository) / "serve"
        source = Source(
            repository=repository.home,
            environment=environment,
            ledger_ref=place.ledger.ref,
            ledger_remote=place.ledger.remote,
            store_url=place.store.url,
            config=config_folder(),
            weights=state / "weights" / environment,
            poll_seconds=poll,
        )
    settings = ServeSettings(
        audit_folder=state / "audit" / environment,
        audit_log=audit_log,
        status_file=state / f"{environment}.json",
        log_folder=state / "log" / environment,
        host=host,
        port=port,
        expose=expose,
        engine_port=engine_port,
        engine_key=resolve_secret(engine_key, os.environ) if engine_key else None,
        switch=SwitchMode(switch.value),
    )
    serve_environment(source, settings)


def audit_log_place(logs: "LogPlace", environment: str) -> "AuditLogPlace | None":
    """The transparency log of an environment's audit log; None where forge.toml names no log."""
    from forge.serve.transparency import AuditLogPlace

    if logs.settings.log.origin is None:
        return None
    return AuditLogPlace(logs.folder(environment), logs.origin(environment), logs.key_file, logs.seals)
