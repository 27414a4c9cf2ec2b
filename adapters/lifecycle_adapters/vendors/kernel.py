"""Kernel: https://www.kernel.sh/docs/api-reference.

Rule: a session has no status: it runs until it is deleted, by us or because nobody was connected for its idle timeout.
The gateway stays connected, so that timeout runs only once this process is gone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

from lifecycle.errors import RemoteRejected
from lifecycle.states import State
from lifecycle_adapters.vendors.core import VendorAdapter
from lifecycle_adapters.vendors.told import REFUSED, Told, dig, items, text, units

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from lifecycle.config import SessionOptions

__all__ = ["KernelAdapter"]

LEAST, MOST = 10, 259200
"""Shortest and longest `timeout_seconds` of a create."""

PREFIX: Final = "lifecycle-"


class KernelAdapter(VendorAdapter):
    """Sessions at Kernel, named after ours. They have an idle timeout only, in seconds, at most 72 hours.

    Args:
        given: As `Vendor` takes them; the key is ``KERNEL_API_KEY``.
    """

    NAME = "kernel"
    KEY = "KERNEL_API_KEY"
    PLACE = "KERNEL_BASE_URL"
    URL = "https://api.onkernel.com"
    CREATE = "/browsers"
    CAPABILITIES = VendorAdapter.CAPABILITIES - {"fixed_duration"} | {"headed"}
    REFUSES: ClassVar[Mapping[str, str]] = {name: way for name, way in REFUSED.items() if name != "headless"}
    STATUSES: ClassVar[Mapping[str, State]] = {"active": State.ACTIVE, "deleted": State.CLOSED}
    """The words that its listing filters by; a session itself tells of `deleted_at`."""

    def body(self, tag: str, options: SessionOptions) -> dict[str, Any]:
        """A browser with a name of ours."""
        seconds = units(options.timeout_minutes, 1, option="timeout_minutes", least=LEAST, most=MOST)
        return {"name": f"{PREFIX}{tag}", "headless": options.headless, "timeout_seconds": seconds}

    def told(self, data: object) -> Told:
        """A `Browser` of the API."""
        name, ended = dig(data, "name"), dig(data, "deleted_at")
        return Told(
            id=text(data, "session_id"),
            status="deleted" if ended is not None else "active",
            tag=name.removeprefix(PREFIX) if isinstance(name, str) else None,
            cdp=text(data, "cdp_ws_url"),
        )

    async def find(self, tag: str, since: datetime) -> list[Told]:
        """Those that are active, by their name."""
        del since
        params = {"status": "active", "query": f"{PREFIX}{tag}"}
        data = await self.service.ask("GET", "/browsers", what="listing browsers", params=params)
        return [told for told in map(self.told, items(data)) if told.tag == tag]

    async def look(self, session_id: str) -> Told | None:
        """``GET /browsers/{id}``; None once it is deleted."""
        data = await self.get(f"/browsers/{self.part(session_id)}")
        return self.told(data) if data is not None else None

    async def end(self, session_id: str) -> None:
        """Delete it; one that is not there is deleted."""
        path = f"/browsers/{self.part(session_id)}"
        try:
            await self.service.ask("DELETE", path, what="deleting the browser", once=True)
        except RemoteRejected as e:
            if e.status != 404:
                raise
