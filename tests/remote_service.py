"""A service that speaks the session API, on loopback, that fails in each way that a test asks for.

Rule: each request it gets and each answer it gives is held against the models of the client that nobody here wrote
(`notte_sdk`), read from their one file, so that nothing else of that package runs. What does not fit is in `wrong`.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import sys
import threading
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from planted import API_KEY as KEY
from planted import TOKEN


def _load_models() -> Any:
    spec = importlib.util.find_spec("notte_sdk")
    assert spec is not None and spec.submodule_search_locations
    path = Path(spec.submodule_search_locations[0], "_generated", "models.py")
    name = "notte_sdk_models_alone"
    if name not in sys.modules:
        alone = importlib.util.spec_from_file_location(name, path)
        assert alone is not None and alone.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(alone)
        alone.loader.exec_module(sys.modules[name])
    return sys.modules[name]


models = _load_models()


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


class RemoteService:
    """The service; `url` has no slash at its end.

    Args:
        tells_keys: Echo the Idempotency-Key of a create in the session.
        gives_urls: Give cdp_url with the session; else only at its debug endpoint.
    """

    def __init__(self, *, tells_keys: bool = True, gives_urls: bool = True) -> None:
        self.tells_keys = tells_keys
        self.gives_urls = gives_urls
        self.sessions: dict[str, dict[str, Any]] = {}
        self.cookies: dict[str, list[dict[str, Any]]] = {}
        self.requests: list[Request] = []
        self.faults: dict[str, list[Fault]] = {}
        self.connections = 0
        self.wrong: list[str] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), name="site-remote", daemon=True)
        self._thread.start()
        assert ready.wait(10)

    # --- what a test asks and does ------------------------------------------------------------------------------

    @property
    def live(self) -> list[str]:
        return [i for i, s in list(self.sessions.items()) if s["status"] in ("active", "authenticating")]

    def count(self, endpoint: str) -> int:
        return sum(r.endpoint == endpoint for r in list(self.requests))

    def last(self, endpoint: str) -> Request:
        return [r for r in list(self.requests) if r.endpoint == endpoint][-1]

    def fail(self, endpoint: str, kind: str, **fields: Any) -> Fault:
        """Let the next request of an endpoint that has no fault yet fail."""
        fault = Fault(kind, **fields)
        self.faults.setdefault(endpoint, []).append(fault)
        return fault

    def end(self, session_id: str, status: str, close_reason: str | None = None, error: str | None = None) -> None:
        now = _now()
        self.sessions[session_id].update(status=status, close_reason=close_reason, error=error, closed_at=now)

    def use(self, session_id: str) -> None:
        """As a client of the session's CDP URL does."""
        self.sessions[session_id]["last_accessed_at"] = _now()

    def make(self, **fields: Any) -> str:
        """A session that somebody else started."""
        return self._start({}, None, **fields)["session_id"]

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
        endpoint = _endpoint(method, parts.path)
        body = json.loads(raw) if raw else None
        request = Request(endpoint, method, unquote(parts.path), query, headers, body)
        self.requests.append(request)
        self._check_request(request)
        return request

    async def _handle(self, request: Request, writer: asyncio.StreamWriter) -> bool:
        """Answer; False when the connection is over."""
        waiting = self.faults.get(request.endpoint, [])
        fault = waiting.pop(0) if waiting else None
        if fault is not None and fault.kind == "hold":
            fault.reached.set()
            while not fault.go.is_set():
                await asyncio.sleep(0.005)
        status, answer = (200, None) if fault is not None and not fault.acts else self._act(request)
        if fault is None or fault.kind == "hold":
            return await _send(writer, status, json.dumps(answer))
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

    # --- the API ------------------------------------------------------------------------------------------------

    def _check_request(self, request: Request) -> None:
        query_models = {
            "list": models.ListSessionsParametersQuery,
            "stop": models.SessionStopParametersQuery,
            "get_cookies": models.SessionCookiesGetParametersQuery,
            "set_cookies": models.SessionCookiesSetParametersQuery,
        }
        body_models = {
            "start": models.ApiSessionStartRequest,
            "set_cookies": models.BodySessionCookiesSetSessionsSessionIdCookiesPost,
        }
        with self._noting(request):
            query = query_models.get(request.endpoint)
            assert query is not None or not request.query, f"a query at {request.endpoint}"
            if query is not None:
                known = set(query.model_fields)
                assert set(request.query) <= known, f"query {sorted(request.query)}"
                query.model_validate(request.query)
            model = body_models.get(request.endpoint)
            assert (request.body is not None) == (model is not None), "a body or none"
            if model is not None:
                model.model_validate(request.body)
                if request.endpoint == "set_cookies":
                    for cookie in request.body["cookies"]:
                        assert set(cookie) <= set(models.Cookie.model_fields), sorted(cookie)

    @contextlib.contextmanager
    def _noting(self, request: Request) -> Any:
        try:
            yield
        except Exception as e:
            self.wrong.append(f"{request.method} {request.path}: {e}")

    def _act(self, request: Request) -> tuple[int, Any]:
        status, answer = self._answer(request)
        if status == 200:
            model = {
                "start": models.SessionResponse,
                "get": models.SessionResponse,
                "stop": models.SessionResponse,
                "list": models.PaginatedResponseSessionResponse,
                "get_cookies": models.GetCookiesResponse,
                "debug": models.SessionDebugResponse,
            }.get(request.endpoint)
            if model is not None and not any(s.get("odd") for s in self.sessions.values()):
                with self._noting(request):
                    model.model_validate(answer)
        return status, answer

    def _answer(self, request: Request) -> tuple[int, Any]:
        if request.headers.get("authorization") != f"Bearer {KEY}":
            return 401, {"detail": "Invalid API key"}
        parts = request.path.strip("/").split("/")
        if request.endpoint == "start":
            return 200, self._start(request.body, request.headers.get("idempotency-key"))
        if request.endpoint == "list":
            return 200, self._list(request.query)
        session = self.sessions.get(parts[1]) if len(parts) > 1 else None
        if session is None:
            return 404, {"detail": "Session not found"}
        if request.endpoint == "get":
            return 200, session
        if session["status"] not in ("active", "authenticating"):
            return 409, {"detail": "Session is not active"}
        if request.endpoint == "stop":
            reason = request.query.get("close_reason", "manual")
            self.end(parts[1], "closed", reason)
            return 200, session
        if request.endpoint == "debug":
            ws = {"cdp": _cdp(parts[1]), "recording": "wss://x.example/r", "logs": "wss://x.example/l"}
            return 200, {"debug_url": "https://x.example/d", "ws": ws, "tabs": []}
        self.use(parts[1])
        if request.endpoint == "get_cookies":
            return 200, {"cookies": self.cookies[parts[1]]}
        return self._set_cookies(parts[1], request.body["cookies"])

    def _start(self, body: dict[str, Any], key: str | None, **fields: Any) -> dict[str, Any]:
        session_id, now = str(uuid.uuid4()), _now()
        idle, longest = body.get("idle_timeout_minutes", 3), body.get("max_duration_minutes", 15)
        session: dict[str, Any] = {
            "session_id": session_id,
            "idle_timeout_minutes": idle,
            "timeout_minutes": idle,
            "max_duration_minutes": longest,
            "created_at": now,
            "closed_at": None,
            "last_accessed_at": now,
            "status": "active",
            "proxies": bool(body.get("proxies", False)),
            "user_agent": body.get("user_agent"),
            "viewport_width": body.get("viewport_width"),
            "viewport_height": body.get("viewport_height"),
            "something_new": {"that": "nobody knows"},
        }
        if self.gives_urls:
            session["cdp_url"] = _cdp(session_id)
        if self.tells_keys:
            session["idempotency_key"] = key
        session.update(fields)
        self.sessions[session_id] = session
        self.cookies[session_id] = []
        return session

    def _list(self, query: dict[str, str]) -> dict[str, Any]:
        page, size = int(query.get("page", 1)), int(query.get("page_size", 10))
        active = query.get("only_active", "True").lower() == "true"
        items = [s for s in reversed(self.sessions.values()) if not active or s["session_id"] in self.live]
        first = (page - 1) * size
        return {
            "items": items[first : first + size],
            "page": page,
            "page_size": size,
            "has_next": len(items) > first + size,
            "has_previous": page > 1,
        }

    def _set_cookies(self, session_id: str, cookies: list[dict[str, Any]]) -> tuple[int, Any]:
        for n, cookie in enumerate(cookies):
            if cookie["name"] == "bad":
                fault = {"loc": ["body", "cookies", n, "domain"], "msg": f"no {cookie['value']}", "type": "value_error"}
                return 422, {"detail": [fault]}
        jar = {(c["name"], c["domain"], c["path"]): c for c in self.cookies[session_id]}
        now = datetime.now(UTC).timestamp()
        for cookie in cookies:
            key = (cookie["name"], cookie["domain"], cookie["path"])
            jar.pop(key, None)
            if cookie["name"] != "dropped" and cookie.get("expirationDate", now + 1) > now:
                jar[key] = cookie
        self.cookies[session_id] = list(jar.values())
        return 200, {"success": True, "message": f"{len(cookies)} cookies set"}


def _endpoint(method: str, path: str) -> str:
    parts = path.strip("/").split("/")
    match method, parts:
        case "POST", ["sessions", "start"]:
            return "start"
        case "GET", ["sessions"]:
            return "list"
        case "GET", ["sessions", _]:
            return "get"
        case "DELETE", ["sessions", _, "stop"]:
            return "stop"
        case "GET", ["sessions", _, "cookies"]:
            return "get_cookies"
        case "POST", ["sessions", _, "cookies"]:
            return "set_cookies"
        case "GET", ["sessions", _, "debug"]:
            return "debug"
    return f"{method} {path}"


def _cdp(session_id: str) -> str:
    return f"wss://127.0.0.1/{session_id}/cdp?token={TOKEN}"


def _now() -> str:
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
