"""serve: the agent that runs next to the accelerators."""

from typing import Annotated

import typer

from forge.cli.place import forge_folder, repository_of, store_of, tree_of


def serve(
    context: typer.Context,
    environment: Annotated[str, typer.Option("--env", help="The environment to serve.")],
    host: Annotated[str, typer.Option(help="Address of the gateway.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the gateway; 0: a free one, named in .forge/serve/ENV.json.")
    ] = 8080,
    expose: Annotated[bool, typer.Option("--expose", help="Allow a host other than loopback (put TLS before it).")] = False,
    engine_port: Annotated[int | None, typer.Option(help="Port of vLLM on loopback; default: a free one.")] = None,
    engine_key: Annotated[
        str | None, typer.Option(help="vLLM's own key as env:NAME or file:PATH; default: a random secret.")
    ] = None,
) -> None:
    """Pull an environment's release, verify it, and serve it: vLLM behind the policy gateway."""
    import os
    import re

    from forge.attest.trust import config_folder, read_trust_root
    from forge.errors import UsageError
    from forge.ledger.ledger import Ledger
    from forge.repo.desired import read_desired
    from forge.serve.agent import ServeSettings
    from forge.serve.agent import serve as run_agent
    from forge.serve.keys import resolve_secret
    from forge.serve.pull import pull

    if re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", environment) is None:
        raise UsageError(f"--env: {environment!r} is no name of an environment")
    root = read_trust_root(config_folder())
    with repository_of(context) as repository:
        desired = read_desired(tree_of(repository, "HEAD", worktree=False))
        snapshot = Ledger(repository, desired.settings.ledger.ref).snapshot()
        state = forge_folder(repository) / "serve"
        release = pull(environment, repository, snapshot, store_of(repository, desired), root, state / "weights")
    settings = ServeSettings(
        audit_folder=state / "audit",
        status_file=state / f"{environment}.json",
        log_folder=state / "log",
        host=host,
        port=port,
        expose=expose,
        engine_port=engine_port,
        engine_key=resolve_secret(engine_key, os.environ) if engine_key else None,
    )
    run_agent(release, settings)
