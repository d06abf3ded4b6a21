"""One release follows another, with real engine processes (a small server in vLLM's place) behind the real gateway."""

import asyncio
import datetime
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
from tests.serve.standin import serve_instead_of_vllm, words_of

from forge.admission.verdict import WithdrawnSubject
from forge.canonical import digest_of_bytes
from forge.contract.status import AgentState, AgentStatus
from forge.serve import service as service_module
from forge.serve.agent import http_server, open_listener
from forge.serve.audit import AuditLog
from forge.serve.binding import Binding, bind
from forge.serve.engine import EngineSettings
from forge.serve.gateway import Gateway, new_request_id, utc_now
from forge.serve.release import ServableRelease
from forge.serve.report import Reporter
from forge.serve.service import Service, ServiceSettings, SwitchMode
from forge.serve.watch import Fault, Moved, Notice, Retired, Withdrawn


@dataclass
class World:
    """An agent without its watch: the test posts what the watch would."""

    folder: Path
    gateway: Gateway
    service: Service
    reporter: Reporter
    notices: "asyncio.Queue[Notice]"
    said: list[AgentStatus]
    tried_again: list[None]
    session: aiohttp.ClientSession
    port: int
    release: ServableRelease
    keys: dict[str, str]

    def laid_out(self, name: str, **changes: Any) -> ServableRelease:
        """A release with weights of its own in the agent's folder."""
        weights = self.folder / "weights" / name
        weights.mkdir(parents=True)
        (weights / "says").write_text(name)
        digest = digest_of_bytes(name.encode())
        return replace(self.release, model_path=weights, weights_digest=digest, release_digest=digest, **changes)

    def post(self, notice: Notice) -> None:
        self.notices.put_nowait(notice)

    def bound(self, release: ServableRelease) -> Binding:
        return bind(release, self.keys)

    async def chat(self, **fields: Any) -> tuple[int, Any]:
        body = {"model": "tiny", "messages": [{"role": "user", "content": "a"}], "max_tokens": 4, **fields}
        headers = {"authorization": f"Bearer {self.keys['KEY_READER']}"}
        url = f"http://127.0.0.1:{self.port}/v1/chat/completions"
        async with self.session.post(url, json=body, headers=headers) as response:
            text = await response.text()
            if fields.get("stream"):
                return response.status, text
            return response.status, json.loads(text)

    async def says(self) -> str:
        status, body = await self.chat()
        return body["choices"][0]["message"]["content"] if status == 200 else f"{status} {body['error']['code']}"

    async def until(self, state: AgentState, seconds: float = 20) -> None:
        await eventually(lambda: self.reporter.state is state, seconds, lambda: f"{self.reporter.state} {self.reporter.reason}")

    def engines(self) -> list[psutil.Process]:
        found = [child for child in psutil.Process().children(recursive=True) if "engine.py" in " ".join(words_of(child))]
        return [child for child in found if "-I" not in words_of(child)]


async def eventually(
    condition: Callable[[], bool], seconds: float = 20, explain: Callable[[], object] = lambda: "never happened"
) -> None:
    async with asyncio.timeout(seconds + 1):
        deadline = asyncio.get_running_loop().time() + seconds
        while not condition():
            assert asyncio.get_running_loop().time() < deadline, explain()
            await asyncio.sleep(0.02)


@asynccontextmanager
async def world(folder: Path, release: ServableRelease, keys: dict[str, str], **changes: Any) -> AsyncIterator[World]:
    said: list[AgentStatus] = []
    tried_again: list[None] = []
    engine = EngineSettings(
        python=serve_instead_of_vllm(folder),
        log_folder=folder / "log",
        environment=dict(os.environ),
        start_seconds=20,
        check=lambda release: None,  # names stand for weights here
    )
    with open_listener("127.0.0.1", 0, expose=False) as listener:
        port = listener.getsockname()[1]
        here = World(folder, None, None, None, asyncio.Queue(), said, tried_again, None, port, release, keys)  # type: ignore[arg-type]
        first = here.bound(here.laid_out("first"))
        audit = AuditLog(folder / "audit", lambda: datetime.datetime.now(datetime.UTC))
        loop = asyncio.get_running_loop()
        here.gateway = Gateway(first, audit=audit, now=utc_now, monotonic=loop.time, new_id=new_request_id)
        here.reporter = Reporter(first.release, folder / "status.json", "127.0.0.1", port, said.append)
        settings = ServiceSettings(engine, weights=folder / "weights", **changes)
        here.service = Service(here.gateway, here.reporter, settings, lambda: tried_again.append(None))
        server = http_server(here.gateway)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        following = asyncio.create_task(here.service.follow(here.notices))
        async with aiohttp.ClientSession() as here.session:
            try:
                await here.service.begin(first)
                await here.until(AgentState.READY)
                yield here
            finally:
                server.should_exit = True
                await serving
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)
                await here.service.close()
                audit.close()
    assert here.engines() == []


