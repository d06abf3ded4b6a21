"""The whole agent in a process of its own, over a real ledger: it follows the pointer and says so, signed.

In vLLM's place stands a small server; tests/serve/test_engine.py has the real one.
"""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.conftest import DEPLOYMENT, agent_signers, commit_all, git, run_forge
from tests.serve.standin import serve_instead_of_vllm, words_of

from forge.admission.status import StatusFault, StatusReading, read_status
from forge.ledger.refs import LocalRefs
from forge.repo.repository import Repository
from forge.serve.agent import ServeSettings
from forge.serve.transparency import AuditLogPlace
from forge.serve.watch import Source
from forge.tlog.compare import compare_files
from forge.tlog.key import load_key, make_key
from forge.tlog.log import read_log
from forge.tlog.note import verifier_key

REF = "refs/forge/ledger"
ORIGIN = "example.org/forge/audit/local"
KEY = "a-key-of-the-tests-0123"
SERVE = """
import pickle, sys
from forge.serve.agent import serve_environment
source, settings = pickle.load(open(sys.argv[1], "rb"))
serve_environment(source, settings)
"""


@dataclass
class Agent:
    folder: Path
    config: Path
    process: "subprocess.Popen[bytes]"
    place: Path

    def local(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.place / "status.json").read_text())
        return found

    def published(self) -> StatusReading:
        with Repository(self.folder) as repository:
            return read_status(LocalRefs(repository), repository, "local", agent_signers(self.config))

    def said(self) -> str:
        return (self.place / "stderr").read_text()

    def until(self, condition: Callable[[], bool], seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < deadline, f"{self.local()}\n{self.said()}"
            time.sleep(0.05)

    def is_now(self, state: str) -> bool:
        return (self.place / "status.json").exists() and self.local()["state"] == state

    def ask(self, max_tokens: int) -> tuple[int, dict[str, str], Any]:
        body = {"model": "small", "messages": [{"role": "user", "content": "a"}], "max_tokens": max_tokens}
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.local()['port']}/v1/chat/completions",
            json.dumps(body).encode(),
            {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return response.status, dict(response.headers), json.load(response)
        except urllib.error.HTTPError as error:
            return error.code, dict(error.headers), json.load(error)

    def apply(self) -> None:
        commit_all(self.folder)
        run_forge(self.folder, self.config, "apply")

    def engines(self) -> list[int]:
        children = psutil.Process(self.process.pid).children(recursive=True)
        words = {child.pid: words_of(child) for child in children}  # none of one that ends meanwhile
        return [pid for pid, said in words.items() if "engine.py" in " ".join(said) and "-I" not in said]


def start(folder: Path, config: Path, place: Path) -> Agent:
    place.mkdir()
    python = serve_instead_of_vllm(place)
    source = Source(folder, "local", REF, None, ".forge/store", config, place / "weights", poll_seconds=0.2)
    make_key(place / "log.pem")
    audit_log = AuditLogPlace(place / "audit-log", ORIGIN, place / "log.pem", place / "seals.json")
    settings = ServeSettings(
        audit_folder=place / "audit", audit_log=audit_log, status_file=place / "status.json", log_folder=place / "log", port=0,
        environment={**os.environ, "FORGE_TEST_KEY": KEY}, python=python, engine_start_seconds=20,
    )  # fmt: skip
    (place / "input").write_bytes(pickle.dumps((source, settings)))
    with (place / "stderr").open("wb") as stderr:
        process = subprocess.Popen([sys.executable, "-c", SERVE, str(place / "input")], stderr=stderr)
    return Agent(folder, config, process, place)


@pytest.fixture
def agent(copy_of_applied: Path, config_home: Path, tmp_path: Path) -> Iterator[Agent]:
    agent = start(copy_of_applied, config_home, tmp_path / "agent")
    try:
        agent.until(lambda: agent.is_now("ready"))
        yield agent
    finally:
        agent.process.send_signal(signal.SIGTERM)
        agent.process.wait(30)


def test_the_life_of_an_agent(agent: Agent) -> None:
    """One agent, because each starts an engine: a stricter policy, a broken chain, a mended one, retirement, the end."""
    first, engines = agent.local(), agent.engines()
    agent.until(lambda: agent.published().status is not None and agent.published().status.state == "ready")  # type: ignore[union-attr]
    status = agent.published().status
    assert status is not None
    assert (status.release, status.policy, status.is_serving) == (first["release_digest"], first["policy_digest"], True)
    assert agent.ask(32)[0] == 200

    policy = agent.folder / "policies" / "small.yaml"
    policy.write_text(policy.read_text().replace("max_tokens: 32", "max_tokens: 16"))
    agent.apply()
    agent.until(lambda: agent.local()["policy_digest"] != first["policy_digest"])
    second = agent.local()
    assert agent.ask(32)[2]["error"]["code"] == "limit_exceeded"
    code, headers, _ = agent.ask(16)
    assert (code, headers["x-forge-release"]) == (200, second["release_digest"])
    assert agent.engines() == engines
    lines = [json.loads(line) for file in (agent.place / "audit").iterdir() for line in file.read_text().splitlines()]
    assert [line["policy_digest"] for line in lines] == [first["policy_digest"], *2 * [second["policy_digest"]]]

    stored = agent.folder / ".forge" / "store"
    away = stored.with_name("away")
    policy.write_text(policy.read_text().replace("max_tokens: 16", "max_tokens: 8"))
    commit_all(agent.folder)
    agent.process.send_signal(signal.SIGSTOP)  # so that it sees the move only when the chain is broken
    run_forge(agent.folder, agent.config, "apply")
    stored.rename(away)
    agent.process.send_signal(signal.SIGCONT)
    agent.until(lambda: agent.is_now("degraded"))
    assert "the release was refused" in agent.local()["reason"]
    assert (agent.local()["release_digest"], agent.ask(16)[0]) == (second["release_digest"], 200)
    agent.until(lambda: agent.published().status is not None and agent.published().status.wanted != second["release_digest"])  # type: ignore[union-attr]
    away.rename(stored)
    agent.until(lambda: agent.is_now("ready"))
    assert agent.ask(16)[2]["error"]["code"] == "limit_exceeded"

    git_head = git(agent.folder, "rev-parse", REF)
    git(agent.folder, "update-ref", "-d", REF)
    agent.until(lambda: agent.is_now("degraded"))
    assert "the ledger was rewritten" in agent.local()["reason"]
    assert agent.ask(4)[0] == 200
    agent.until(lambda: agent.published().status is not None and agent.published().status.state == "degraded")  # type: ignore[union-attr]
    git(agent.folder, "update-ref", REF, git_head)
    agent.until(lambda: agent.is_now("ready"))

    (agent.folder / "models" / "deployment.yaml").unlink()
    agent.apply()
    agent.until(lambda: agent.is_now("retired"))
    code, _, body = agent.ask(4)
    assert (code, body["error"]["code"]) == (503, "environment_retired")
    assert git(agent.folder, "rev-parse", "HEAD") in body["error"]["message"]
    agent.until(lambda: agent.engines() == [])
    agent.until(lambda: list((agent.place / "weights").iterdir()) == [])
    (agent.folder / "models" / "deployment.yaml").write_text(DEPLOYMENT + "  engine: {max_num_seqs: 3}\n")
    agent.apply()
    agent.until(lambda: agent.is_now("ready"))
    assert agent.ask(4)[0] == 200

    agent.process.send_signal(signal.SIGTERM)
    assert agent.process.wait(30) == 0, agent.said()
    assert agent.local()["state"] == "stopped"
    last = agent.published().status
    assert last is not None
    assert (last.state, last.is_serving) == ("stopped", False)
    assert "Traceback" not in agent.said()
    log = read_log(agent.place / "audit-log", verifier_key(ORIGIN, load_key(agent.place / "log.pem")))
    logged = compare_files(log, [agent.place / "audit"])
    lines = [line for file in (agent.place / "audit").iterdir() for line in file.read_text().splitlines()]
    assert (logged.lines, logged.waiting) == (len(lines), 0), (
        "every request is in the transparency log when the agent has ended"
    )


def test_without_the_agents_key_it_serves_and_says_how_to_publish(
    copy_of_applied: Path, config_home: Path, tmp_path: Path
) -> None:
    config = tmp_path / "config"
    shutil.copytree(config_home, config)
    (config / "keys" / "agent.pem").unlink()
    agent = start(copy_of_applied, config, tmp_path / "agent")
    try:
        agent.until(lambda: agent.is_now("ready"))
        assert agent.ask(8)[0] == 200
        agent.until(lambda: "forge keys init" in agent.said())
        time.sleep(0.5)
        assert agent.said().count("the agent's status is not published: no key for the role agent") == 1
        assert agent.published().fault is StatusFault.ABSENT
        second = subprocess.run(agent.process.args, capture_output=True, timeout=30, check=False, text=True)
        assert second.returncode == 1
        assert "another `forge serve --env local` is at work in this clone" in second.stderr
        assert agent.ask(8)[0] == 200
    finally:
        agent.process.send_signal(signal.SIGTERM)
        assert agent.process.wait(30) == 0
