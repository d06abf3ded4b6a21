"""What GitHub does with a workflow, as far as these tests need it: an API on loopback, and a runner for the `run:` steps."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from ruamel.yaml import YAML
from tests.conftest import ROOT

WORKFLOWS = {path.name: YAML(typ="safe", pure=True).load(path) for path in (ROOT / ".github" / "workflows").iterdir()}
INSTALLS = "Install Forge"
"""The one step that is not run: it would install Forge into the scratch clone. Its result is linked there instead."""
TOKEN = "the-token-of-the-job"
BOT = {"login": "github-actions[bot]", "type": "Bot"}


@dataclass
class GitHub:
    """Comments of pull request 7, issues, and every request that was made."""

    url: str = ""
    comments: list[dict[str, Any]] = field(default_factory=list)
    issues: list[dict[str, Any]] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    may_write: bool = True

    def answer(self, method: str, target: str, content: dict[str, Any]) -> tuple[int, Any]:
        """The status and body of an answer."""
        self.requests.append((method, target))
        if method != "GET" and not self.may_write:
            return 403, {"message": "Resource not accessible by integration"}
        path, query = urlsplit(target).path.removeprefix("/repos/acme/models/"), parse_qs(urlsplit(target).query)
        kind = self.comments if "comments" in path else self.issues
        if path in ("issues/7/comments", "issues"):
            if method == "POST":
                kind.append({"id": len(kind) + 500, "number": len(kind) + 50, "user": BOT, "state": "open", **content})
                return 201, kind[-1]
            page, size = int(query["page"][0]), int(query["per_page"][0])
            assert size <= 100
            shown = [item for item in kind if query.get("state", [None])[0] in (None, item.get("state"))]
            return 200, shown[(page - 1) * size : page * size]
        name = "id" if "comments" in path else "number"
        (item,) = [item for item in kind if item[name] == int(path.rsplit("/", 1)[-1])]
        item.update(content)
        return 200, item


@contextmanager
def github() -> Iterator[GitHub]:
    """An API that listens."""
    state = GitHub()

    class Handler(BaseHTTPRequestHandler):
        def _handle(self) -> None:
            assert self.headers["Authorization"] == f"Bearer {TOKEN}"
            length = int(self.headers.get("Content-Length") or 0)
            status, body = state.answer(self.command, self.path, json.loads(self.rfile.read(length) or b"{}"))
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PATCH = _handle  # noqa: N815 (names that the standard library looks for)

        def log_message(self, *_: object) -> None:
            """Nothing: requests are recorded."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass
class Job:
    """How a job went."""

    steps: dict[str, subprocess.CompletedProcess[str]] = field(default_factory=dict)
    """Of those that ran, by name."""
    failed: bool = False
    summary: str = ""

    @property
    def log(self) -> str:
        """All that its steps printed."""
        return "".join(f"--- {name}: {done.returncode}\n{done.stdout}{done.stderr}" for name, done in self.steps.items())


def run_job(workflow: str, workspace: Path, scratch: Path, api: GitHub, config: Path, event: Mapping[str, str]) -> Job:
    """Run the `run:` steps of a workflow's own job as a runner does; ``event`` is what GitHub knows: names -> values."""
    content = WORKFLOWS[workflow]
    job = content["jobs"][workflow.split(".", maxsplit=1)[0]]
    link = workspace / ".venv"
    if not link.exists():
        link.symlink_to(Path(sys.prefix))
    (scratch / "home").mkdir(parents=True, exist_ok=True)
    shutil.rmtree(scratch / "temp", ignore_errors=True)  # a runner empties it before each job
    (scratch / "temp").mkdir()
    summary = scratch / "summary.md"
    summary.write_text("")
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(scratch / "home"),
        "FORGE_CONFIG_HOME": str(config),
        "GITHUB_ACTIONS": "true",
        "CI": "true",
        "GITHUB_API_URL": api.url,
        "GITHUB_SERVER_URL": "https://github.invalid",
        "GITHUB_REPOSITORY": "acme/models",
        "GITHUB_RUN_ID": "99",
        "GITHUB_STEP_SUMMARY": str(summary),
        "GITHUB_WORKSPACE": str(workspace),
        "RUNNER_TEMP": str(scratch / "temp"),
        **{name: value for name, value in event.items() if name.startswith("GITHUB_")},
    }
    result = Job()
    for step in job["steps"]:
        if "run" not in step or step["name"] == INSTALLS:
            continue
        assert step.get("if", "${{ always() }}") in ("${{ always() }}", "${{ !cancelled() }}")
        if result.failed and "if" not in step:
            continue
        script = scratch / "step.sh"
        script.write_text(step["run"])
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)],
            cwd=workspace,
            env={**environment, **{name: _evaluate(str(value), event) for name, value in step.get("env", {}).items()}},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        result.steps[step["name"]] = done
        result.failed = result.failed or done.returncode != 0
    result.summary = summary.read_text()
    return result


def _evaluate(text: str, event: Mapping[str, str]) -> str:
    """The value of an expression; one that the test gives no value for is a fault of the test."""
    return re.sub(r"\$\{\{ *([^}]*?) *\}\}", lambda match: {"github.token": TOKEN, **event}[match[1]], text)
