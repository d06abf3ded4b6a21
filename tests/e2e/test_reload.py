"""A policy edit reaches a served model: one real vLLM, the command line, and a stream that is under way meanwhile."""

import json
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.conftest import MODEL, commit_all, run_forge

pytestmark = pytest.mark.e2e

KEY = "a-key-of-the-tests-0123"


def ask(port: int, **fields: Any) -> tuple[int, dict[str, str], bytes]:
    body = json.dumps({"model": "small", "prompt": "The", "seed": 1, **fields}).encode()
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/completions", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, dict(response.headers), response.read()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read()


def engines_of(agent: int) -> set[int]:
    """vLLM's processes; the agent's others are git's helpers, which come and go."""
    children = psutil.Process(agent).children(recursive=True)
    return {child.pid for child in children if "vllm" in " ".join(child.cmdline()).lower()}


def test_a_stricter_policy_is_in_force_without_a_new_engine(copy_of_applied: Path, config_home: Path) -> None:
    folder = copy_of_applied
    # vLLM's attention on CPU knows heads of 32 and more; the example's are of 16.
    (folder / "models" / "model.yaml").write_text(MODEL.replace("hidden_size: 32", "hidden_size: 64"))
    commit_all(folder)
    run_forge(folder, config_home, "apply")
    environment = {**os.environ, "FORGE_CONFIG_HOME": str(config_home), "FORGE_TEST_KEY": KEY}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [Path(sys.executable).with_name("forge"), "serve", "--env", "local", "--port", "0", "--poll", "0.5"]
    status_file = folder / ".forge" / "serve" / "local.json"
    status_file.unlink(missing_ok=True)
    agent = subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)

    def status() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(status_file.read_text())
        return found

    def until(state: str, seconds: float, **fields: str) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while not (status_file.exists() and status() | fields == status() and status()["state"] == state):
            assert agent.poll() is None
            assert time.monotonic() < deadline, status_file.read_text()
            time.sleep(0.1)
        return status()

    try:
        first = until("ready", 240)
        engines = engines_of(agent.pid)
        assert engines
        replies: list[tuple[int, dict[str, str], bytes]] = []
        done = threading.Event()

        def keep_asking() -> None:
            while not done.is_set():
                replies.append(ask(first["port"], stream=True))
                time.sleep(0.02)

        caller = threading.Thread(target=keep_asking)
        caller.start()
        policy = folder / "policies" / "small.yaml"
        text = policy.read_text().replace("max_tokens: 32", "max_tokens: 4")
        policy.write_text(text.replace("requests_per_minute: 60", "requests_per_minute: 100000"))
        commit_all(folder)
        run_forge(folder, config_home, "apply")
        deadline = time.monotonic() + 30
        while status()["policy_digest"] == first["policy_digest"]:
            assert time.monotonic() < deadline, status()
            time.sleep(0.1)
        done.set()
        caller.join(30)
        second = until("ready", 10)
        assert ask(second["port"], max_tokens=32)[0] == 400
        code, headers, body = ask(second["port"], max_tokens=4)
        assert (code, headers["x-forge-policy"]) == (200, second["policy_digest"])
        assert json.loads(body)["usage"]["completion_tokens"] <= 4
        answered = [body for code, _, body in replies if code == 200]
        assert answered
        assert all(body.endswith(b"data: [DONE]\n\n") for body in answered)
        assert {code for code, _, _ in replies} <= {200, 429}
        assert engines_of(agent.pid) == engines
    finally:
        agent.terminate()
        _, said = agent.communicate(timeout=60)
    assert "the engine runs on" in said
    assert agent.returncode == 0
