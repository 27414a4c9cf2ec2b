"""A service over HTTP on loopback, that fails in each way that a test asks for.

A class of its own says what its endpoints are and what they do; see `remote_service` and `vendor_service`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit


@dataclass
class Fault:
    """What goes wrong at an endpoint, once for each time it is given.

    kind: ``answer`` (status, body, headers), ``drop`` (close without an answer), ``half`` (close in the middle of the
        body), ``stall`` (never answer), ``drip`` (a byte now and then), ``nonsense`` (no HTTP), ``hold`` (wait for
        `go`, then answer as always), ``reply`` (the given body instead of the true one).
    acts: The service does what it was asked for first.
    """

    kind: str
    status: int = 200
    body: bytes | str | dict[str, Any] = b""
    headers: dict[str, str] = field(default_factory=dict)
    acts: bool = True
    reached: threading.Event = field(default_factory=threading.Event)
    go: threading.Event = field(default_factory=threading.Event)


@dataclass
class Request:
    endpoint: str
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


class HttpService:
    """The service; `url` has no slash at its end."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.faults: dict[str, list[Fault]] = {}
        self.connections = 0
        self.wrong: list[str] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), name="site-service", daemon=True)
        self._thread.start()
        assert ready.wait(10)

    def endpoint(self, method: str, path: str) -> str:
        """The name of an endpoint."""
        raise NotImplementedError

    def check(self, request: Request) -> None:
        """Note in `wrong` what does not fit about a request."""
        raise NotImplementedError

    def act(self, request: Request) -> tuple[int, Any]:
        """Do what it asks for: status, and the body as JSON or None for none."""
        raise NotImplementedError

    # --- what a test asks and does ------------------------------------------------------------------------------

    def count(self, endpoint: str) -> int:
        return sum(r.endpoint == endpoint for r in list(self.requests))

    def last(self, endpoint: str) -> Request:
        return [r for r in list(self.requests) if r.endpoint == endpoint][-1]

    def fail(self, endpoint: str, kind: str, **fields: Any) -> Fault:
        """Let the next request of an endpoint that has no fault yet fail."""
        fault = Fault(kind, **fields)
        self.faults.setdefault(endpoint, []).append(fault)
        return fault

    def stop(self) -> None:
        for fault in [f for faults in self.faults.values() for f in faults]:
            fault.go.set()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        assert not self._thread.is_alive()

    def drop_connections(self) -> None:
        done = threading.Event()

        def drop() -> None:
            for writer in self._writers:
                writer.transport.abort()
            done.set()

        self._loop.call_soon_threadsafe(drop)
        assert done.wait(10)

    # --- HTTP ---------------------------------------------------------------------------------------------------

    def _run(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        ready.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        for writer in list(self._writers):
            writer.transport.abort()
        self._loop.run_until_complete(asyncio.sleep(0.01))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            while (request := await self._read(reader)) is not None:
                if not await self._handle(request, writer):
                    break
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> Request | None:
        line = await reader.readline()
        if not line:
            return None
        method, target, _ = line.decode().split()
        headers: dict[str, str] = {}
        while (line := await reader.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode().partition(":")
            headers[name.strip().lower()] = value.strip()
        raw = await reader.readexactly(int(headers.get("content-length", 0)))
        parts = urlsplit(target)
        query = dict(parse_qsl(parts.query))
        endpoint = self.endpoint(method, parts.path)
        body = json.loads(raw) if raw else None
        request = Request(endpoint, method, unquote(parts.path), query, headers, body)
        self.requests.append(request)
        self.check(request)
        return request

    async def _handle(self, request: Request, writer: asyncio.StreamWriter) -> bool:
        """Answer; False when the connection is over."""
        waiting = self.faults.get(request.endpoint, [])
        fault = waiting.pop(0) if waiting else None
        if fault is not None and fault.kind == "hold":
            fault.reached.set()
            while not fault.go.is_set():
                await asyncio.sleep(0.005)
        status, answer = (200, None) if fault is not None and not fault.acts else self.act(request)
        if fault is None or fault.kind == "hold":
            return await _send(writer, status, b"" if status == 204 else json.dumps(answer))
        fault.reached.set()
        match fault.kind:
            case "answer" | "reply":
                body = json.dumps(fault.body) if isinstance(fault.body, dict) else fault.body
                return await _send(writer, fault.status, body, fault.headers)
            case "half":
                whole = json.dumps(answer).encode()
                writer.write(_head(200, len(whole), {}) + whole[: len(whole) // 2])
                await writer.drain()
                return False
            case "nonsense":
                writer.write(b"SSH-2.0-this is no HTTP\r\n\r\n")
                await writer.drain()
                return False
            case "drip":
                writer.write(_head(200, 100_000, {}))
                while not fault.go.is_set():
                    writer.write(b" ")
                    await writer.drain()
                    await asyncio.sleep(0.02)
                return False
            case "stall":
                while not fault.go.is_set() and not writer.is_closing():
                    await asyncio.sleep(0.01)
                return False
            case "drop":
                return False
        raise AssertionError(fault.kind)

    @contextlib.contextmanager
    def _noting(self, request: Request) -> Any:
        try:
            yield
        except Exception as e:
            self.wrong.append(f"{request.method} {request.path}: {e}")


def utc_now() -> str:
    return datetime.now(UTC).isoformat()


def _head(status: int, length: int, headers: dict[str, str]) -> bytes:
    given = {"Content-Type": "application/json", "Content-Length": str(length), **headers}
    given.setdefault("Date", datetime.now(UTC).strftime("%a, %d %b %Y %H:%M:%S GMT"))
    lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in given.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


async def _send(
    writer: asyncio.StreamWriter, status: int, body: str | bytes, headers: dict[str, str] | None = None
) -> bool:
    raw = body.encode() if isinstance(body, str) else body
    writer.write(_head(status, len(raw), headers or {}) + raw)
    await writer.drain()
    return True
