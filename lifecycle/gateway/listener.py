"""The gateway's front door: one listener on 127.0.0.1 for all sessions of the process.

Rule: nobody gets past it without the 256-bit token of a session, a loopback Host, and no Origin but that of an
extension in the session's own browser (for a live view: none but its own page's). The token stands in the path or in
an ``Authorization: Bearer`` header, is compared in constant time, and never reaches a log line.

    ws://127.0.0.1:PORT/TOKEN[/devtools/browser/...]     the browser
    ws://127.0.0.1:PORT/TOKEN/devtools/page/TARGET_ID    one page
    http://127.0.0.1:PORT/TOKEN/json/version             discovery, as a debugging port answers it
    http://127.0.0.1:PORT/TOKEN/json[/list]
    http://127.0.0.1:PORT/view/TOKEN                     the live view, by a token of its own

Requests without any path before ``/json`` or ``/devtools`` need the header. After the end of the session both kinds
get 410 with the close_reason.
"""

from __future__ import annotations

import asyncio
import collections
import hashlib
import hmac
import http
import logging
import os
import socket
from typing import Final, cast

import orjson
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.protocol import State

from lifecycle.errors import BackendError
from lifecycle.gateway import policy
from lifecycle.gateway.hub import Client, Hub
from lifecycle.gateway.view import View
from lifecycle.logs import get_logger

_DISCOVERY_BUDGET: Final = 10.0
"""Seconds that the browser gets to answer for ``/json``."""

_REMEMBERED: Final = 10_000
"""How many ended sessions still answer with 410; older ones are unknown (404)."""

_log: Final = get_logger(__name__)

# websockets logs request lines, and ours hold the token: this logger has no way out.
_mute: Final = logging.Logger("lifecycle.gateway.websockets", level=logging.CRITICAL + 1)  # noqa: LOG001 - on purpose


class _Link:
    """A WebSocket as the hub wants it."""

    __slots__ = ("_connection",)

    def __init__(self, connection: ServerConnection) -> None:
        self._connection = connection

    def send(self, message: bytes) -> None:
        # What `websockets.broadcast` does for each connection: no waiting, and bytes that are text stay bytes.
        protocol = self._connection.protocol
        if protocol.state is State.OPEN:
            protocol.send_text(message)
            self._connection.send_data()

    def backlog(self) -> int:
        return self._connection.transport.get_write_buffer_size()

    def abort(self) -> None:
        self._connection.transport.abort()

    async def close(self, code: int, reason: str) -> None:
        await self._connection.close(code, reason)


class Route:
    """Where a request wants to go: a session, and the rest of the path below its token."""

    __slots__ = ("hub", "own", "rest")

    def __init__(self, hub: Hub, rest: str, *, own: bool = False) -> None:
        self.hub = hub
        self.rest = rest
        self.own = own

    @property
    def page(self) -> str | None:
        """The target id of ``/devtools/page/ID``, or None."""
        parts = self.rest.split("/")
        return parts[2] if len(parts) == 3 and parts[:2] == ["devtools", "page"] and parts[2] else None

    @property
    def browser(self) -> bool:
        """True for the paths that stand for the whole browser."""
        return self.rest == "" or self.rest.split("/")[:2] == ["devtools", "browser"]


