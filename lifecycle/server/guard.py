"""Who gets in, and with how much: the first thing that sees a request, and the last.

Rule: in this order. The Host names this server: by a loopback name or, where clients on other machines are let in, by
an address or the name that it was told (a page that rebinds its own name to our address still sends that name). An
Origin, where there is one, is this server's own. The token is right, compared in constant time, and stands in the
``Authorization`` header or, for the pages, is proved by a cookie that is not the token; never in a query string. (What
stands below ``/browser/`` asks for secrets of its own.) The body is within bounds, read to its end before anything
looks at it. Whatever fails behind that is answered without a word of what it was, and logged by its class.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import ipaddress
import socket
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from typing import Final
from urllib.parse import urlsplit

from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lifecycle.gateway.policy import host_allowed
from lifecycle.logs import get_logger
from lifecycle.server.problems import problem

__all__ = ["COOKIE", "METRICS", "PREFIX", "Guard", "Keys", "Names", "is_address"]

MAX_BODY: Final = 1024 * 1024
"""Bytes that a body may have."""

MAX_COOKIES: Final = 4 * 1024 * 1024
"""Bytes that a body of cookies may have."""

BODY_BUDGET: Final = 30.0
"""Seconds in which a body has to arrive."""

DRAIN_BUDGET: Final = 2.0
"""Seconds in which the rest of a body that is refused is thrown away."""

COOKIE: Final = "lifecycle_pages"

PREFIX: Final = "/browser"
"""Below it stands the gateway, which asks for secrets of its own; see `lifecycle.server.relay`."""

METRICS: Final = "/metrics"

_OPEN: Final = frozenset({"/health", "/ready"})
_LOGIN: Final = frozenset({"/", "/ui/login"})
_HEADERS: Final = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
)

_log: Final = get_logger(__name__)


class Keys:
    """The token, and what proves that somebody had it.

    Args:
        token: The token; None lets everybody in who can reach the server.
    """

    def __init__(self, token: str | None) -> None:
        self._token = token.encode() if token is not None else None
        # Cookies are not kept apart by port, so what a browser keeps must not be what opens the API.
        self.cookie: Final = hmac.new(self._token or b"", b"lifecycle pages", hashlib.sha256).hexdigest()

    @property
    def open(self) -> bool:
        """True when nothing is asked for."""
        return self._token is None

    def fits(self, given: bytes) -> bool:
        """True for the token; takes as long for any other."""
        if self._token is None:
            return True
        return hmac.compare_digest(hashlib.sha256(given).digest(), hashlib.sha256(self._token).digest())

    def bearer(self, headers: Mapping[bytes, list[bytes]]) -> bool:
        """True when the ``Authorization`` header, of which there is one, has the token."""
        given = headers.get(b"authorization", [])
        scheme, _, token = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
        return self.open or (scheme.lower() == b"bearer" and self.fits(token.strip()))

    def signed_in(self, headers: Mapping[bytes, list[bytes]]) -> bool:
        """True when a browser proves that the token was typed into it."""
        if self.open:
            return True
        try:
            jar = SimpleCookie(b"; ".join(headers.get(b"cookie", [])).decode("latin-1"))
        except CookieError:
            return False
        found = jar.get(COOKIE)
        return found is not None and hmac.compare_digest(found.value.encode(), self.cookie.encode())

    def inside(self, text: bytes) -> bool:
        """True when `text` holds the token, which then has been given away."""
        return self._token is not None and self._token in text


class Names:
    """What this server is called by those who reach it.

    Args:
        remote: True where clients on other machines are let in: it may be called by any address.
        public_url: Where clients reach it, where that is another place than it listens on.
    """

    def __init__(self, *, remote: bool = False, public_url: str | None = None) -> None:
        self._remote = remote
        self._public = urlsplit(public_url or "")
        self._called = {socket.gethostname().lower()} if remote else set()
        self._called |= {self._public.hostname} if self._public.hostname else set()

    def host(self, host: str) -> bool:
        """True for a Host header that names this server; an address can't be rebound, as a name can."""
        if host_allowed(host):
            return True
        try:
            given = urlsplit(f"//{host}")
            name, bare = given.hostname or "", given.path == "" and given.username is None and (given.port or 1) > 0
        except ValueError:
            return False
        return bare and (name in self._called or (self._remote and is_address(name)))

    def origin(self, origin: str, host: str) -> bool:
        """True for an Origin header of this server's own pages."""
        own = {f"{scheme}://{host}" for scheme in ("http", "https")}
        if self._public.netloc:
            own.add(f"{self._public.scheme}://{self._public.netloc}")
        return origin.lower() in {o.lower() for o in own}


