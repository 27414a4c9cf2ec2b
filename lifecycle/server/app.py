"""The ASGI application.

Rule: put together here, and nothing else. Further routers are added beside `sessions` and `pages`.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI, Request, Security
from fastapi.security import HTTPBearer

from lifecycle.client import AsyncClient
from lifecycle.errors import ConfigError
from lifecycle.journal import library_version
from lifecycle.ports import Adapter, Store
from lifecycle.server.addresses import over_the_wire
from lifecycle.server.guard import Guard, Keys, Names
from lifecycle.server.hosting import Hosting
from lifecycle.server.metrics import Metrics
from lifecycle.server.metrics import router as metrics
from lifecycle.server.models import Health, Problem, Ready
from lifecycle.server.operations import router as operations
from lifecycle.server.pages import router as pages
from lifecycle.server.problems import HANDLERS
from lifecycle.server.relay import Relay
from lifecycle.server.relay import router as relay
from lifecycle.server.sessions import hosting_of
from lifecycle.server.sessions import router as sessions

__all__ = ["create_app"]

SHORTEST_TOKEN = 16
"""Characters that a token has at least."""


def check_token(token: str | None) -> str | None:
    """A token that can stand in a header and is not guessed.

    Raises:
        ConfigError: It is too short, or has characters that a header can't carry.
    """
    if token is not None and (len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable()):
        raise ConfigError(
            option="token", value="(hidden)", allowed=f"at least {SHORTEST_TOKEN} printable ASCII characters"
        )
    if token is not None and " " in token:
        raise ConfigError(option="token", value="(hidden)", allowed="a text without spaces")
    return token


def create_app(
    *,
    token: str | None,
    client: AsyncClient | None = None,
    adapter: str | Adapter | None = None,
    store: str | Store | None = None,
    deny_private: bool = False,
    allow_chrome_args: bool = False,
    allow_remote: bool = False,
    public_url: str | None = None,
    metrics_without_token: bool = False,
) -> FastAPI:
    """The session API as an ASGI application.

    It answers requests to loopback names only, unless clients on other machines are let in. Its shutdown stops the
    sessions that it started, and saves what they have to save; run it in a server that does a lifespan, and with
    `allow_remote` one that does WebSockets.

    Args:
        token: What clients send as ``Authorization: Bearer``; None to ask for nothing.
        client: Whose sessions are served; it stays open. By default a client of the application's own.
        adapter: The adapter of the application's own client; see `AsyncClient`.
        store: The store of the application's own client; see `AsyncClient`.
        deny_private: Refuse operations that lead to private addresses.
        allow_chrome_args: Take switches for Chromium from clients. They can read files and run programs.
        allow_remote: Let in clients on other machines, which have to send the token, and let them reach the browsers
            through this server: its answers tell the addresses below ``/browser/``.
        public_url: Where clients reach this server, such as ``https://browsers.example.com``; by default at the name
            or address that their requests are sent to.
        metrics_without_token: Answer ``/metrics`` to whoever can reach it. It tells how many sessions there are.

    Raises:
        ConfigError: The token is too short, clients on other machines would need none, or the adapter, the store or
            the URL is not allowed.
    """
    keys = Keys(check_token(token))
    names = _names(keys, allow_remote=allow_remote, public_url=public_url)
    if client is not None and (adapter is not None or store is not None):
        raise ConfigError(option="client", value="(given)", allowed="a client, or an adapter and a store, not both")
    serving = client if client is not None else AsyncClient(adapter=adapter, store=store)
    if public_url is not None:
        serving._advertise(public_url)  # noqa: SLF001 - where its sessions are reached
    serving._core.policy = over_the_wire(deny_private=deny_private)  # noqa: SLF001 - one policy for a client
    hosting = Hosting(serving, allow_chrome_args=allow_chrome_args)
    numbers = Metrics(serving)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        app.state.trouble = await hosting.close(client_too=client is None)
        numbers.end()

    app = FastAPI(
        title="lifecycle",
        summary="Browser sessions with one explicit, audited lifecycle.",
        version=library_version(),
        docs_url=None,  # those pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        exception_handlers=dict(HANDLERS),
    )
    app.state.hosting = hosting
    app.state.keys = keys
    app.state.metrics = numbers
    app.state.relay = Relay(public_url) if allow_remote else None
    app.state.trouble = None
    for router in (sessions, operations):
        app.include_router(router, dependencies=[Security(HTTPBearer(auto_error=False))])
    app.include_router(pages)
    if allow_remote:
        app.include_router(relay)
    app.include_router(metrics)
    app.add_api_route("/health", _health, tags=["server"])
    ending: dict[int | str, dict[str, Any]] = {503: {"model": Problem, "description": "The server is ending."}}
    app.add_api_route("/ready", _ready, tags=["server"], responses=ending)
    app.add_middleware(Guard, keys=keys, names=names, metrics_without_token=metrics_without_token)
    return app


def _names(keys: Keys, *, allow_remote: bool, public_url: str | None) -> Names:
    if allow_remote and keys.open:
        raise ConfigError(option="allow_remote", value=True, allowed="only with a token")
    if public_url is not None and not _is_base_url(public_url):
        raise ConfigError(option="public_url", value=public_url, allowed="https://HOST, or http://HOST:PORT")
    if public_url is not None and not allow_remote:
        raise ConfigError(option="public_url", value=public_url, allowed="nothing, unless allow_remote is set")
    return Names(remote=allow_remote, public_url=public_url)


def _is_base_url(url: str) -> bool:
    """True for a scheme, a host and perhaps a port, and nothing else."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        return False
    return usable and not (parts.username or parts.path.strip("/") or parts.query or parts.fragment)


async def _health() -> Health:
    """Whether the server is up. Needs no token."""
    return Health()


async def _ready(request: Request) -> Ready:
    """Whether the server starts sessions: not any more once it was told to end. Needs no token."""
    hosting_of(request).check_open()
    return Ready()
