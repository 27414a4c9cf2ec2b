"""Downloads of the default context, for operations of the library, without taking them away from clients.

Rule: where a client has said where downloads go, that stands; a capture only asks to be told of them as well. It is
the library's own connection that asks, not a client's: Chromium drops what a client has set when that client leaves.
Everything here runs on the gateway's loop.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from lifecycle.errors import ConnectionLost, OperationFailed
from lifecycle.ports import Download

__all__ = ["EVENTS", "Capture", "Downloads"]

_SET: Final = "Browser.setDownloadBehavior"

EVENTS: Final = frozenset({"Browser.downloadWillBegin", "Browser.downloadProgress"})

_UNSET: Final[Mapping[str, object]] = {"behavior": "default"}

_End = tuple[Mapping[str, Any], Mapping[str, object], Mapping[str, Any]]
"""How a download began, where downloads went then, and how it ended."""

Call = Callable[[str, Mapping[str, object]], Awaitable[dict[str, object]]]


class Downloads:
    """Where downloads go, and who is told of them.

    Args:
        call: Sends a command as the library itself.
    """

    def __init__(self, call: Call) -> None:
        self._call = call
        self._told: tuple[object, Mapping[str, object]] | None = None
        self._captures: list[Capture] = []

    def told(self, client: object, params: Mapping[str, Any]) -> None:
        """A client says where downloads of the default context go."""
        if params.get("browserContextId") is None:
            kept = {key: params[key] for key in ("behavior", "downloadPath") if key in params}
            self._told = None if kept.get("behavior") == "default" else (client, kept)

    def left(self, client: object) -> None:
        """A client left, and Chromium drops what it had set."""
        if self._told is not None and self._told[0] is client:
            self._told = None

    def event(self, method: str, params: Mapping[str, Any]) -> None:
        """An event for the library itself."""
        for capture in self._captures:
            capture.event(method, params)

    def lost(self) -> None:
        """The browser is gone."""
        for capture in self._captures:
            capture.event("lost", {})

    @property
    def where(self) -> Mapping[str, object]:
        """Where downloads go: as a client has said, else to the folder of whoever looked first."""
        if self._told is not None:
            return self._told[1]
        if self._captures:
            return {"behavior": "allowAndName", "downloadPath": self._captures[0].folder}
        return _UNSET

    async def again(self) -> None:
        """Say it once more, after Chromium has dropped what a client had set."""
        if self._captures:
            await self._call(_SET, {**self.where, "eventsEnabled": True})

    async def capture(self, folder: str) -> Capture:
        """Look at the downloads that begin from now on; see `where` for the place they go to."""
        capture = Capture(self, folder)
        self._captures.append(capture)
        try:
            await self.again()
        except BaseException:
            self._captures.remove(capture)
            raise
        return capture

    async def release(self, capture: Capture) -> None:
        """The end of a capture: what clients have set stays set, and so does what others look at."""
        if capture in self._captures:
            self._captures.remove(capture)
            await self._call(_SET, {**self.where, "eventsEnabled": bool(self._captures)})


class Capture:
    """The downloads that begin while it is open.

    Attributes:
        folder: Where it would like them to go.
    """

    def __init__(self, downloads: Downloads, folder: str) -> None:
        self._downloads = downloads
        self.folder: Final = folder
        self._begun: dict[str, tuple[Mapping[str, Any], Mapping[str, object]]] = {}
        self._ends: asyncio.Queue[_End | None] = asyncio.Queue()

    def event(self, method: str, params: Mapping[str, Any]) -> None:
        """One of `EVENTS`, or the end of the browser."""
        if method == "lost":
            self._ends.put_nowait(None)
        elif method == "Browser.downloadWillBegin":
            self._begun[params["guid"]] = params, self._downloads.where
        elif params.get("state") != "inProgress" and (begun := self._begun.pop(params["guid"], None)) is not None:
            self._ends.put_nowait((*begun, params))

    async def next(self) -> Download:
        """Wait for the next download to begin and to end; see `lifecycle.ports.DownloadCapture`."""
        found = await self._ends.get()
        if found is None:
            raise ConnectionLost("the browser is gone")
        begun, where, end = found
        name = str(begun.get("suggestedFilename") or "download")
        if end.get("state") != "completed":
            why = "a client of the session does not allow downloads" if where.get("behavior") == "deny" else ""
            raise OperationFailed(action="download_file", reason=why or f"the download of {name!r} was cancelled")
        saved_as = begun["guid"] if where.get("behavior") == "allowAndName" else name
        path = end.get("filePath") or os.path.join(str(where.get("downloadPath", "")), saved_as)  # noqa: PTH118
        return Download(url=str(begun.get("url", "")), filename=name, path=str(path))

    async def aclose(self) -> None:
        """Look no more. Idempotent."""
        await self._downloads.release(self)
