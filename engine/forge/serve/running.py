"""One engine at work: its supervisor, the way to it, and whether it came up."""

import asyncio
from collections.abc import Callable

from forge.serve.engine import EngineSettings, EngineSupervisor
from forge.serve.release import ServableRelease
from forge.serve.upstream import Upstream


class RunningEngine:
    """From its start to its end; both are awaited by whoever made it."""

    def __init__(
        self, release: ServableRelease, settings: EngineSettings, on_change: Callable[["RunningEngine"], None]
    ) -> None:
        self.release = release
        self.settings = settings
        self.supervisor = EngineSupervisor(release, settings, self._changed)
        self.upstream = Upstream(self.supervisor.address)
        self.reason: str | None = "vLLM is starting"
        """Why it answers nothing at the moment; None while it is healthy."""
        self.task: asyncio.Task[None] | None = None
        self._on_change = on_change
        self._first_word: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def start(self) -> "asyncio.Task[None]":
        """Start it and keep it alive; the task ends only by a fault of ours, or by ``end``."""
        await self.upstream.__aenter__()
        self.task = asyncio.create_task(self.supervisor.run())
        self.task.add_done_callback(self._ended)
        return self.task

    async def comes_up(self) -> bool:
        """Wait until it is healthy or its first start has failed (then ``reason`` says why)."""
        await asyncio.shield(self._first_word)
        return self.reason is None

    async def end(self) -> None:
        """End the process and whatever it started; returns when they are gone."""
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)
        await self.upstream.__aexit__(None, None, None)

    def _changed(self, reason: str | None, _restarts: int) -> None:
        self.reason = reason
        self._speak()
        self._on_change(self)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        error = None if task.cancelled() else task.exception()
        self.reason = "it was ended" if error is None else f"{type(error).__name__}: {error}"
        self._speak()

    def _speak(self) -> None:
        if not self._first_word.done():
            self._first_word.set_result(None)
