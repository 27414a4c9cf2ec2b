"""A foreign browser's end of the gateway: CDP over a WebSocket.

Rule: it looks like a `lifecycle.gateway.pipe.Pipe` to the hub. Reading never waits for anyone, writing never blocks
the loop, and whatever goes wrong is reported as a loss, once. No ping of ours ends the connection, since a busy
browser is not a dead one; the system's own keep-alive finds a machine that vanished. The URL and the headers are
secrets: no error or log line holds them.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import re
import socket
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
from websockets.protocol import State

from lifecycle.errors import ConnectionLost, RemoteRejected
from lifecycle.gateway import policy
from lifecycle.logs import get_logger

if TYPE_CHECKING:
    from lifecycle.ports import CdpSocket

__all__ = ["Socket", "open_socket"]

OPEN_BUDGET: Final = 15.0
"""Seconds that the other end gets to accept the connection."""

_HIGH_WATER: Final = 8 * 1024 * 1024
"""Bytes that may wait to be written before the clients that send them are no longer read."""

_KEEPALIVE: Final = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))
"""A machine that vanished is noticed after about a minute."""

_TOO_BIG: Final = 1009
"""WebSocket close code for a message that is too long (RFC 6455, section 7.4.1)."""

_log: Final = get_logger(__name__)

# websockets logs request lines and headers, and ours are secrets: this logger has no way out.
_mute: Final = logging.Logger("lifecycle.gateway.websockets", level=logging.CRITICAL + 1)  # noqa: LOG001 - on purpose


class _Connect(connect):
    """Follows no redirect: it would carry the headers to somebody else."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


async def open_socket(where: CdpSocket) -> ClientConnection:
    """Connect to a browser.

    Raises:
        ConnectionLost: It can't be reached.
        RemoteRejected: Something is there and refuses, or speaks no WebSocket.
    """
    place = urlsplit(where.url).hostname or ""
    opening = _Connect(
        where.url,
        additional_headers=dict(where.headers),
        user_agent_header=None,
        compression=None,
        proxy=None if _loopback(place) else True,
        open_timeout=OPEN_BUDGET,
        ping_interval=None,
        close_timeout=1.0,
        max_size=policy.MAX_MESSAGE,
        write_limit=(_HIGH_WATER, _HIGH_WATER // 2),
        logger=_mute,
    )
    try:
        connection = await opening
    except InvalidStatus as e:
        status = e.response.status_code
        said = (e.response.body or b"")[:200].decode(errors="replace").strip()
        over = said if re.fullmatch(r"The session is over: [a-z_]{1,40}", said) else ""  # what a gateway of ours says
        raise RemoteRejected(over or f"it answers with HTTP {status}", status=status) from None
    except (InvalidURI, InvalidHandshake, EOFError) as e:
        raise RemoteRejected(f"it does not speak WebSocket ({type(e).__name__})") from None
    except ssl.SSLError as e:
        raise ConnectionLost(f"its TLS certificate or handshake is not accepted ({e.reason or 'unknown'})") from None
    except TimeoutError:
        raise ConnectionLost(f"it did not answer within {OPEN_BUDGET:g} s") from None
    except (OSError, ImportError) as e:  # ImportError: a SOCKS proxy, which needs a package more
        raise ConnectionLost(_os_reason(e)) from None
    sock = connection.transport.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in _KEEPALIVE:
                if hasattr(socket, name):
                    sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return connection


def _os_reason(e: Exception) -> str:
    if isinstance(e, ImportError):
        return "the proxy in the environment is a SOCKS proxy, which needs the package python-socks"
    if isinstance(e, socket.gaierror):
        return "its host name is unknown"
    if isinstance(e, ConnectionRefusedError) or "refused" in str(e).lower():
        return "nothing listens there"
    return f"it can't be reached ({getattr(e, 'strerror', None) or type(e).__name__})"


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Socket:
    """One browser connection; made and used on the gateway's loop.

    Args:
        loop: The gateway's loop.
        connection: An open connection; taken over at once.
        on_message: Called with each message.
        on_lost: Called once with the reason when the connection breaks, but not when `close` ended it.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        connection: ClientConnection,
        *,
        on_message: Callable[[bytes], None],
        on_lost: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self._connection = connection
        self._on_message = on_message
        self._on_lost = on_lost
        self._reading: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self.closed = False

    def start(self) -> None:
        """Begin to read."""
        self._reading = self._loop.create_task(self._read())

    def fds(self) -> tuple[int, ...]:
        """The descriptor, while it is open."""
        sock: Any = self._connection.transport.get_extra_info("socket")
        number = sock.fileno() if sock is not None else -1
        return (number,) if number >= 0 else ()

    async def _read(self) -> None:
        try:
            while not self.closed:
                self._on_message(await self._connection.recv(decode=False))
        except ConnectionClosed as e:
            self._lose(_how(e))
        except Exception as e:  # noqa: BLE001 - a pump that stopped must not look like one that runs
            _log.exception("the gateway could not route a message of the browser")
            self._lose(f"the gateway failed: {type(e).__name__}")

    def write(self, message: bytes) -> None:
        """Send one message. Silent when the connection is closed."""
        protocol = self._connection.protocol
        if not self.closed and protocol.state is State.OPEN:
            protocol.send_text(message)
            self._connection.send_data()

    @property
    def crowded(self) -> bool:
        """True when so much waits to be written that senders should wait for `drained`."""
        return not self.closed and self._connection.transport.get_write_buffer_size() > _HIGH_WATER

    async def drained(self) -> None:
        """Wait until there is room again, or the connection is closed."""
        with contextlib.suppress(OSError):  # it broke, which the reader reports
            await self._connection.drain()

    def _lose(self, reason: str) -> None:
        if not self.closed:
            self.close()
            self._on_lost(reason)

    def close(self) -> None:
        """Close the connection, within a second or so. Idempotent."""
        if self.closed:
            return
        self.closed = True
        if self._reading is not None and self._reading is not asyncio.current_task(self._loop):
            self._reading.cancel()
        self._closing = self._loop.create_task(self._connection.close())

    async def wait_closed(self) -> None:
        """Wait for the end of a `close`."""
        if self._closing is not None:
            await asyncio.wait({self._closing})


def _how(e: ConnectionClosed) -> str:
    """The end of a connection in words; what the other end said only where it looks like a reason of ours."""
    if e.sent is not None and e.sent.code == _TOO_BIG and not e.rcvd_then_sent:
        return f"the browser sent a message above {policy.MAX_MESSAGE // (1024 * 1024)} MB"
    if e.rcvd is None:
        return "the connection to the browser broke"
    said = f" {e.rcvd.reason}" if re.fullmatch(r"[a-z_]{1,40}", e.rcvd.reason) else ""
    return f"the browser closed its connection ({e.rcvd.code}{said})"
