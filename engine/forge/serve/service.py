"""What is served at the moment, and how it becomes something else: the one place that starts, switches and ends engines.

Rules:
- What arrives here holds (``forge.serve.watch`` saw to that); nothing is verified, and nothing is fetched.
- Another policy before the same engine is put in force between two requests; the engine never notices.
- Other weights or other engine settings need another engine. Side by side: it is started beside the old one, takes the
  traffic when it is healthy, and the old one ends when the requests that began with it have ended. Stop first: the old one ends
  before; for machines that cannot hold both.
- A new engine that does not come up changes nothing: the old one serves on (stop first: serves again), and after a while what
  the pointer names is verified and tried anew.
- What is withdrawn with ``stop`` ends at once, with the requests that are under way: what it may not say it does not finish.
  With ``refuse`` the engine runs on, and is not started again.
- A later notice ends the attempt that is under way. Engines that are on their way out are awaited before another is started.
"""

import asyncio
import shutil
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from forge.serve.binding import AWAY, Binding
from forge.serve.engine import EngineSettings, say
from forge.serve.gateway import Gateway
from forge.serve.release import ServableRelease
from forge.serve.report import Reporter
from forge.serve.room import available_bytes, shortage
from forge.serve.running import RunningEngine
from forge.serve.watch import Fault, Moved, Notice, Retired, Withdrawn

FIRST_RETRY_SECONDS = 60.0
LONGEST_RETRY_SECONDS = 3600.0
_POLL_SECONDS = 0.05


class SwitchMode(StrEnum):
    """How one engine follows another."""

    SIDE_BY_SIDE = "side-by-side"
    """The new one is started beside the old one: no request is refused, and both need memory at once."""
    STOP_FIRST = "stop-first"
    """The old one ends first: callers get 503 until the new one is healthy."""


@dataclass(frozen=True)
class ServiceSettings:
    """How engines are started and followed on this machine."""

    engine: EngineSettings
    mode: SwitchMode = SwitchMode.SIDE_BY_SIDE
    drain_seconds: float = 300.0
    """Longest wait for requests that began with an engine that is to end."""
    weights: Path | None = None
    """The folder whose contents are the agent's own: weights there are removed with the last engine that had them."""


