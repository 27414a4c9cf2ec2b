"""Looks for what a create has made whose answer did not come.

Rule: a session that can't be told to be ours is left alone, and named.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from lifecycle.errors import BackendError, StartFailed

if TYPE_CHECKING:
    from datetime import datetime

    from lifecycle_adapters.vendors.told import Told
    from lifecycle_adapters.vendors.vendor import Vendor

__all__ = ["find"]


async def find(vendor: Vendor, tag: str, *, since: datetime, seconds: float, why: str) -> list[Told]:
    """What the create made, or may have made; one session, unless the vendor tells our tag.

    Args:
        vendor: Where.
        tag: What the session was created with.
        since: When the create was sent, by the vendor's clock.
        seconds: How long it is looked for; a vendor may list a session a little after it was made.
        why: What the error begins with.

    Raises:
        StartFailed: Nothing was there, or it can't be told which it is.
    """
    loop, pause = asyncio.get_running_loop(), 0.1
    until = loop.time() + seconds
    while True:
        try:
            found = await vendor.find(tag, since)
            became = f"no session of it ran within {seconds:g} seconds"
        except BackendError as e:
            found, became = [], f"whether it made a session could not be found out ({e})"
        if len(found) == 1 or (found and vendor.TAGGED):
            return found
        if found:
            became = f"one of these may be what it made, stop the one that nobody uses: {[told.id for told in found]}"
        if loop.time() + pause > until:
            raise StartFailed(f"{why}: {became}", adapter=vendor.NAME)
        await asyncio.sleep(pause)
        pause = min(pause * 2, 2.0)
