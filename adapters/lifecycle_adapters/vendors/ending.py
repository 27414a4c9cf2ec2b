"""One release at a vendor, by its owner or by a reaper, and the backend that makes it.

Rule: a session is over when its vendor's status says so, or when the vendor knows none with its id; what a request to
end it was answered decides nothing.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from lifecycle.errors import BackendError, ReleaseFailed
from lifecycle.states import State
from lifecycle_adapters.cdp_backend import CdpBackend

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lifecycle.config import SessionOptions
    from lifecycle.ports import CdpEndpoint
    from lifecycle_adapters.vendors.vendor import Vendor
    from lifecycle_adapters.vendors.watching import Watch

__all__ = ["VendorBackend", "end", "reap"]

BUDGET: Final = 12.0
"""Seconds for one release, below the budget of its step."""


async def end(vendor: Vendor, remote_id: str, session_id: str) -> None:
    """End a session, and wait until the vendor says that it is over. Idempotent.

    Raises:
        ReleaseFailed: It may still run.
    """
    trouble: BackendError | None = None
    try:
        async with asyncio.timeout(BUDGET):
            try:
                await vendor.end(remote_id)
            except BackendError as e:  # it may have been over already, which its status tells
                trouble = e
            pause = 0.05
            while (told := await vendor.look(remote_id)) is not None and vendor.state(told) is State.ACTIVE:
                if trouble is not None:
                    break
                await asyncio.sleep(pause)
                pause = min(pause * 2, 1.0)
            else:
                return
    except BackendError as e:
        trouble = e
    except TimeoutError:
        trouble = trouble or BackendError(f"it was not over within {BUDGET:g} seconds")
    msg = f"session {session_id} could not be released at {vendor.NAME}, where it is {remote_id}; it may still run"
    raise ReleaseFailed(f"{msg}: {trouble}", session_id=session_id) from trouble


async def reap(vendor: Vendor, session_id: str, facts: Mapping[str, str]) -> None:
    """End what a session left whose owner died, by what it had journalled.

    Raises:
        ReleaseFailed: It may still run, or it runs at another address.
    """
    where = facts.get("service", vendor.service.base_url)
    if where != vendor.service.base_url:
        msg = f"session {session_id} runs at {where}: reap with a client whose adapter has that base_url"
        raise ReleaseFailed(msg, session_id=session_id)
    found = [facts["id"]] if "id" in facts else []
    if "tag" in facts and not found:
        if vendor.TAGGED:
            try:
                found = [told.id for told in await vendor.find(facts["tag"], datetime.min.replace(tzinfo=UTC))]
            except BackendError as e:
                raise ReleaseFailed(f"session {session_id} may still run: {e}", session_id=session_id) from e
        elif datetime.now(UTC) < datetime.fromisoformat(facts["ends"]):
            msg = f"session {session_id} may run at {vendor.NAME}, whose answer to its create was never heard"
            raise ReleaseFailed(f"{msg}; it ends it by {facts['ends']}", session_id=session_id)
    for remote_id in found:
        await end(vendor, remote_id, session_id)


class VendorBackend(CdpBackend):
    """A session at a vendor, behind the gateway. Made by `VendorAdapter.open`."""

    def __init__(
        self, session_id: str, endpoint: CdpEndpoint, options: SessionOptions, vendor: Vendor, watch: Watch
    ) -> None:
        super().__init__(session_id, endpoint, options, end_browser=False)
        self._vendor = vendor
        self._watch = watch
        self._over = False

    async def start(self, options: SessionOptions) -> str:
        """Open the session's page, and watch the session from then on."""
        page = await super().start(options)
        self._watch.start()
        return page

    async def close_connections(self, reason: str) -> None:
        """Close what clients have open, and watch no more. Idempotent."""
        await self._watch.stop()
        await super().close_connections(reason)

    async def release(self) -> None:
        """Hang up, and end the session at the vendor. Idempotent.

        Raises:
            ReleaseFailed: It may still run.
        """
        await self._watch.stop()
        await self.endpoint.aclose()
        if not self._over:
            await end(self._vendor, self._watch.remote_id, self.session_id)
            self._over = True