class Service:
    """The engine that serves, and those that come and go."""

    def __init__(
        self, gateway: Gateway, reporter: Reporter, settings: ServiceSettings, try_again: Callable[[], None] = lambda: None
    ) -> None:
        self._gateway = gateway
        self._reporter = reporter
        self._settings = settings
        self._try_again = try_again
        """Has the pointer's release verified and posted anew."""
        self._engine: RunningEngine | None = None
        self._alive: set[RunningEngine] = set()
        self._leaving: set[asyncio.Task[None]] = set()
        self._acting: asyncio.Task[None] | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._retry_seconds = FIRST_RETRY_SECONDS
        self._withdrawn_but_running: Withdrawn | None = None
        """Why the engine that serves is not to be started again."""
        self._broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def running(self) -> ServableRelease | None:
        """The release that the engine was started for; may be asked by any thread."""
        engine = self._engine
        return engine.release if engine is not None else None

    def served(self) -> ServableRelease | None:
        """The release that requests meet, while there is an engine for them; may be asked by any thread."""
        return self._gateway.binding.release if self._engine is not None else None

    async def begin(self, binding: Binding) -> None:
        """Serve a release where none is served: it is in force at once, and answered when its engine is healthy."""
        engine = await self._start(binding.release)
        self._adopt(engine, binding)

    async def follow(self, notices: "asyncio.Queue[Notice]") -> None:
        """Act on what the watch tells, until cancelled; raises what ends the agent (a fault of ours in a supervisor)."""
        while True:
            told = asyncio.ensure_future(notices.get())
            waited: set[asyncio.Future[Any]] = {told, self._broken}
            try:
                await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            finally:
                if not told.done():
                    told.cancel()
            if self._broken.done():
                self._broken.result()
            await self._take(told.result())

    async def close(self) -> None:
        """End every engine; returns when all are gone."""
        if self._retry is not None:
            self._retry.cancel()
        tasks = [task for task in (self._acting, *self._leaving) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._engine = None
        await asyncio.gather(*(self._end(engine) for engine in tuple(self._alive)))

    async def _take(self, notice: Notice) -> None:
        if isinstance(notice, Fault):
            self._reporter.pointer_fault = notice.reason
            self._reporter.wanted = notice.wanted or self._reporter.wanted
            starting = self._reporter.switching_to
            if starting is not None and starting.release_digest == notice.wanted:  # it held when it was begun
                await self._interrupt()
            self._reporter.changed()
            return
        was_acting = await self._interrupt()
        if self._retry is not None:
            self._retry.cancel()
        self._acting = asyncio.create_task(self._guarded(notice))
        if was_acting and isinstance(notice, Withdrawn):
            self._try_again()

    async def _interrupt(self) -> bool:
        """End the attempt that is under way; returns whether there was one."""
        if self._acting is None or self._acting.done():
            return False
        self._acting.cancel()
        await asyncio.gather(self._acting, return_exceptions=True)
        return True

    async def _guarded(self, notice: Moved | Retired | Withdrawn) -> None:
        """Whatever goes wrong in a switch, what serves goes on serving."""
        try:
            if isinstance(notice, Moved):
                await self._move(notice.binding)
            elif isinstance(notice, Withdrawn):
                self._withdraw(notice)
            else:
                self._end_service(notice)
        except Exception as error:  # noqa: BLE001 (the boundary of one attempt; it is reported and tried again)
            traceback.print_exception(error)
            self._not_switched(f"{type(error).__name__}: {error}")
        finally:
            self._reporter.switching_to = None
            self._reporter.changed()

    async def _move(self, binding: Binding) -> None:
        new, engine = binding.release, self._engine
        self._reporter.wanted = new.release_digest
        if engine is not None and new.needs_engine_like(engine.release):
            self._settled()
            self._put_in_force(binding, engine)
            self._remove(new)  # nothing, unless it was laid out while this engine was on its way
            say(f"switched to release {new.release_digest}, policy {new.policy_digest}; the engine runs on")
            return
        if not new.model_path.is_dir():  # it was laid out for an engine that has ended since
            self._try_again()
            return
        self._reporter.switching_to = new
        self._reporter.switch_fault = None
        self._reporter.changed()
        try:
            await self._all_left()
            if engine is None:
                self._settled()
                await self.begin(binding)
            elif self._settings.mode is SwitchMode.SIDE_BY_SIDE:
                await self._side_by_side(binding, engine)
            else:
                await self._stop_first(binding, engine)
        finally:
            self._remove(new)  # unless an engine has it by now

    async def _side_by_side(self, binding: Binding, old: RunningEngine) -> None:
        short = shortage(binding.release, available_bytes())
        if short is not None:
            self._not_switched(short)
            return
        new = await self._try(binding.release)
        if new is None:
            return
        self._settled()
        self._adopt(new, binding)
        say(f"switched to release {binding.release.release_digest}; the old engine ends when its requests have")
        self._let_leave(old)

    async def _stop_first(self, binding: Binding, old: RunningEngine) -> None:
        before = self._gateway.binding
        self._gateway.switch(before.with_upstream(AWAY))
        self._reporter.engine_fault = "the old engine ends before the new one is started (--switch stop-first)"
        self._reporter.changed()
        new = None
        try:
            await self._drained(old)
            self._engine = None
            await self._end(old, keep=True)
            new = await self._try(binding.release)
        finally:
            refused = self._withdrawn_but_running
            if new is None and self._engine is not old and refused is not None:  # what has ended is not started again
                self._end_withdrawn(refused)
            elif new is None:  # it did not come up, or a later notice came: what was served is served again
                self._adopt(old if self._engine is old else await self._start(old.release), before)
        if new is not None:
            self._settled()
            self._adopt(new, binding)
            self._remove(old.release)
            say(f"switched to release {binding.release.release_digest}")

    def _end_service(self, notice: Retired) -> None:
        """Answer 503 from now on; what is under way ends as it began."""
        self._gateway.switch(replace(self._gateway.binding, upstream=AWAY, retired=notice.reason))
        self._settled()
        self._keep_running(None)
        self._reporter.withdrawn = None
        self._reporter.retired, self._reporter.wanted = notice.reason, None
        self._reporter.was_ready = False
        self._reporter.changed()
        engine, self._engine = self._engine, None
        if engine is not None:
            self._let_leave(engine)

    def _withdraw(self, notice: Withdrawn) -> None:
        """Stop what is served, or keep it from being started again; nothing where another release is served by now."""
        if notice.release != self._gateway.binding.release.release_digest or self._engine is None:
            return
        if notice.stops:
            self._end_withdrawn(notice)
            return
        self._keep_running(notice if notice.subjects else None)
        self._reporter.changed()

    def _keep_running(self, notice: Withdrawn | None) -> None:
        self._withdrawn_but_running = notice
        reason = notice.reason if notice is not None else None
        self._reporter.withdrawn_but_running = reason
        if self._engine is not None:
            self._engine.supervisor.refuses = reason

    def _end_withdrawn(self, notice: Withdrawn) -> None:
        """Answer 503 from now on, and end the engine with what it is saying."""
        self._gateway.switch(replace(self._gateway.binding, upstream=AWAY, withdrawn=notice.entries))
        self._settled()
        self._keep_running(None)
        self._reporter.withdrawn = notice.reason
        self._reporter.was_ready = False
        self._reporter.changed()
        engine, self._engine = self._engine, None
        if engine is not None:
            self._hold(asyncio.create_task(self._end(engine)))

    async def _try(self, release: ServableRelease) -> RunningEngine | None:
        """Start an engine and wait until it is healthy; None, and nothing left of it, when it is not."""
        engine = await self._start(release)
        try:
            if await engine.comes_up():
                return engine
        except asyncio.CancelledError:
            await self._end(engine)
            raise
        reason = engine.reason
        await self._end(engine)
        self._not_switched(f"release {release.release_digest} was not put in force, its engine did not come up: {reason}")
        return None

    async def _start(self, release: ServableRelease) -> RunningEngine:
        """Start an engine under a port and a log of its own."""
        settings = self._settings.engine
        names = {engine.settings.log_name for engine in self._alive}
        number = next(n for n in range(1, len(names) + 2) if _log_name(n) not in names)
        if any(engine.settings.port is not None for engine in self._alive):
            settings = replace(settings, port=None)  # taken by the engine that runs beside it
        engine = RunningEngine(release, replace(settings, log_name=_log_name(number)), self._engine_changed)
        self._alive.add(engine)
        task = await engine.start()
        task.add_done_callback(lambda ended: self._supervisor_ended(engine, ended))
        return engine

    def _adopt(self, engine: RunningEngine, binding: Binding) -> None:
        self._engine = engine
        self._put_in_force(binding, engine)

    def _put_in_force(self, binding: Binding, engine: RunningEngine) -> None:
        self._gateway.switch(binding.with_upstream(engine.upstream))
        self._reporter.release, self._reporter.retired, self._reporter.withdrawn = binding.release, None, None
        self._keep_running(None)
        self._engine_changed(engine)

    def _settled(self) -> None:
        """What the pointer names is about to be in force: nothing of earlier attempts counts any more."""
        self._reporter.switching_to = self._reporter.switch_fault = None
        self._retry_seconds = FIRST_RETRY_SECONDS

    def _not_switched(self, reason: str) -> None:
        """Say why, and have it tried again after a while: a minute, then two, up to an hour."""
        delay, self._retry_seconds = self._retry_seconds, min(2 * self._retry_seconds, LONGEST_RETRY_SECONDS)
        self._reporter.switch_fault = f"{reason}; next attempt in {delay:g} s"
        self._retry = asyncio.get_running_loop().call_later(delay, self._try_again)

    def _engine_changed(self, engine: RunningEngine) -> None:
        if engine is self._engine:
            self._reporter.engine_fault = engine.reason
            self._reporter.restarts = engine.supervisor.restarts
            self._reporter.changed()

    def _supervisor_ended(self, engine: RunningEngine, task: "asyncio.Task[None]") -> None:
        if engine is self._engine and not task.cancelled() and not self._broken.done():
            error = task.exception()
            self._broken.set_exception(error or RuntimeError("a supervisor ended by itself"))

    def _let_leave(self, engine: RunningEngine) -> None:
        self._hold(asyncio.create_task(self._leave(engine)))

    def _hold(self, task: "asyncio.Task[None]") -> None:
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def _leave(self, engine: RunningEngine) -> None:
        await self._drained(engine)
        await self._end(engine)

    async def _all_left(self) -> None:
        while self._leaving:
            await asyncio.wait(set(self._leaving))

    async def _drained(self, engine: RunningEngine) -> None:
        """Wait for the requests that may still ask an engine, but not for ever."""
        deadline = asyncio.get_running_loop().time() + self._settings.drain_seconds
        while left := self._gateway.under_way(engine.upstream):
            if asyncio.get_running_loop().time() > deadline:
                say(f"{left} requests are cut off: they did not end within {self._settings.drain_seconds:g} s of a switch")
                return
            await asyncio.sleep(_POLL_SECONDS)

    async def _end(self, engine: RunningEngine, *, keep: bool = False) -> None:
        ending = asyncio.ensure_future(engine.end())
        try:
            await asyncio.shield(ending)
        finally:  # whoever is cancelled meanwhile waits all the same: no engine is left half ended
            await ending
            self._alive.discard(engine)
            if not keep:
                self._remove(engine.release)

    def _remove(self, release: ServableRelease) -> None:
        """Remove weights that no engine has any more; only ever what the agent laid out itself."""
        path, own = release.model_path, self._settings.weights
        if own is not None and path.parent == own and all(engine.release.model_path != path for engine in self._alive):
            # In a thread: the file system may take its time over gigabytes, and requests are being answered.
            asyncio.get_running_loop().run_in_executor(None, lambda: shutil.rmtree(path, ignore_errors=True))


def _log_name(number: int) -> str:
    return "engine" if number == 1 else f"engine-{number}"