class Listener:
    """The listener and the sessions behind it; used on the gateway's loop."""

    def __init__(self) -> None:
        # The protocol is named, or asyncio does not take the accepted sockets for TCP and leaves Nagle's algorithm on:
        # the second of two answers would then wait 40 ms for the client's delayed acknowledgement of the first.
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            self._socket.bind(("127.0.0.1", 0))
            self._socket.listen(128)
            self._socket.setblocking(False)
        except BaseException:
            self._socket.close()
            raise
        self.port: Final[int] = self._socket.getsockname()[1]
        self._server: Server | None = None
        self._hubs: dict[bytes, Hub] = {}
        self._own: dict[bytes, Hub] = {}
        self._views: dict[bytes, View] = {}
        self._past: collections.deque[bytes] = collections.deque()
        self._connections: set[ServerConnection] = set()

    async def start(self) -> None:
        """Begin to serve."""
        self._server = await serve(
            self._connected,
            sock=self._socket,
            process_request=self._requested,
            compression=None,
            ping_interval=None,
            max_size=policy.MAX_MESSAGE,
            close_timeout=1.0,
            server_header=None,
            logger=_mute,
        )

    def add(self, hub: Hub) -> None:
        """Let clients with the token of `hub` in."""
        self._hubs[_key(hub.token)] = hub
        self._own[_key(hub.own_token)] = hub

    def show(self, view: View) -> None:
        """Let viewers with the token of `view` in."""
        self._views[_key(view.token)] = view

    def retire(self, hub: Hub) -> None:
        """Keep only the memory that `hub` has ended."""
        key = _key(hub.token)
        if self._hubs.get(key) is not hub or key in self._past:
            return
        self._past.append(key)
        self._own.pop(_key(hub.own_token), None)
        while len(self._past) > _REMEMBERED:
            gone = self._hubs.pop(self._past.popleft(), None)
            for key in [key for key, view in self._views.items() if view.hub is gone]:
                del self._views[key]

    def hubs(self) -> list[Hub]:
        """All sessions, ended ones too."""
        return list(self._hubs.values())

    def fds(self) -> list[int]:
        """The descriptors of the listener and of its clients."""
        sockets = [c.transport.get_extra_info("socket") for c in list(self._connections)]
        found = [self._socket.fileno(), *(s.fileno() for s in sockets if s is not None)]
        return [fd for fd in found if fd >= 0]

    async def aclose(self) -> None:
        """Stop listening. Idempotent."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
        self._socket.close()

    # --- requests

    def _find(self, request: Request) -> Route | None:
        """The session that a request holds the token of."""
        path = request.path.partition("?")[0].strip("/")
        scheme, _, token = (request.headers.get("Authorization") or "").partition(" ")
        if scheme.lower() == "bearer" and (path == "" or path.split("/")[0] in ("json", "devtools")):
            rest = path
        else:
            token, _, rest = path.partition("/")
        own = self._own.get(_key(token))
        if own is not None and hmac.compare_digest(own.own_token.encode(), token.encode(errors="replace")):
            return Route(own, rest, own=True)
        hub = self._hubs.get(_key(token))
        if hub is None or not hmac.compare_digest(hub.token.encode(), token.encode(errors="replace")):
            return None
        return Route(hub, rest)

    def _view(self, request: Request) -> View | None:
        """The live view that a request holds the token of."""
        first, _, token = request.path.partition("?")[0].strip("/").partition("/")
        view = self._views.get(_key(token)) if first == "view" else None
        return view if view is not None and hmac.compare_digest(view.token.encode(), token.encode()) else None

    async def _requested(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer a request that is not, or must not become, a WebSocket."""
        hosts = request.headers.get_all("Host")
        if len(hosts) != 1 or not policy.host_allowed(hosts[0]):
            return _text(connection, 403, "The Host header has to name 127.0.0.1 or localhost.")
        view = self._view(request)
        if view is not None:
            return _show(connection, request, view, hosts[0], self.port)
        route = self._find(request)
        origins = request.headers.get_all("Origin")
        if origins and (route is None or not await _from_inside(route.hub, origins)):
            return _text(connection, 403, "Pages of a browser may not connect: the request has an Origin header.")
        if route is None:
            return _text(connection, 404, "No session has this token.")
        if route.hub.ended is not None:
            return _text(connection, 410, f"The session is over: {route.hub.ended}")
        upgrade = "websocket" in (request.headers.get("Upgrade") or "").lower()
        if upgrade and (route.browser or route.page is not None):
            return None
        if not upgrade:
            return await self._discovery(connection, route, hosts[0])
        return _text(connection, 404, "There is nothing to connect to at this path.")

    async def _discovery(self, connection: ServerConnection, route: Route, host: str) -> Response:
        base = f"ws://{host}/{route.hub.token}"
        try:
            async with asyncio.timeout(_DISCOVERY_BUDGET):
                if route.rest == "json/version":
                    return _json(connection, await _version(route.hub, base))
                if route.rest in ("json", "json/list"):
                    return _json(connection, await _targets(route.hub, base))
        except (BackendError, TimeoutError):
            return _text(connection, 503, "The browser does not answer.")
        if route.browser or route.page is not None:
            return _text(connection, 426, "Connect here with a WebSocket that speaks CDP, or read /json/version.")
        return _text(connection, 404, "Unknown path; there are /json/version and /json/list.")

    async def _connected(self, connection: ServerConnection) -> None:
        """One client, from its handshake to the end of its socket."""
        view = self._view(cast("Request", connection.request))
        route = self._find(cast("Request", connection.request))
        if view is None and route is None:
            await connection.close(policy.CLOSED_BY_OWNER, "unknown session")
            return
        self._connections.add(connection)
        try:
            if view is not None:
                await view.serve(connection)
            elif route is not None:
                await self._serve_client(route, connection)
        except ConnectionClosed:
            return  # before it had a session
        except Exception:  # noqa: BLE001 - a fault of one client is not one of the others
            _log.exception("a CDP client of the gateway was dropped by an error")
            await connection.close(1011, "internal error")
        finally:
            self._connections.discard(connection)

    async def _serve_client(self, route: Route, connection: ServerConnection) -> None:
        hub = route.hub
        try:
            client: Client = await hub.join(_Link(connection), route.page, own=route.own)
        except BackendError:
            if hub.ended is not None:
                await connection.close(policy.CLOSED_BY_OWNER, policy.close_text(hub.ended))
            else:
                await connection.close(policy.CLOSED_BY_OWNER, "no such target")
            return
        if hub.ended is not None:  # it ended while this client came in
            await connection.close(policy.CLOSED_BY_OWNER, policy.close_text(hub.ended))
        try:
            while True:
                raw = await connection.recv(decode=False)
                waiting = hub.command(client, raw)
                if waiting is not None:
                    await waiting
        except ConnectionClosed:
            return
        finally:
            await hub.leave(client)


