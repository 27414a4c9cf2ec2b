"""What the pages download, kept in a folder of the user's (``downloads_folder=``).

Rule: the browser writes where nobody looks, into the folder of its session; a file has its name in the user's folder
once it is whole, and never takes the name of another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lifecycle.errors import LifecycleError, OperationFailed
from lifecycle.logs import get_logger

if TYPE_CHECKING:
    from lifecycle.ports import CdpEndpoint, Download, Host

__all__ = ["Kept"]

BUDGET: Final = 10.0
"""Seconds that the last files get at the end of the session; more are only needed where they have to be copied."""

_log: Final = get_logger(__name__)


class Kept:
    """Keeps the downloads of one session.

    Args:
        staging: Where the browser writes them.
        folder: Where they are kept.
        host: Whose threads touch the disk.
    """

    def __init__(self, staging: Path, folder: str, host: Host) -> None:
        self._staging = staging
        self._folder = Path(folder)
        self._host = host
        self._keeping: asyncio.Task[None] | None = None

    async def begin(self, endpoint: CdpEndpoint) -> None:
        """Look at the downloads of a browser from now on."""
        capture = await endpoint.capture_downloads(str(self._staging))
        self._keeping = asyncio.ensure_future(self._keep(capture.next))

    async def _keep(self, download: Callable[[], Awaitable[Download]]) -> None:
        while True:
            try:
                found = await download()
            except OperationFailed as e:
                _log.warning("a file is not kept in %s: %s", self._folder, e.reason)
                continue
            except LifecycleError:  # the browser is gone, or the gateway
                return
            try:
                await self._host.run_blocking(found.keep, self._folder)
            except OSError as e:
                _log.error("%r is not kept in %s: %s", found.filename, self._folder, e)

    async def end(self) -> None:
        """Once the connection to the browser is closed: wait for the last files. Idempotent."""
        if self._keeping is not None:
            done, _ = await asyncio.wait({self._keeping}, timeout=BUDGET)
            if not done:
                _log.error("not all files are kept in %s: it took longer than %g s", self._folder, BUDGET)
            self._keeping.cancel()