@pytest.fixture
def in_world(tmp_path: Path, release: ServableRelease, api_keys: dict[str, str]) -> Callable[..., None]:
    """Run a test's story against an agent that serves its first release."""

    def run(story: Callable[[World], Awaitable[None]], **changes: Any) -> None:
        async def main() -> None:
            async with world(tmp_path, release, api_keys, **changes) as here:
                await story(here)

        asyncio.run(main())

    return run


def test_another_policy_is_in_force_without_a_new_engine_and_streams_go_on(in_world: Callable[..., None]) -> None:
    async def story(here: World) -> None:
        (before,) = here.engines()
        streams = [asyncio.create_task(here.chat(stream=True, max_tokens=20)) for _ in range(3)]
        await asyncio.sleep(0.3)
        now = here.gateway.binding.release
        later = replace(now, policy_digest=digest_of_bytes(b"p2"), release_digest=digest_of_bytes(b"r2"))
        here.post(Moved(here.bound(later)))
        await eventually(lambda: here.gateway.binding.release == later)
        assert not any(stream.done() for stream in streams)
        for status, text in await asyncio.gather(*streams):
            assert (status, text.count("first "), text.endswith("data: [DONE]\n\n")) == (200, 20, True)
        assert here.engines() == [before]
        assert here.reporter.state is AgentState.READY
        assert (here.said[-1].policy, here.said[-1].release) == (later.policy_digest, later.release_digest)
        lines = [json.loads(line) for f in (here.folder / "audit").iterdir() for line in f.read_text().splitlines()]
        assert {line["release_digest"] for line in lines} == {now.release_digest}

    in_world(story)


def test_other_weights_take_over_without_a_refused_request(in_world: Callable[..., None]) -> None:
    async def story(here: World) -> None:
        first, old = here.gateway.binding.release, here.engines()
        (here.folder / "slow").touch()
        answers: list[str] = []
        done = asyncio.Event()

        async def ask() -> None:
            while not done.is_set():
                answers.append(await here.says())

        asking = asyncio.create_task(ask())
        here.post(Moved(here.bound(here.laid_out("second"))))
        await here.until(AgentState.SWITCHING)
        await eventually(lambda: len(here.engines()) == 2)
        assert (here.said[-1].release, here.said[-1].is_serving) == (first.release_digest, True)
        assert here.said[-1].wanted == digest_of_bytes(b"second")
        stream = asyncio.create_task(here.chat(stream=True, max_tokens=30))
        await eventually(lambda: here.gateway.under_way(here.gateway.binding.upstream) >= 2)
        (here.folder / "slow").unlink()
        await eventually(lambda: "second" in answers)
        status, text = await stream
        assert (status, text.count("first ")) == (200, 30)
        done.set()
        await asking
        assert set(answers) == {"first", "second"}
        assert answers == sorted(answers)
        await eventually(lambda: len(here.engines()) == 1 and here.engines() != old)
        await eventually(lambda: not first.model_path.exists())
        assert here.reporter.state is AgentState.READY

    in_world(story)


@pytest.mark.parametrize("mode", SwitchMode)
def test_an_engine_that_does_not_come_up_leaves_the_old_one_serving(in_world: Callable[..., None], mode: SwitchMode) -> None:
    async def story(here: World) -> None:
        first = here.gateway.binding.release
        (here.folder / "broken").touch()
        second = here.laid_out("second")
        here.post(Moved(here.bound(second)))
        if mode is SwitchMode.STOP_FIRST:
            await eventually(lambda: "not come up" in str(here.reporter.switch_fault))
            (here.folder / "broken").unlink()
        await eventually(lambda: here.reporter.switch_fault is not None and here.reporter.engine_fault is None)
        assert here.reporter.state is AgentState.DEGRADED
        assert await here.says() == "first"
        last = here.said[-1]
        assert (last.release, last.wanted, last.is_serving) == (first.release_digest, second.release_digest, True)
        assert "did not come up" in str(last.reason)
        assert "no such architecture" in str(here.reporter.reason)
        assert "no such architecture" not in str(last.reason)  # lines of a log stay on the machine
        await eventually(lambda: not second.model_path.exists())
        assert first.model_path.exists()
        (here.folder / "broken").unlink(missing_ok=True)
        await eventually(lambda: here.tried_again != [])  # the retry, which in an agent has the watch post the release anew
        here.post(Moved(here.bound(here.laid_out("third"))))
        await here.until(AgentState.READY)
        assert await here.says() == "third"

    before = service_module.FIRST_RETRY_SECONDS
    service_module.FIRST_RETRY_SECONDS = 0.5
    try:
        in_world(story, mode=mode)
    finally:
        service_module.FIRST_RETRY_SECONDS = before


