"""A supervisor and a gateway without an engine, for tests of the browser's side, and a Host that remembers."""

from __future__ import annotations

import asyncio
import queue
import threading
import uuid
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from lifecycle.clocks import SystemClock
from lifecycle.config import parse_options
from lifecycle.gateway import GatewayThread
from lifecycle.loops import LoopThread
from lifecycle.ports import BackendEnd, CdpEndpoint, CdpPipe
from lifecycle.states import CloseReason, State
from lifecycle_adapters.local import LocalAdapter

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

    from lifecycle_adapters.local.backend import LocalBackend

T = TypeVar("T")


class Rig:
    """One supervisor loop and one gateway, as an engine has them."""

    def __init__(self) -> None:
        self.thread = LoopThread("lifecycle-supervisor", workers=3)
        self.thread.start()
        self.gateway = GatewayThread()
        self.gateway.start()

    def run(self, coro: Coroutine[Any, Any, T], timeout: float = 60.0) -> T:
        """Run `coro` on the supervisor's loop and wait for it here."""
        answer: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

        async def carry() -> None:
            try:
                answer.put((await coro, None))
            except BaseException as e:  # handed to the test
                answer.put((None, e))

        tasks: list[asyncio.Task[None]] = []
        self.thread.post(lambda: tasks.append(self.thread.loop.create_task(carry())))
        result, error = answer.get(timeout=timeout)
        if error is not None:
            raise error
        return result

    def stop(self) -> None:
        self.gateway.stop()
        self.thread.stop()

    @contextmanager
    def browser(self, adapter: LocalAdapter | None = None, **options: Any) -> Iterator[Session]:
        """A browser for the block."""
        host = RigHost(self)
        backend = self.run((adapter or LocalAdapter()).open(uuid.uuid4().hex, parse_options(None, options), host))
        session = Session(self, host, backend)
        try:
            yield session
        finally:
            self.run(backend.release())


@dataclass(eq=False)
class RigHost:
    """What an adapter talks to. Remembers what it was told."""

    rig: Rig
    clock: SystemClock = field(default_factory=SystemClock)
    ends: queue.SimpleQueue[BackendEnd] = field(default_factory=queue.SimpleQueue)
    facts: dict[str, str] = field(default_factory=dict)
    uses: int = 0
    endpoint: CdpEndpoint | None = None

    def ended(self, end: BackendEnd) -> None:
        self.ends.put(end)

    def used(self) -> None:
        assert threading.current_thread().name == "lifecycle-gateway"
        self.uses += 1

    def follow_lease(self, follow) -> None:
        """There is no lease."""

    async def journal(self, facts) -> None:
        self.facts.update(facts)

    async def run_blocking(self, func, *args):
        return await asyncio.get_running_loop().run_in_executor(None, func, *args)

    async def serve_cdp(self, connection: CdpPipe) -> CdpEndpoint:
        def lost(reason: str) -> None:
            self.ended(BackendEnd(state=State.ERROR, reason=CloseReason.CRASH, detail=reason))

        self.endpoint = await self.rig.gateway.serve(connection, on_use=self.used, on_lost=lost)
        return self.endpoint


@dataclass(eq=False)
class Session:
    """An open browser."""

    rig: Rig
    host: RigHost
    backend: LocalBackend

    @property
    def url(self) -> str:
        return self.rig.run(self.backend.cdp_url())

    @property
    def http_url(self) -> str:
        return self.url.replace("ws:", "http:")

    def call(self, method: str, params=None, session_id: str | None = None):
        """One CDP command as the library itself."""
        assert self.host.endpoint is not None
        return self.rig.run(self.host.endpoint.call(method, params, session_id=session_id))