def _key(token: str) -> bytes:
    """Where a session is kept: a digest, so that looking it up tells nothing about the token by its time."""
    return hashlib.sha256(token.encode(errors="replace")).digest()


def _show(connection: ServerConnection, request: Request, view: View, host: str, port: int) -> Response | None:
    """The page of a live view, or None where its WebSocket may be opened."""
    if view.hub.ended is not None:
        return _text(connection, 410, f"The session is over: {view.hub.ended}")
    origin = request.headers.get("Origin")
    if origin is not None and origin != f"http://{host}":
        return _text(connection, 403, "Only the page of the live view itself may connect.")
    if "websocket" in (request.headers.get("Upgrade") or "").lower():
        return None if origin is not None else _text(connection, 403, "Only a page of a browser may connect.")
    page, rules = view.page(port)
    response = connection.respond(http.HTTPStatus.OK, page)
    del response.headers["Content-Type"]
    response.headers["Content-Type"] = "text/html; charset=UTF-8"
    response.headers["Content-Security-Policy"] = rules
    response.headers["Referrer-Policy"] = "no-referrer"
    response.headers["Cache-Control"] = "no-store"
    return response


def _text(connection: ServerConnection, status: int, text: str) -> Response:
    return connection.respond(http.HTTPStatus(status), text + "\n")


def _json(connection: ServerConnection, value: object) -> Response:
    response = connection.respond(http.HTTPStatus.OK, orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())
    del response.headers["Content-Type"]
    response.headers["Content-Type"] = "application/json; charset=UTF-8"
    return response


async def _from_inside(hub: Hub, origins: list[str]) -> bool:
    """True for an extension that runs in the session's own browser: it can do as much without the gateway."""
    if len(origins) != 1 or not policy.EXTENSION_ORIGIN.fullmatch(origins[0]):
        return False
    try:
        async with asyncio.timeout(_DISCOVERY_BUDGET):
            result = await hub.call("Target.getTargets", {"filter": [{}]})
    except (BackendError, TimeoutError):
        return False
    infos = result.get("targetInfos")
    return any(str(i.get("url", "")).startswith(f"{origins[0]}/") for i in (infos if isinstance(infos, list) else []))


async def _version(hub: Hub, base: str) -> dict[str, object]:
    """What a debugging port answers at ``/json/version``."""
    v = await hub.call("Browser.getVersion")
    return {
        "Browser": v.get("product"),
        "File-Path-Style": "windows" if os.name == "nt" else "posix",
        "Protocol-Version": v.get("protocolVersion"),
        "User-Agent": v.get("userAgent"),
        "V8-Version": v.get("jsVersion"),
        "WebKit-Version": f"537.36 ({v.get('revision')})",
        "webSocketDebuggerUrl": base,
    }


async def _targets(hub: Hub, base: str) -> list[dict[str, object]]:
    """What a debugging port answers at ``/json/list``."""
    result = await hub.call("Target.getTargets")
    infos = result.get("targetInfos")
    return [
        {
            "description": "",
            "id": info["targetId"],
            "title": info["title"],
            "type": info["type"],
            "url": info["url"],
            "webSocketDebuggerUrl": f"{base}/devtools/page/{info['targetId']}",
        }
        for info in (infos if isinstance(infos, list) else [])
    ]
