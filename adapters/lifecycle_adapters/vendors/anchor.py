"""Anchor Browser: https://docs.anchorbrowser.io/api-reference.

Rule: to end a session whose id is not known is answered with 401, like a bad key, so only its status tells whether it
is over. Statuses are free texts in the API's description; those below are what it names anywhere for a session.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

from lifecycle.states import State
from lifecycle_adapters.vendors.core import VendorAdapter
from lifecycle_adapters.vendors.told import Told, dig, items, text, units

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from lifecycle.config import SessionOptions

__all__ = ["AnchorAdapter"]

PREFIX: Final = "lifecycle-"


class AnchorAdapter(VendorAdapter):
    """Sessions at Anchor Browser, tagged. Their time is limited in minutes, and so is the time without a connection.

    Args:
        given: As `Vendor` takes them; the key is ``ANCHORBROWSER_API_KEY``.
    """

    NAME = "anchor"
    KEY = "ANCHORBROWSER_API_KEY"
    PLACE = "ANCHORBROWSER_BASE_URL"
    URL = "https://api.anchorbrowser.io"
    HEADER = "anchor-api-key"
    CREATE = "/v1/sessions"
    STATUSES: ClassVar[Mapping[str, State]] = {
        "pending": State.ACTIVE,
        "processing": State.ACTIVE,
        "ready": State.ACTIVE,
        "running": State.ACTIVE,
        "completed": State.CLOSED,
        "cancelled": State.CLOSED,
        "failed": State.ERROR,
    }

    def body(self, tag: str, options: SessionOptions) -> dict[str, Any]:
        """A session with a tag of ours, which ends after its time, or when nobody is connected."""
        timeout = {
            "max_duration": units(options.max_duration_minutes, 60, option="max_duration_minutes"),
            "idle_timeout": units(options.timeout_minutes, 60, option="timeout_minutes"),
        }
        return {"session": {"tags": [f"{PREFIX}{tag}"], "timeout": timeout}}

    def told(self, data: object) -> Told:
        """The answer to a create, which tells no status: it is there, so it runs."""
        return Told(id=text(data, "data", "id"), status="running", cdp=text(data, "data", "cdp_url"))

    async def find(self, tag: str, since: datetime) -> list[Told]:
        """Those that run, by their tag; no listing has their CDP URLs."""
        del since
        params = {"tags": f"{PREFIX}{tag}"}
        data = await self.service.ask("GET", "/v1/sessions/all/status", what="listing sessions", params=params)
        found = [
            Told(id=text(item, "session_id"), status=text(item, "status"), tag=tag)
            for item in items(data, "data", "items")
            if f"{PREFIX}{tag}" in items(item, "tags")
        ]
        return [told for told in found if self.state(told) is State.ACTIVE]

    async def look(self, session_id: str) -> Told | None:
        """``GET /v1/sessions/{id}``."""
        data = await self.get(f"/v1/sessions/{self.part(session_id)}")
        if data is None:
            return None
        told = dig(data, "data", "session_id")
        return Told(id=told if isinstance(told, str) else session_id, status=text(data, "data", "status"))

    async def end(self, session_id: str) -> None:
        """``DELETE /v1/sessions/{id}``."""
        path = f"/v1/sessions/{self.part(session_id)}"
        await self.service.ask("DELETE", path, what="ending the session", once=True)
