"""The application on uvicorn, from its first request to the end of its last session.

Rule: a signal asks for the end and never breaks anything off. From then on no session begins and ``/ready`` says so;
those that there are are stopped, and meanwhile all other requests are answered as ever; then no connection is taken
any more, requests in flight are finished, and only then does `serve` return. A second Ctrl-C does not wait for requests
any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import secrets
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

import uvicorn

from lifecycle.errors import ConfigError
from lifecycle.gateway.policy import MAX_MESSAGE
from lifecycle.ports import Adapter, Store
from lifecycle.server.app import check_token, create_app
from lifecycle.server.guard import is_address
from lifecycle.signals import heeded_signals

if TYPE_CHECKING:
    from types import FrameType

    from starlette.types import ASGIApp

    from lifecycle.server.hosting import Hosting

__all__ = ["GRACE", "Serving", "serve"]

GRACE: Final = 10
"""Seconds that requests in flight have once all sessions have ended."""

_SOCKETS: Final[dict[str, Any]] = {
    "ws": "websockets-sansio", "ws_max_size": MAX_MESSAGE, "ws_ping_interval": None, "ws_per_message_deflate": False,
}  # fmt: skip
"""How uvicorn serves WebSockets: as the gateway does, to which it hands them on."""


class Serving:
    """What a server that is up tells of itself.

    Attributes:
        url: Where it is reached.
        token: The token, None when it asks for none.
        made: True when the token was made for this run.
        adapter: Name of the adapter.
    """

    __slots__ = ("adapter", "made", "token", "url")

    def __init__(self, url: str, token: str | None, *, made: bool, adapter: str) -> None:
        self.url = url
        self.token = token
        self.made = made
        self.adapter = adapter


class _Server(uvicorn.Server):
    """uvicorn, with signals told to our caller instead of raised again; sessions end while it listens."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None], hosting: Hosting | None = None) -> None:
        super().__init__(config)
        self._ready = ready
        self._hosting = hosting
        self.struck: int | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()

    async def main_loop(self) -> None:
        await super().main_loop()
        if self._hosting is not None:
            await self._hosting.drain()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = heeded_signals()
        for number in before:
            signal.signal(number, self._strike)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _strike(self, signum: int, frame: FrameType | None) -> None:
        del frame
        first = self.struck is None
        self.struck = self.struck or signum
        word = "stopping all sessions" if first else "still stopping"
        os.write(2, f"lifecycle: {signal.Signals(signum).name}, {word}\n".encode())  # not print: it may be in one
        if not first and signum == signal.SIGINT:
            self.force_exit = True
        if self._hosting is not None:
            self._hosting.closing = True  # now, and not when the loop looks next: nothing begins in between
        self.should_exit = True


def serve(
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    adapter: str | Adapter | None = None,
    store: str | Store | None = None,
    token: str | None = None,
    no_token: bool = False,
    deny_private: bool = False,
    allow_chrome_args: bool = False,
    allow_remote: bool = False,
    public_url: str | None = None,
    metrics_without_token: bool = False,
    ready: Callable[[Serving], None] = lambda _: None,
) -> int | None:
    """Serve the session API until a signal asks for the end.

    Args:
        host: The address to listen on; one that is not loopback needs `allow_remote`.
        port: The port, 0 for any that is free.
        adapter: See `AsyncClient`.
        store: See `AsyncClient`.
        token: What clients have to send; by default one is made.
        no_token: Ask for none: whoever can reach the port, any user of this machine, may drive the browsers.
        deny_private: Refuse operations that lead to private addresses.
        allow_chrome_args: See `create_app`.
        allow_remote: See `create_app`. What passes is not encrypted here: put a proxy that does in front.
        public_url: See `create_app`.
        metrics_without_token: See `create_app`.
        ready: Called once it listens.

    Returns:
        The number of the signal that ended it, None where it ended without one.

    Raises:
        ConfigError: An argument is not allowed, or the port is taken.
        LifecycleError: What went wrong as sessions were stopped; they are over all the same.
    """
    address = _address(host, allow_remote=allow_remote)
    if no_token and token is not None:
        raise ConfigError(option="no_token", value=True, allowed="a token, or no token, not both")
    made = token is None and not no_token
    token = secrets.token_urlsafe(32) if made else check_token(token)
    with listen(address, port) as listening:
        app = create_app(
            adapter=adapter, store=store, token=token, deny_private=deny_private, allow_chrome_args=allow_chrome_args,
            allow_remote=allow_remote, public_url=public_url, metrics_without_token=metrics_without_token,
        )  # fmt: skip
        serving = Serving(
            public_url or f"http://{_told(address)}:{listening.getsockname()[1]}", token, made=made,
            adapter=app.state.hosting.client._adapter.name,  # noqa: SLF001 - told, not used
        )  # fmt: skip
        if allow_remote:
            app.state.hosting.client._advertise(serving.url)  # noqa: SLF001 - as above
        server = _Server(config_of(app, allow_remote=allow_remote), lambda: ready(serving), app.state.hosting)
        try:
            asyncio.run(server.serve(sockets=[listening]))
        finally:
            # What the lifespan did not get to, after a second Ctrl-C.
            asyncio.run(app.state.hosting.close(client_too=True))
    if app.state.trouble is not None:
        raise app.state.trouble
    return server.struck


def config_of(app: ASGIApp, *, allow_remote: bool) -> uvicorn.Config:
    """How uvicorn runs the application."""
    sockets: dict[str, Any] = _SOCKETS if allow_remote else {"ws": "none"}
    return uvicorn.Config(
        app, access_log=False, log_config=None, log_level="warning", server_header=False, proxy_headers=False,
        lifespan="on", timeout_graceful_shutdown=GRACE, **sockets,
    )  # fmt: skip


def _address(host: str, *, allow_remote: bool) -> str:
    address = "127.0.0.1" if host == "localhost" else host.strip("[]")
    if address in ("127.0.0.1", "::1"):
        return address
    if not is_address(address):
        raise ConfigError(option="host", value=host, allowed="localhost, or an address of this machine such as 0.0.0.0")
    if not allow_remote:
        raise ConfigError(
            option="host",
            value=host,
            allowed="127.0.0.1, ::1 or localhost, unless clients on other machines are let in, by --allow-remote "
            "(allow_remote=True): whoever has the token can then drive the browsers from there",
        )
    return address


def _told(address: str) -> str:
    """How a client may call it: all addresses are called by the machine's name."""
    if ipaddress.ip_address(address).is_unspecified:
        return socket.gethostname()
    return f"[{address}]" if ":" in address else address


def listen(address: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        ConfigError: The port is taken, or not allowed.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    # The protocol is named, or asyncio does not take the accepted sockets for TCP and leaves Nagle's algorithm on: each
    # answer would wait 40 ms for the client's delayed acknowledgement of its head.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name == "posix":
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((address, port))
        listening.listen(512)
    except (OSError, OverflowError) as e:
        listening.close()
        reason = e.strerror if isinstance(e, OSError) and e.strerror else "it is no port"
        raise ConfigError(option="port", value=port, allowed=f"a port that is free on {address} ({reason})") from e
    return listening
