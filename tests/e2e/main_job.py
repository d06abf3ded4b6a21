"""The main job, from a commit to a served model: what ``make run`` does, in the commands that a user would type.

Run as ``python tests/e2e/main_job.py`` in a clone: applies the clone's own commit, serves what it released, asks it three
things, verifies the released model, and stops what it started. It fails at the first thing that is not as it should be.
Needs no network but loopback.
"""

import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FORGE = Path(sys.executable).with_name("forge")
EMAIL = r"[a-z]{4,8}@[a-z]{4,8}\.org"
READY_SECONDS = 300


def main() -> None:
    """Apply, serve, ask, verify, summarise."""
    began = time.monotonic()
    forge("keys", "init")
    forge("keys", "delegate", "--yes")
    forge("apply", "--yes")
    applied = time.monotonic() - began
    environment = {f"FORGE_KEY_{role}": secrets.token_hex(24) for role in ("READER", "EDITOR", "AUDITOR", "ENGINE")}
    engine_port = free_port()
    with agent(environment, engine_port) as status:
        gateway = f"http://127.0.0.1:{status['port']}"
        answered = answer_for_a_reader(gateway, environment["FORGE_KEY_READER"])
        refused = refusal_for_an_auditor(gateway, environment["FORGE_KEY_AUDITOR"])
        engine = f"http://127.0.0.1:{engine_port}"
        keys = environment["FORGE_KEY_EDITOR"], environment["FORGE_KEY_ENGINE"]
        raw, redacted = redaction_for_an_editor(gateway, engine, *keys)
    forge("verify", "model/handbook")
    print(
        f"""
Done in {time.monotonic() - began:.0f} s, of which {applied:.0f} s to build and release.
  answered   {answered!r}
  refused    {refused}
  redacted   {redacted!r} (the engine itself said {raw!r})

Next:
  .venv/bin/forge plan --worktree            what your edit of models/handbook/model.yaml would do
  .venv/bin/forge verify release/local       why this model may serve
  .venv/bin/forge serve --env local          serve it (set FORGE_KEY_READER, FORGE_KEY_EDITOR and FORGE_KEY_AUDITOR first)"""
    )


def forge(*arguments: str) -> None:
    """Run a command as a user sees it; end with its exit code if it fails."""
    print(f"\n$ forge {' '.join(arguments)}", flush=True)
    done = subprocess.run([FORGE, *arguments], check=False)
    if done.returncode:
        sys.exit(done.returncode)


@contextmanager
def agent(environment: dict[str, str], engine_port: int) -> Iterator[dict[str, Any]]:
    """The serving agent on free ports, ready; ended however the block ends."""
    command = ["serve", "--env", "local", "--port", "0", "--engine-port", str(engine_port)]
    command += ["--engine-key", "env:FORGE_KEY_ENGINE"]
    print(f"\n$ forge {' '.join(command)}", flush=True)
    status_file = Path(".forge/serve/local.json")
    status_file.unlink(missing_ok=True)
    process = subprocess.Popen([FORGE, *command], env={**os.environ, **environment})
    try:
        yield wait_until_ready(process, status_file)
    finally:
        process.send_signal(signal.SIGTERM)
        check(process.wait(60) == 0, f"the agent ended with status {process.returncode}")


def wait_until_ready(process: subprocess.Popen[bytes], status_file: Path) -> dict[str, Any]:
    """Follow the status file until the agent says that it is ready."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            sys.exit(f"the agent ended with status {process.returncode}")
        if status_file.exists():
            status: dict[str, Any] = json.loads(status_file.read_text())
            if status["state"] == "ready":
                return status
        time.sleep(0.2)
    return sys.exit(f"the agent was not ready within {READY_SECONDS} s")


def answer_for_a_reader(gateway: str, key: str) -> str:
    """An ordinary question, answered."""
    messages = [{"role": "user", "content": "The apt-get command"}]
    request = {"model": "handbook", "messages": messages, "max_tokens": 24, "temperature": 0}
    status, body = post(f"{gateway}/v1/chat/completions", key, request)
    text = body["choices"][0]["message"]["content"] if status == 200 else ""
    check(bool(text.strip()), f"a reader's question should be answered, got {status} {body}")
    return str(text)


def refusal_for_an_auditor(gateway: str, key: str) -> str:
    """The same question under a role that may not ask, refused with the policy's name."""
    request = {"model": "handbook", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
    status, body = post(f"{gateway}/v1/chat/completions", key, request)
    message = str(body.get("error", {}).get("message"))
    check(status == 403 and "auditors-do-not-generate" in message, f"an auditor should be refused, got {status} {body}")
    return f"{status} {message}"


def redaction_for_an_editor(gateway: str, engine: str, key: str, engine_key: str) -> tuple[str, str]:
    """An answer that is forced to be an e-mail address: the engine says it, the gateway does not pass it on."""
    request = {
        "model": "handbook",
        "prompt": "Write to ",
        "max_tokens": 64,
        "temperature": 0,
        "structured_outputs": {"regex": EMAIL},
    }
    _, raw = post(f"{engine}/v1/completions", engine_key, request)
    said = raw["choices"][0]["text"]
    check(re.fullmatch(EMAIL, said) is not None, f"the engine should have said an e-mail address, said {said!r}")
    status, body = post(f"{gateway}/v1/completions", key, request)
    passed_on = body["choices"][0]["text"] if status == 200 else ""
    check(passed_on == "[email]", f"the address should be redacted, got {status} {body}")
    return said, passed_on


def post(url: str, key: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """POST JSON with a bearer key; returns status and JSON, also for refusals."""
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=120) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def check(holds: bool, message: str) -> None:
    """End with a message unless something holds."""
    if not holds:
        sys.exit(f"FAILED: {message}")


if __name__ == "__main__":
    main()
