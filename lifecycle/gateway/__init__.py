"""The CDP gateway: many WebSocket clients on one browser that listens to nothing but a pipe.

Rule: one listener on 127.0.0.1 for the whole process, on a thread of its own, so a busy or stuck caller never holds up
a client. The supervisor talks to it through `GatewayThread` and `Endpoint`, whose coroutines are awaited on the
supervisor's loop and run on the gateway's.

    policy.py    what clients may do and what counts as use
    wire.py      ids and session ids, rewritten as bytes
    pipe.py      the browser's end
    websocket.py the same, where the browser is somebody else's
    contexts.py  contexts that clients make, and their cookies
    opened.py    what was opened through us in a foreign browser
    waiting.py   new targets that wait for a client
    hub.py       one browser, its clients, and what each may reach
    own.py       what the library's own clients may do
    downloads.py downloads that operations wait for
    view.py      the live view and its page
    listener.py  tokens, discovery and the WebSocket handshake
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import secrets
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Final, TypeVar

from lifecycle.errors import BackendError, ConnectionLost, UsageError
from lifecycle.gateway.downloads import Capture
from lifecycle.gateway.hub import Hub
from lifecycle.gateway.listener import Listener
from lifecycle.gateway.policy import NOT_USE
from lifecycle.gateway.view import Snapshot, View
from lifecycle.gateway.websocket import open_socket
from lifecycle.logs import get_logger
from lifecycle.loops import LoopThread, close_fd
from lifecycle.ports import CdpEndpoint, CdpPipe, CdpSocket, ContextCookies, Download, DownloadCapture

__all__ = ["NOT_USE", "Endpoint", "GatewayThread"]

T = TypeVar("T")

_STOP_BUDGET: Final = 5.0
"""Seconds that `GatewayThread.stop` waits."""

_abandoned: Final[list[object]] = []
"""Gateways of a forked parent: finalized in the child, they would close descriptors that are its own by now."""

_log: Final = get_logger(__name__)


class Endpoint:
    """One browser behind the gateway, as the supervisor sees it. Implements `lifecycle.ports.CdpEndpoint`."""

    def __init__(self, thread: LoopThread, listener: Listener, hub: Hub) -> None:
        self._thread = thread
        self._listener = listener
        self._hub = hub

    @property
    def url(self) -> str:
        """``ws://127.0.0.1:PORT/TOKEN``: whoever has it drives the browser."""
        return f"ws://127.0.0.1:{self._listener.port}/{self._hub.token}"

    @property
    def own_url(self) -> str:
        """As `url`, for the library's own clients."""
        return f"ws://127.0.0.1:{self._listener.port}/{self._hub.own_token}"

    @property
    def foreign_cookies(self) -> int:
        """Cookies seen in contexts that clients made, by `Storage.getCookies`.

        Each context is counted last when it is disposed of, when its maker leaves, or when the clients are closed.
        A count that takes longer than a quarter of a second is given up, and a context that ends in another way
        (its browser crashed) is not counted, so the number is a lower bound.
        """
        return self._hub.contexts.foreign_cookies

    async def call(
        self, method: str, params: Mapping[str, object] | None = None, *, session_id: str | None = None
    ) -> dict[str, object]:
        """Send one CDP command as the library itself.

        Raises:
            BackendError: The browser answered with an error.
            ConnectionLost: The connection to the browser is closed.
        """
        try:
            return await self._thread.run(self._hub.call(method, params, session_id=session_id))
        except UsageError as e:
            if self._thread.pid != os.getpid():
                raise
            raise ConnectionLost(f"{method}: the gateway has ended") from e

    async def capture_downloads(self, folder: str) -> DownloadCapture:
        """Learn of the downloads of the default context; see `lifecycle.ports.CdpEndpoint`.

        Raises:
            ConnectionLost: The connection to the browser is closed.
        """
        try:
            capture = await self._thread.run(self._hub.downloads.capture(folder))
        except UsageError as e:
            raise ConnectionLost("the gateway has ended") from e
        return _Capture(self._thread, capture)

    def show(self, snapshot: Snapshot, *, interactive: bool) -> str:
        """Serve a live view for as long as the session lives; its URL. See `lifecycle.ports.CdpEndpoint`."""
        view = View(self._hub, snapshot, interactive=interactive)
        self._thread.post(self._listener.show, view)
        return f"http://127.0.0.1:{self._listener.port}/view/{view.token}"

    async def seed_contexts(self, cookies: Sequence[Mapping[str, object]]) -> None:
        """Begin every context that a client makes with these cookies; see `lifecycle.ports.CdpEndpoint`."""
        await self._on_hub(self._hub.seed_contexts(cookies))

    async def context_cookies(self) -> Sequence[ContextCookies]:
        """What the contexts that clients made hold; see `lifecycle.ports.CdpEndpoint`."""
        return await self._on_hub(self._hub.contexts.cookies())

    async def close_opened(self) -> None:
        """Close what was opened in a foreign browser; see `lifecycle.ports.CdpEndpoint`."""
        if self._thread.alive:
            await self._thread.run(self._hub.close_opened())

    async def _on_hub(self, coro: Coroutine[Any, Any, T]) -> T:
        try:
            return await self._thread.run(coro)
        except UsageError as e:
            if self._thread.pid != os.getpid():
                raise
            raise ConnectionLost("the gateway has ended") from e

    async def close_clients(self, reason: str) -> None:
        """Close every client's WebSocket with code 4000 and `reason`; later requests get HTTP 410. Idempotent."""
        if self._thread.alive:
            await self._thread.run(self._hub.close_clients(reason))

    async def aclose(self) -> None:
        """Close the clients and the connection to the browser. Idempotent."""
        if self._thread.alive:
            await self._thread.run(_drop(self._listener, self._hub))