def is_address(name: str) -> bool:
    """True for an IP address, of either version."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class Guard:
    """ASGI middleware; see the module's rule.

    Args:
        app: What it guards.
        keys: Who is let in.
        names: What the server is called.
        metrics_without_token: True to let everybody in to ``/metrics``.
    """

    def __init__(self, app: ASGIApp, keys: Keys, names: Names, *, metrics_without_token: bool = False) -> None:
        self._app = app
        self._keys = keys
        self._names = names
        self._open = _OPEN | {METRICS} if metrics_without_token else _OPEN

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] == "websocket":
            if not scope["path"].startswith(f"{PREFIX}/") or self._refuse(scope) is not None:
                await send({"type": "websocket.close", "code": 1008})
                return
            await self._app(scope, receive, send)
            return
        began = False

        async def answer(message: Message) -> None:
            nonlocal began
            if message["type"] == "http.response.start":
                began = True
                have = {name.lower() for name, _ in message.get("headers", ())}
                message["headers"] = [*message.get("headers", ()), *(h for h in _HEADERS if h[0] not in have)]
            await send(message)

        try:
            body = _Body(scope, receive)
            got = self._refuse(scope) or await body.read()
            if isinstance(got, Response):
                await body.drain()
                await got(scope, receive, answer)
            else:
                await self._app(scope, _replay(got, receive), answer)
        except Exception as e:  # the last place; its text may hold anything, so only its class is told
            _log.error("a request failed: %s", type(e).__name__)
            if began:
                raise
            await problem(500, "the server failed; its log says more", error="InternalError")(scope, receive, answer)

    def _refuse(self, scope: Scope) -> Response | None:
        headers: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.lower(), []).append(value)
        hosts = [host.decode("latin-1") for host in headers.get(b"host", [])]
        if len(hosts) != 1 or not self._names.host(hosts[0]):
            return problem(403, "the Host header does not name this server", error="Forbidden")
        if not all(self._names.origin(o.decode("latin-1"), hosts[0]) for o in headers.get(b"origin", [])):
            return problem(403, "pages of other sites may not use this server", error="Forbidden")
        if self._keys.inside(scope.get("query_string", b"")) or self._keys.inside(scope["path"].encode()):
            text = "the token was sent in the URL, where logs keep it: send it as Authorization: Bearer, and change it"
            return problem(400, text, error="BadRequest")
        path = scope["path"]
        if path in self._open or path.startswith(f"{PREFIX}/"):
            return None
        if path == "/" or path.startswith("/ui/"):
            signed_in = self._keys.signed_in(headers) or self._keys.bearer(headers)
            scope.setdefault("state", {})["signed_in"] = signed_in
            return None if signed_in or path in _LOGIN else RedirectResponse("/", 303)
        return None if self._keys.bearer(headers) else _unauthorized()


def _unauthorized() -> JSONResponse:
    text = "the token is missing or wrong; send it as Authorization: Bearer TOKEN"
    return problem(401, text, error="Unauthorized", headers={"WWW-Authenticate": "Bearer"})


class _Body:
    """The body of a request, read at most once and never beyond its bounds."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._receive = receive
        headers = {name.lower(): value for name, value in scope["headers"]}
        told = headers.get(b"content-length", b"0")
        self._told = int(told[:20]) if told.isdigit() else 0
        self._most = MAX_COOKIES if scope["path"].endswith("/cookies") else MAX_BODY
        # One that waits to be asked for its body is not asked.
        self._waits = b"expect" in headers
        self._over = not self._told and b"transfer-encoding" not in headers

    async def _next(self) -> bytes:
        message = await self._receive()
        self._over = message["type"] == "http.disconnect" or not message.get("more_body", False)
        part: bytes = message.get("body", b"")
        return part

    async def read(self) -> bytes | Response:
        """All of it, however it is sent, or the answer that it is too long or too slow."""
        too_long = problem(413, f"the body is longer than {self._most} bytes", error="ContentTooLarge")
        if self._told > self._most:
            return too_long
        self._waits = False
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(BODY_BUDGET):
                while not self._over:
                    parts.append(await self._next())
                    size += len(parts[-1])
                    if size > self._most:
                        return too_long
        except TimeoutError:
            self._over = True
            return problem(408, "the body did not arrive", error="RequestTimeout", headers={"Connection": "close"})
        return b"".join(parts)

    async def drain(self) -> None:
        """Let the sender finish, within bounds: one that is cut off while it sends may never read the answer."""
        left = 2 * MAX_COOKIES
        if self._told > left:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_BUDGET):
                while left > 0 and not self._over and not self._waits:
                    left -= len(await self._next())


def _replay(body: bytes, receive: Receive) -> Receive:
    given = False

    async def replayed() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed
