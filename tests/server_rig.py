"""A session API on loopback, run by uvicorn in a thread of its own, and the notte-sdk kept from calling home."""

from __future__ import annotations

import asyncio
import os
import queue
import socket
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

# Before the first import of notte-sdk: it counts its use over the network, and patches event loops.
os.environ["DISABLE_TELEMETRY"] = "true"
os.environ["NOTTE_ENABLE_NEST_ASYNCIO"] = "false"

import httpx
from planted import TOKEN

from lifecycle.engine import supervisor
from lifecycle.server import create_app
from lifecycle.server.run import _Server, config_of, listen
from lifecycle_adapters.remote import RemoteAdapter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WITHIN = 30.0


class Running:
    """A server that is up.

    Attributes:
        url: Where.
        http: A client that sends the token.
        app: The application.
    """

    def __init__(self, url: str, http: httpx.Client, app: Any) -> None:
        self.url = url
        self.http = http
        self.app = app

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def start(self, **body: Any) -> dict[str, Any]:
        answer = self.http.post("/sessions/start", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def get(self, session_id: str) -> dict[str, Any]:
        answer = self.http.get(f"/sessions/{session_id}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def raw(self, text: bytes) -> bytes:
        """Send bytes as they are and return the whole answer; they have to make the server close the connection."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=WITHIN) as sock:
            sock.sendall(text)
            parts = []
            try:
                while part := sock.recv(65536):
                    parts.append(part)
            except ConnectionResetError:
                pass  # the server closed with some of it unread; what it said before is what counts
            return b"".join(parts)


@contextmanager
def running(*, token: str | None = TOKEN, **options: Any) -> Iterator[Running]:
    """A server for the time of the block; its sessions are stopped at its end."""
    app = create_app(token=token, **options)
    ready: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
    with listen("127.0.0.1", 0) as listening:
        config = config_of(app, allow_remote=options.get("allow_remote", False))
        server = _Server(config, lambda: ready.put(None))

        async def serve() -> None:
            # Its workers come when they are needed and last as long as it, which may be longer than one test.
            asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(thread_name_prefix="site-server"))
            await server.serve(sockets=[listening])

        def run() -> None:
            try:
                asyncio.run(serve())
            except BaseException as e:
                ready.put(e)

        thread = threading.Thread(target=run, name="server")
        thread.start()
        try:
            error = ready.get(timeout=WITHIN)
            if error is not None:
                raise error
            url = f"http://127.0.0.1:{listening.getsockname()[1]}"
            headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
            with httpx.Client(base_url=url, headers=headers, timeout=WITHIN, trust_env=False) as http:
                yield Running(url, http, app)
        finally:
            server.should_exit = True
            thread.join(WITHIN)
    assert not thread.is_alive()
    assert app.state.trouble is None


@contextmanager
def visiting(up: Running) -> Iterator[Running]:
    """A server that lasts longer than one test, by connections that do not."""
    with httpx.Client(base_url=up.url, headers=up.http.headers, timeout=WITHIN, trust_env=False) as http:
        yield Running(up.url, http, up.app)


def notte() -> Any:
    """The package, with its look for a newer version switched off."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own affair
        import notte_sdk
        from notte_core import telemetry
        from notte_sdk._generated import models  # noqa: F401 - for who asks for it later
        from notte_sdk.endpoints import base

    assert telemetry.DISABLE_TELEMETRY
    base._version_check_performed = True
    return notte_sdk


def until(look: Callable[[], bool]) -> None:
    """Wait until `look` is true, within the bound."""
    event = threading.Event()
    for _ in range(int(WITHIN / 0.02)):
        if look():
            return
        event.wait(0.02)
    raise AssertionError(f"it did not come true within {WITHIN:g} s")


@contextmanager
def remote(server: Running, **options: Any) -> Iterator[RemoteAdapter]:
    """An adapter of the server, whose connections are closed after the block."""
    adapter = RemoteAdapter(**{"api_key": TOKEN, "base_url": server.url, "poll_seconds": 0.2, **options})

    async def close(_: object) -> None:
        await adapter.aclose()

    try:
        yield adapter
    finally:
        supervisor().call(close)