class _Capture:
    """A capture of downloads, as the supervisor sees it."""

    def __init__(self, thread: LoopThread, capture: Capture) -> None:
        self._thread = thread
        self._capture = capture

    async def next(self) -> Download:
        """Wait for the next download to begin and to end."""
        return await self._thread.run(self._capture.next())

    async def aclose(self) -> None:
        """Look no more. Idempotent."""
        if self._thread.alive:
            with contextlib.suppress(BackendError):  # the browser is gone, and with it what would be undone
                await self._thread.run(self._capture.aclose())


class GatewayThread:
    """The gateway of this process. Make one, `start` it, and `serve` each browser through it.

    Args:
        thread: The thread to run on, where one was started already; it is the gateway's from now on.
    """

    def __init__(self, thread: LoopThread | None = None) -> None:
        self._thread = thread if thread is not None else LoopThread("lifecycle-gateway", workers=1)
        self._listener = Listener()
        self._listening: asyncio.Task[None] | None = None
        self._stopped = False

    def start(self) -> None:
        """Start the thread. The port is bound already, so this does not fail."""
        if not self._thread.alive:
            self._thread.start()

    async def serve(
        self, pipe: CdpPipe | CdpSocket, *, on_use: Callable[[], None], on_lost: Callable[[str], None]
    ) -> CdpEndpoint:
        """Put the gateway in front of a browser.

        The descriptors of `pipe` are taken over at once: they are closed here whatever happens, also when this
        raises or is cancelled.

        Args:
            pipe: The browser's connection.
            on_use: Called on the gateway's thread for each command of a client, except those in `NOT_USE`.
            on_lost: Called on the gateway's thread, at most once, when the connection breaks while nobody closed it.
                An error inside the gateway counts as that too.

        Raises:
            ConnectionLost: The gateway has ended, or the other end of a `CdpSocket` can't be reached.
            RemoteRejected: The other end refuses, or speaks no WebSocket.
        """
        opened: list[Hub] = []
        try:
            return await self._thread.run(self._serve(pipe, on_use, on_lost, opened))
        except BaseException as e:
            try:
                self._thread.post(self._undo, pipe, opened)
            except UsageError:
                _close(pipe)
            if isinstance(e, UsageError):
                raise ConnectionLost("the gateway has ended; make a new Client") from e
            raise

    async def _serve(
        self, pipe: CdpPipe | CdpSocket, on_use: Callable[[], None], on_lost: Callable[[str], None], opened: list[Hub]
    ) -> Endpoint:
        if self._listening is None:
            self._listening = asyncio.get_running_loop().create_task(self._listener.start())
        await asyncio.shield(self._listening)
        connection = pipe if isinstance(pipe, CdpPipe) else await open_socket(pipe)
        hub = Hub(connection, token=secrets.token_urlsafe(32), on_use=on_use, on_lost=on_lost)
        opened.append(hub)
        self._listener.add(hub)
        if hub.opened is not None:
            await hub.opened.watch()
        return Endpoint(self._thread, self._listener, hub)

    def _undo(self, pipe: CdpPipe | CdpSocket, opened: list[Hub]) -> None:
        """The caller of `serve` never got the endpoint."""
        if opened:
            self._undoing = asyncio.get_running_loop().create_task(_drop(self._listener, opened[0]))
        else:
            _close(pipe)

    def stop(self) -> None:
        """Close every client and browser connection and end the thread. Idempotent; waits some seconds at most."""
        if self._stopped or not self._thread.alive:
            return
        self._stopped = True
        ended: queue.SimpleQueue[None] = queue.SimpleQueue()

        def begin() -> None:
            task = self._thread.loop.create_task(self._shut())
            task.add_done_callback(lambda _: ended.put(None))

        self._thread.post(begin)
        try:
            ended.get(timeout=_STOP_BUDGET)
        except queue.Empty:
            _log.warning("the gateway did not close its connections within %g s", _STOP_BUDGET)
        self._thread.stop(_STOP_BUDGET)

    async def _shut(self) -> None:
        await asyncio.gather(*(hub.aclose() for hub in self._listener.hubs()), return_exceptions=True)
        await self._listener.aclose()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def abandon_in_child(self) -> None:
        """In a forked child: close what was inherited, by number, and never touch the loop or its objects again.

        A child that keeps the pipe of a browser would keep that browser alive after its owner died.
        """
        own = {fd for hub in self._listener.hubs() for fd in hub.fds()} | set(self._listener.fds())
        for fd in own - set(self._thread.fds()):
            close_fd(fd)
        self._thread.abandon_in_child()
        _abandoned.append(self)


async def _drop(listener: Listener, hub: Hub) -> None:
    listener.retire(hub)
    await hub.aclose()


def _close(pipe: CdpPipe | CdpSocket) -> None:
    if isinstance(pipe, CdpPipe):
        close_fd(pipe.read_fd)
        close_fd(pipe.write_fd)