def test_an_engine_that_is_healthy_but_cannot_answer_gets_no_request(in_world: Callable[..., None]) -> None:
    async def story(here: World) -> None:
        (here.folder / "mute").touch()
        (first,) = here.engines()
        here.post(Moved(here.bound(here.laid_out("second"))))
        await here.until(AgentState.SWITCHING)
        await here.until(AgentState.DEGRADED)
        assert "came up healthy but cannot answer" in str(here.reporter.reason)
        (here.folder / "mute").unlink()
        assert await here.says() == "first"
        assert here.engines() == [first]

    in_world(story)


def test_stop_first_never_runs_two_engines_and_refuses_in_between(in_world: Callable[..., None]) -> None:
    async def story(here: World) -> None:
        (here.folder / "slow").touch()
        stream = asyncio.create_task(here.chat(stream=True, max_tokens=10))
        await asyncio.sleep(0.2)
        here.post(Moved(here.bound(here.laid_out("second"))))
        await eventually(lambda: here.reporter.engine_fault is not None)
        assert await here.says() == "503 engine_unavailable"
        status, text = await stream
        assert (status, text.count("first ")) == (200, 10)
        most = 0
        for _ in range(20):
            most = max(most, len(here.engines()))
            await asyncio.sleep(0.02)
        assert most == 1
        (here.folder / "slow").unlink()
        await here.until(AgentState.READY)
        assert await here.says() == "second"

    in_world(story, mode=SwitchMode.STOP_FIRST)


@pytest.mark.parametrize("mode", SwitchMode)
def test_a_later_move_ends_the_attempt_that_is_under_way(in_world: Callable[..., None], mode: SwitchMode) -> None:
    async def story(here: World) -> None:
        (here.folder / "slow").touch()
        second = here.laid_out("second")
        here.post(Moved(here.bound(second)))
        await eventually(lambda: any(str(second.model_path) in words_of(engine) for engine in here.engines()))
        (here.folder / "slow").unlink()
        (here.folder / "slow").touch()
        here.post(Moved(here.bound(here.laid_out("third"))))
        await eventually(lambda: not second.model_path.exists())
        (here.folder / "slow").unlink()
        await here.until(AgentState.READY)
        await eventually(lambda: here.gateway.binding.release.weights_digest == digest_of_bytes(b"third"))
        assert await here.says() == "third"
        await eventually(lambda: len(here.engines()) == 1)

    in_world(story, mode=mode)


def test_a_retired_environment_finishes_what_is_under_way_then_ends_its_engine_and_may_come_back(
    in_world: Callable[..., None],
) -> None:
    async def story(here: World) -> None:
        stream = asyncio.create_task(here.chat(stream=True, max_tokens=20))
        await asyncio.sleep(0.2)
        here.post(Retired("commit abc retired Deployment/tiny"))
        await here.until(AgentState.RETIRED)
        assert await here.says() == "503 environment_retired"
        status, text = await stream
        assert (status, text.count("first ")) == (200, 20)
        await eventually(lambda: here.engines() == [])
        last = here.said[-1]
        assert (last.release, last.is_serving, last.reason) == (None, False, "commit abc retired Deployment/tiny")
        here.post(Moved(here.bound(here.laid_out("second"))))
        await here.until(AgentState.READY)
        assert await here.says() == "second"

    in_world(story)


def test_a_fault_of_the_pointer_degrades_and_serves_on(in_world: Callable[..., None]) -> None:
    async def story(here: World) -> None:
        here.post(Fault("the remote is away"))
        await here.until(AgentState.DEGRADED)
        assert await here.says() == "first"
        assert (here.said[-1].is_serving, here.said[-1].reason) == (True, "the remote is away")
        here.post(Fault(None))
        await here.until(AgentState.READY)

    in_world(story)


def test_without_memory_for_two_the_second_is_not_started(
    in_world: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "available_bytes", lambda: 2**30)

    async def story(here: World) -> None:
        here.post(Moved(here.bound(here.laid_out("second"))))
        await here.until(AgentState.DEGRADED)
        assert "--switch stop-first" in str(here.reporter.reason)
        assert len(here.engines()) == 1
        assert await here.says() == "first"

    in_world(story)


