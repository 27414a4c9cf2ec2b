"""A proxy on loopback in front of a server, that does one wrong thing at a request of the test's choice.

Rule: it understands as much HTTP as it takes to tell one request from the next; what goes through unharmed goes through
byte by byte. It forwards before it harms the answer, so the server has done what it was asked for; `refuse` alone does
not forward.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import queue
import re
import socket
import struct
import threading

KINDS = ("refuse", "reset", "stall", "half-close", "drip", "garbage", "duplicate")

ENDPOINTS = {
    "start": ("POST", r"/sessions/start"),
    "list": ("GET", r"/sessions/"),
    "get": ("GET", r"/sessions/[^/]+"),
    "stop": ("DELETE", r"/sessions/[^/]+/stop"),
    "get_cookies": ("GET", r"/sessions/[^/]+/cookies"),
    "set_cookies": ("POST", r"/sessions/[^/]+/cookies"),
    "debug": ("GET", r"/sessions/[^/]+/debug"),
    "execute": ("POST", r"/sessions/[^/]+/page/execute"),
    "observe": ("POST", r"/sessions/[^/]+/page/observe"),
    "scrape": ("POST", r"/sessions/[^/]+/page/scrape"),
}


GARBAGE = b"\x16\x03\x01\x02\x00 this is no HTTP \xff\xfe\r\n\r\n"


class FaultProxy:
    """The proxy; it runs on a loop of its own until `stop`.

    Args:
        port: Where the server listens on 127.0.0.1.

    Attributes:
        url: What clients are given instead of the server's.
        seen: How often each endpoint was asked for.
        struck: The faults that struck, in order.
    """

    def __init__(self, port: int) -> None:
        self.seen: collections.Counter[str] = collections.Counter()
        self.struck: list[tuple[str, str]] = []
        self._port = port
        self._faults: dict[str, list[str]] = {}
        self._ready: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="fault-proxy")
        self._thread.start()
        self.url = self._ready.get(timeout=10)

    def fault(self, endpoint: str, kind: str) -> None:
        """Let the next request at `endpoint` go wrong."""
        self._faults.setdefault(endpoint, []).append(kind)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(10)

    async def _run(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._ready.put(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        await self._end.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while (request := await _message(reader)) and await self._exchange(request, reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client went away, or the test is over
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _exchange(self, request: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; False when the connection is of no use after it."""
        method, path = request.split(b" ", 2)[:2]
        path = path.partition(b"?")[0]
        endpoint = next(
            (
                name for name, (verb, pattern) in ENDPOINTS.items()
                if verb == method.decode() and re.fullmatch(pattern, path.decode())
            ), "other",
        )  # fmt: skip
        self.seen[endpoint] += 1
        kind = self._faults[endpoint].pop(0) if self._faults.get(endpoint) else None
        if kind is not None:
            self.struck.append((endpoint, kind))
        if kind == "refuse":
            _reset(writer)
            return False
        answer = await self._forward(request)
        if kind == "duplicate":
            answer = await self._forward(request)
        head, _, body = answer.partition(b"\r\n\r\n")
        half = head + b"\r\n\r\n" + body[: len(body) // 2]
        if kind in (None, "duplicate"):
            writer.write(answer)
        elif kind == "drip":
            for n in range(0, len(answer), 8):
                writer.write(answer[n : n + 8])
                await writer.drain()
                await asyncio.sleep(0.002)
        elif kind == "stall":
            await reader.read()  # until the client has had enough
            return False
        elif kind in ("garbage", "half-close"):
            writer.write(half if kind == "half-close" else GARBAGE)
            await writer.drain()
            writer.write_eof()
            await reader.read()
            return False
        elif kind == "reset":
            writer.write(half)
            await writer.drain()
            _reset(writer)
            return False
        await writer.drain()
        return True

    async def _forward(self, request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            writer.write(request)
            return await _message(reader)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def _message(reader: asyncio.StreamReader) -> bytes:
    """One request or answer, with its body; empty at the end of the connection."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""
    length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
    return head + (await reader.readexactly(int(length[1])) if length else b"")


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close so that the other end gets a reset."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
