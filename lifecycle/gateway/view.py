"""The live view: a page that shows a session's browser, its state, its log, and the diagram with both lit.

Rule: watching is not use and disturbs nothing. A view has a token of its own, which opens no CDP; it takes keys and
clicks only where it was made with `interactive`, and those count as use. What it shows of the session it asks the
supervisor for, and one frame at a time is on its way to each viewer, however slow that is.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from base64 import b64decode
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

import orjson
from websockets.exceptions import ConnectionClosed

from lifecycle.errors import BackendError
from lifecycle.gateway import wire

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection

    from lifecycle.gateway.hub import Client, Hub

__all__ = ["Snapshot", "View"]

Snapshot = Callable[[int], Awaitable[Mapping[str, Any]]]
"""Asks how the session stands: takes the number of the last record that was seen, gives ``status``, ``now``,
``records``, the number of the ``last`` of them, and ``over``."""

LOOK_EVERY: Final = 0.5
"""Seconds between two looks at the state and the tabs."""

_CAST: Final[Mapping[str, object]] = {"format": "jpeg", "quality": 60, "maxWidth": 1600, "maxHeight": 1200}

_MOUSE: Final = frozenset({"type", "x", "y", "button", "clickCount", "modifiers", "deltaX", "deltaY"})
_KEY: Final = frozenset({"type", "key", "code", "windowsVirtualKeyCode", "text", "modifiers"})


class View:
    """The live view of one session, on the gateway's loop.

    Args:
        hub: The session's browser.
        snapshot: How the session stands.
        interactive: True to let keyboard and mouse of the viewers through.
    """

    def __init__(self, hub: Hub, snapshot: Snapshot, *, interactive: bool = False) -> None:
        self.token: Final = secrets.token_urlsafe(32)
        self.hub: Final = hub
        self._snapshot = snapshot
        self.interactive = interactive

    def page(self, port: int) -> tuple[str, str]:
        """The HTML, and the Content-Security-Policy that it is served with."""
        from lifecycle.diagram import render  # noqa: PLC0415 - only who looks pays for it

        nonce = secrets.token_urlsafe(16)
        text = resources.files("lifecycle.gateway").joinpath("view.html").read_text(encoding="utf-8")
        text = text.replace("__NONCE__", nonce).replace("__INPUT__", "true" if self.interactive else "false")
        policy = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'unsafe-inline'; img-src blob:; "
            f"connect-src ws://127.0.0.1:{port} ws://localhost:{port}; base-uri 'none'; frame-ancestors 'none'"
        )
        return text.replace("__DIAGRAM__", render("svg")), policy

    async def serve(self, connection: ServerConnection) -> None:
        """Show the session to one viewer until it leaves or the session is over."""
        viewer = _Viewer(self.hub, connection, self._snapshot, interactive=self.interactive)
        looking = asyncio.ensure_future(viewer.look())
        try:
            await viewer.listen()
        except ConnectionClosed:
            return
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
            await viewer.leave()


class _Cast:
    """What receives the screencast of one page, as a client of the hub that is no socket."""

    def __init__(self, viewer: _Viewer) -> None:
        self._viewer = viewer

    def send(self, message: bytes) -> None:
        if b'"Page.screencastFrame"' in message[:200]:
            self._viewer.frame(self, wire.loads(message)["params"])

    def backlog(self) -> int:
        return 0

    def abort(self) -> None:
        """Nothing to cut."""

    async def close(self, code: int, reason: str) -> None:
        """The page or the session ended; the next look finds another page, or the end."""
        del code, reason
        self._viewer.lost(self)


class _Viewer:
    """One viewer: its tab, its frames, its input."""

    def __init__(self, hub: Hub, connection: ServerConnection, snapshot: Snapshot, *, interactive: bool) -> None:
        self._hub = hub
        self._connection = connection
        self._snapshot = snapshot
        self._interactive = interactive
        self._seen = 0
        self._told: dict[str, object] = {}
        self._wanted: str | None = None
        self._tab: str | None = None
        self._cast: _Cast | None = None
        self._client: Client | None = None
        self._number = 0
        self._pending: tuple[int, int] | None = None

    # --- state and tabs

    async def look(self) -> None:
        """Tell what changed, again and again, until the session is over."""
        while True:
            shot = await self._snapshot(self._seen)
            records: Sequence[object] = shot["records"]
            self._seen = shot["last"]
            news: dict[str, object] = {"records": records} if records else {}
            if shot["status"] != self._told.get("status"):
                self._told["status"] = news["status"] = shot["status"]
                news["now"] = shot["now"]
            if not shot["over"]:
                tabs = await self._tabs()
                if tabs is not None:
                    await self._follow([str(tab["id"]) for tab in tabs])
                    if (tabs, self._tab) != self._told.get("tabs"):
                        self._told["tabs"] = (tabs, self._tab)
                        news |= {"tabs": tabs, "tab": self._tab}
            if news:
                await self._connection.send(orjson.dumps(news).decode())
            if shot["over"]:
                await self._connection.close(1000, "the session is over")
                return
            await asyncio.sleep(LOOK_EVERY)

    async def _tabs(self) -> list[dict[str, object]] | None:
        """The pages that are open, None while the browser does not answer."""
        try:
            found = await self._hub.call("Target.getTargets")
        except BackendError:
            return None
        infos = found.get("targetInfos")
        return [
            {"id": info["targetId"], "title": info["title"], "url": info["url"]}
            for info in (infos if isinstance(infos, list) else [])
            if info["type"] == "page"
        ]

    async def _follow(self, tabs: Sequence[str]) -> None:
        """Cast the tab that was asked for, else go on with the one that is shown, else the newest."""
        if self._wanted not in tabs:
            self._wanted = None
        tab = self._wanted or (self._tab if self._tab in tabs else None) or (tabs[0] if tabs else None)
        if tab == self._tab and self._client is not None:
            return
        await self.leave()
        self._tab = tab
        if tab is None:
            return
        cast = _Cast(self)
        try:
            client = await self._hub.join(cast, tab, own=True)
        except BackendError:
            self._tab = None
            return
        self._cast, self._client = cast, client
        self._send("Page.enable")
        self._send("Page.startScreencast", _CAST)

    def lost(self, cast: _Cast) -> None:
        """The page that is cast is gone."""
        if cast is self._cast:
            self._cast = self._client = self._tab = None

    async def leave(self) -> None:
        """Stop the cast."""
        client, self._client, self._cast, self._pending = self._client, None, None, None
        if client is not None:
            await self._hub.leave(client)

    # --- frames

    def frame(self, cast: _Cast, params: Mapping[str, Any]) -> None:
        """A frame of the browser. The browser sends the next one when this one was drawn."""
        if cast is not self._cast:
            return
        self._number += 1
        self._pending = (self._number, params["sessionId"])
        told = params["metadata"]
        size = {"width": told["deviceWidth"], "height": told["deviceHeight"], "number": self._number}
        self._sending = asyncio.ensure_future(self._send_frame(size, b64decode(params["data"])))

    async def _send_frame(self, size: Mapping[str, object], picture: bytes) -> None:
        with contextlib.suppress(ConnectionClosed):  # the viewer left; `listen` sees it too
            await self._connection.send(orjson.dumps({"frame": size}).decode())
            await self._connection.send(picture)

    def _drawn(self, number: object) -> None:
        if self._pending is not None and self._pending[0] == number:
            self._send("Page.screencastFrameAck", {"sessionId": self._pending[1]})
            self._pending = None

    # --- what the viewer says

    async def listen(self) -> None:
        """Take what the viewer sends, until it leaves."""
        async for raw in self._connection:
            try:
                message = orjson.loads(raw)
            except ValueError:
                continue
            if not isinstance(message, dict):
                continue
            if "ack" in message:
                self._drawn(message["ack"])
            elif isinstance(message.get("tab"), str):
                self._wanted = message["tab"]
            elif self._interactive and isinstance(message.get("mouse"), dict):
                self._input("Input.dispatchMouseEvent", _only(message["mouse"], _MOUSE))
            elif self._interactive and isinstance(message.get("key"), dict):
                self._input("Input.dispatchKeyEvent", _only(message["key"], _KEY))

    def _input(self, method: str, params: Mapping[str, object]) -> None:
        self._hub.used()  # unlike watching
        self._send(method, params)

    def _send(self, method: str, params: Mapping[str, object] | None = None) -> None:
        if self._client is not None:
            self._hub.command(self._client, wire.dumps({"id": 1, "method": method, "params": dict(params or {})}))


def _only(told: Mapping[str, object], known: frozenset[str]) -> dict[str, object]:
    """The fields that the browser is told; a viewer chooses no others."""
    return {key: value for key, value in told.items() if key in known}
