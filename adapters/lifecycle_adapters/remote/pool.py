"""The connections to one service, kept alive and shared by all its sessions.

Rule: each connection is a client of httpx with room for one, and the one that was used last is used next. The pool of
httpx looks at each of its connections for each request: with twenty of them a request took 3.8 ms of processor time
here, with one 0.9 ms. A client whose request was broken off is not used again: cancelled in the tick in which it gives
a request its connection, httpcore keeps that place taken for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import weakref
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import httpx

__all__ = ["ONE", "Pool"]

ONE: Final = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=60.0)
"""The limits of each client that a pool is given."""

_inherited: Final[list[object]] = []
"""Clients of a forked parent. Never finalized: the numbers of their sockets may be used by others in this process."""


class Pool:
    """Connections of one loop and one process; the first use after a fork starts anew.

    Args:
        make: Makes a client with the limits `ONE`.
        most: Requests at once; the others wait for their turn.
    """

    def __init__(self, make: Callable[[], httpx.AsyncClient], most: int) -> None:
        self._make = make
        self._most = most
        self._pid = 0
        self._turn: asyncio.Semaphore  # these three are made at the first use
        self._all: list[httpx.AsyncClient]
        self._idle: list[httpx.AsyncClient]
        self._dropped: weakref.finalize[..., Any] | None = None

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[httpx.AsyncClient]:
        """A client for one request; waits for one that is free."""
        if self._dropped is None or self._pid != os.getpid():
            self._begin()
        turn, idle, everything = self._turn, self._idle, self._all
        async with turn:
            if not idle:
                idle.append(self._make())
                everything.append(idle[-1])
            client = idle.pop()
            try:
                yield client
            except BaseException:
                everything.remove(client)
                _close_soon([client], asyncio.get_running_loop())
                raise
            idle.append(client)

    def _begin(self) -> None:
        if self._dropped is not None:
            self._dropped.detach()
            _inherited.append(self._all)
        self._pid = os.getpid()
        self._turn = asyncio.Semaphore(self._most)
        self._all, self._idle = [], []
        self._dropped = weakref.finalize(self, _close_later, self._all, asyncio.get_running_loop(), self._pid)
        self._dropped.atexit = False

    async def aclose(self) -> None:
        """Close the connections; the next request opens new ones. Idempotent."""
        if self._dropped is None:
            return
        self._dropped.detach()
        self._dropped = None
        if self._pid == os.getpid():
            await _close(self._all)
        else:
            _inherited.append(self._all)


async def _close(clients: list[httpx.AsyncClient]) -> None:
    await asyncio.gather(*(client.aclose() for client in clients))


def _close_later(clients: list[httpx.AsyncClient], loop: asyncio.AbstractEventLoop, pid: int) -> None:
    """The pool was dropped without its end: close what it held, on its loop."""
    if pid != os.getpid() or loop.is_closed():
        _inherited.append(clients)
        return

    with contextlib.suppress(RuntimeError):  # the loop was closed in this moment
        loop.call_soon_threadsafe(_close_soon, clients, loop)


def _close_soon(clients: list[httpx.AsyncClient], loop: asyncio.AbstractEventLoop) -> None:
    task = loop.create_task(_close(clients))
    _closing.add(task)
    task.add_done_callback(_closing.discard)


_closing: Final[set[asyncio.Task[None]]] = set()