def test_requests_that_do_not_end_are_cut_off_after_a_while(in_world: Callable[..., None]) -> None:
    async def story(here: World) -> None:
        stream = asyncio.create_task(here.chat(stream=True, max_tokens=32))
        await asyncio.sleep(0.2)
        here.post(Moved(here.bound(here.laid_out("second"))))
        await here.until(AgentState.READY)
        await eventually(lambda: here.gateway.binding.release.weights_digest == digest_of_bytes(b"second"))
        _, text = await stream
        assert "engine_fault" in text
        assert text.count("first ") < 32

    in_world(story, drain_seconds=0.2)


def withdrawn(release: ServableRelease, serving: str = "stop") -> Withdrawn:
    subject = WithdrawnSubject("DataRecipe/manuals", "a person asked for it", serving, 42, "a" * 40)
    return Withdrawn(release.release_digest, (subject,))


def test_what_is_withdrawn_ends_at_once_and_callers_are_not_told_why(in_world: Callable[..., None]) -> None:
    async def story(here: World) -> None:
        first = here.gateway.binding.release
        stream = asyncio.create_task(here.chat(stream=True, max_tokens=2000))
        await asyncio.sleep(0.2)
        here.post(withdrawn(first))
        await here.until(AgentState.WITHDRAWN)
        status, body = await here.chat()
        assert (status, body["error"]["code"]) == (503, "release_withdrawn")
        assert "entry 42 of the ledger" in body["error"]["message"]
        assert "person" not in body["error"]["message"]
        assert "manuals" not in body["error"]["message"]
        await eventually(lambda: here.engines() == [])
        assert (await stream)[1].count("first ") < 2000
        last = here.said[-1]
        assert (last.release, last.is_serving, last.wanted) == (None, False, first.release_digest)
        assert "DataRecipe/manuals is withdrawn (a person asked for it; entry 42" in str(last.reason)
        assert here.service.served() is None
        here.post(Moved(here.bound(here.laid_out("second"))))
        await here.until(AgentState.READY)
        assert await here.says() == "second"

    in_world(story)


def test_what_is_only_refused_runs_on_and_is_not_started_again_until_that_is_lifted(in_world: Callable[..., None]) -> None:
    async def story(here: World) -> None:
        first = here.gateway.binding.release
        here.post(withdrawn(first, "refuse"))
        await here.until(AgentState.DEGRADED)
        assert await here.says() == "first"
        assert here.said[-1].is_serving
        (engine,) = here.engines()
        engine.kill()
        await eventually(lambda: "not started again" in str(here.reporter.reason))
        assert here.engines() == []
        assert await here.says() == "503 engine_unavailable"
        here.post(Withdrawn(first.release_digest, ()))
        await here.until(AgentState.READY)
        assert await here.says() == "first"

    in_world(story)


def test_a_withdrawal_of_what_is_served_no_more_ends_nothing(in_world: Callable[..., None]) -> None:
    async def story(here: World) -> None:
        first = here.gateway.binding.release
        here.post(Moved(here.bound(here.laid_out("second"))))
        await eventually(lambda: here.gateway.binding.release.weights_digest == digest_of_bytes(b"second"))
        here.post(withdrawn(first))
        here.post(Fault("over"))
        await here.until(AgentState.DEGRADED)
        assert await here.says() == "second"
        assert here.reporter.withdrawn is None

    in_world(story)


def test_what_is_refused_while_it_is_being_started_is_not_put_in_force(in_world: Callable[..., None]) -> None:
    async def story(here: World) -> None:
        (here.folder / "slow").touch()
        second = here.laid_out("second")
        here.post(Moved(here.bound(second)))
        await eventually(lambda: any(str(second.model_path) in words_of(engine) for engine in here.engines()))
        here.post(Fault("it is withdrawn", second.release_digest))
        await eventually(lambda: len(here.engines()) == 1)
        (here.folder / "slow").unlink()
        await here.until(AgentState.DEGRADED)
        assert await here.says() == "first"

    in_world(story)


def test_a_refused_release_is_not_started_again_after_a_switch_that_failed(in_world: Callable[..., None]) -> None:
    async def story(here: World) -> None:
        first = here.gateway.binding.release
        here.post(withdrawn(first, "refuse"))
        await here.until(AgentState.DEGRADED)
        (here.folder / "broken").touch()
        here.post(Moved(here.bound(here.laid_out("second"))))
        await here.until(AgentState.WITHDRAWN)
        assert here.engines() == []
        assert await here.says() == "503 release_withdrawn"

    in_world(story, mode=SwitchMode.STOP_FIRST)
