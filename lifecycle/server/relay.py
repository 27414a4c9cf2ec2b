"""The browsers' gateway at the address of the server, for clients on other machines.

Rule: nothing is understood here. A request below ``/browser/`` is asked of the gateway, which itself listens on
loopback alone, and its answer goes back with the gateway's address replaced by this one; of a WebSocket, each message
is handed on as it is, in its order, and no faster than it is taken. What lets a client in is the session's own secret
in the path, as at the gateway.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Coroutine
from http.client import HTTPConnection, HTTPException
from typing import Any, Final
from urllib.parse import quote, urlsplit

from fastapi import APIRouter, Request, WebSocket
from starlette.datastructures import URL
from starlette.responses import PlainTextResponse, Response
from starlette.websockets import WebSocketDisconnect, WebSocketDisconnected
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.frames import Close, CloseCode
from websockets.typing import Origin

from lifecycle.gateway.policy import MAX_MESSAGE
from lifecycle.server.guard import PREFIX

__all__ = ["Relay", "public_address", "router"]

BUDGET: Final = 15.0
"""Seconds that the gateway gets to answer a request."""

REMEMBERED: Final = 100_000
"""Addresses that are known. Those that were told longest ago go first: they are not told that their session is over."""

_SOCKETS: Final = {"http": "ws", "https": "wss"}
_HEADERS: Final = ("content-type", "content-security-policy", "cache-control", "referrer-policy")

# websockets logs request lines, and ours hold secrets: this logger has no way out.
_mute: Final = logging.Logger("lifecycle.server.websockets", level=logging.CRITICAL + 1)  # noqa: LOG001 - on purpose

router: Final = APIRouter(prefix=PREFIX, include_in_schema=False)


def public_address(request: Request, url: str) -> str:
    """The address to tell a client for something at a gateway: this server's, where it hands on what comes to it."""
    relay: Relay | None = request.app.state.relay
    return relay.public(url, request.url) if relay is not None else url


class Relay:
    """Which gateway knows which secret, and under what address clients find it.

    Args:
        public_url: Where clients reach this server, ``https://host``; None for the name that a request was sent to.
    """

    def __init__(self, public_url: str | None = None) -> None:
        self._public = public_url
        self._known: dict[bytes, str] = {}

    def public(self, url: str, request_url: URL) -> str:
        """The address, at this server, of something at a gateway.

        Args:
            url: Its address at the gateway.
            request_url: What the client asked for.
        """
        there = urlsplit(url)
        key = _digest(there.path)
        self._known.pop(key, None)  # what is asked for again is not the oldest any more
        self._known[key] = there.netloc
        if len(self._known) > REMEMBERED:
            self._known.pop(next(iter(self._known)))
        base = self.base(request_url)
        scheme = base.scheme if there.scheme == "http" else _SOCKETS[base.scheme]
        return f"{scheme}://{base.netloc}{PREFIX}{there.path}"

    def base(self, request_url: URL) -> URL:
        """Where clients reach this server."""
        return URL(self._public) if self._public is not None else URL(f"{request_url.scheme}://{request_url.netloc}")

    def find(self, path: str) -> str | None:
        """The gateway that knows the secret in a path, as ``host:port``."""
        parts = path.split("/")
        return self._known.get(_digest("/" + "/".join(parts[: 2 if parts[0] == "view" else 1])))


def _digest(path: str) -> bytes:
    """Looking up by a digest tells nothing about a secret by the time it takes."""
    return hashlib.sha256(path.encode(errors="replace")).digest()


@router.get("/{path:path}")
async def ask(request: Request, path: str) -> Response:
    """A request without a WebSocket: discovery, the page of a live view, or the word that a session is over."""
    relay: Relay = request.app.state.relay
    there = relay.find(path)
    if there is None:
        return PlainTextResponse("No session has this secret.\n", 404)
    try:
        status, headers, body = await asyncio.to_thread(_get, there, path)
    except (OSError, HTTPException):
        return PlainTextResponse("The browser does not answer.\n", 503)
    base = relay.base(request.url)
    socket = f"{_SOCKETS[base.scheme]}://{base.netloc}"
    if rules := headers.get("content-security-policy"):
        headers["content-security-policy"] = rules.replace(f"ws://{there}", socket)
    return Response(body.replace(f"ws://{there}/".encode(), f"{socket}{PREFIX}/".encode()), status, headers)


def _get(there: str, path: str) -> tuple[int, dict[str, str], bytes]:
    """Ask the gateway, by a client that logs no URL."""
    with contextlib.closing(HTTPConnection(there, timeout=BUDGET)) as connection:
        connection.request("GET", "/" + quote(path))
        answer = connection.getresponse()
        headers = {name.lower(): value for name, value in answer.getheaders() if name.lower() in _HEADERS}
        return answer.status, headers, answer.read()


@router.websocket("/{path:path}")
async def connected(websocket: WebSocket, path: str) -> None:
    """One client of a browser, or one viewer, until either end closes."""
    relay: Relay = websocket.app.state.relay
    there = relay.find(path)
    if there is None:
        await websocket.send_denial_response(PlainTextResponse("No session has this secret.\n", 404))
        return
    # The guard has seen that an Origin is this server's own; to the gateway, its own page is what may connect.
    origin = Origin(f"http://{there}") if "origin" in websocket.headers else None
    opening = connect(
        f"ws://{there}/{quote(path)}",
        origin=origin,
        user_agent_header=None,
        compression=None,
        proxy=None,
        open_timeout=BUDGET,
        ping_interval=None,
        close_timeout=1.0,
        max_size=MAX_MESSAGE,
        logger=_mute,
    )
    try:
        gateway = await opening
    except InvalidStatus as e:
        refusal = PlainTextResponse(bytes(e.response.body or b""), e.response.status_code)
        await websocket.send_denial_response(refusal)
        return
    except (OSError, TimeoutError, InvalidHandshake, EOFError):
        await websocket.send_denial_response(PlainTextResponse("The browser does not answer.\n", 503))
        return
    async with gateway:
        await websocket.accept()
        await _first(_up(websocket, gateway), _down(gateway, websocket))


async def _first(*ways: Coroutine[Any, Any, None]) -> None:
    """Run both until one has ended."""
    tasks = [asyncio.ensure_future(way) for way in ways]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


async def _up(websocket: WebSocket, gateway: ClientConnection) -> None:
    """From the client to the browser, until the client is gone."""
    while (message := await websocket.receive())["type"] == "websocket.receive":
        text = message.get("text")
        with contextlib.suppress(ConnectionClosed):  # which the other way tells the client
            await gateway.send(text if text is not None else message["bytes"])


async def _down(gateway: ClientConnection, websocket: WebSocket) -> None:
    """From the browser to the client, until the browser is gone; the client is told why."""
    try:
        while True:
            message = await gateway.recv()
            await (websocket.send_text(message) if isinstance(message, str) else websocket.send_bytes(message))
    except ConnectionClosed as e:
        said = e.rcvd if e.rcvd is not None else Close(CloseCode.INTERNAL_ERROR, "the browser is gone")
        code = CloseCode.NORMAL_CLOSURE if said.code == CloseCode.NO_STATUS_RCVD else said.code
        with contextlib.suppress(WebSocketDisconnected, WebSocketDisconnect):
            await websocket.close(code, said.reason)
    except (WebSocketDisconnected, WebSocketDisconnect):
        return
