"""Hyperbrowser: https://docs.hyperbrowser.ai/reference/api-reference.

Rule: a session carries nothing of ours, so what an unanswered create has made is known by its time only, and is
released where it is the only one that it can be. No status tells a time limit from an end that was asked for.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar

from lifecycle.errors import RemoteRejected
from lifecycle.states import State
from lifecycle_adapters.vendors.core import VendorAdapter
from lifecycle_adapters.vendors.told import Told, dig, items, text, units

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lifecycle.config import SessionOptions

__all__ = ["HyperbrowserAdapter"]

PAGES = 20
"""Pages of active sessions that are looked through."""


class HyperbrowserAdapter(VendorAdapter):
    """Sessions at Hyperbrowser. Their time is limited in minutes.

    Args:
        given: As `Vendor` takes them; the key is ``HYPERBROWSER_API_KEY``.
    """

    NAME = "hyperbrowser"
    KEY = "HYPERBROWSER_API_KEY"
    PLACE = "HYPERBROWSER_BASE_URL"
    URL = "https://api.hyperbrowser.ai"
    HEADER = "x-api-key"
    CREATE = "/api/session"
    TAGGED = False
    alone = True
    STATUSES: ClassVar[Mapping[str, State]] = {
        "active": State.ACTIVE,
        "closed": State.CLOSED,
        "error": State.ERROR,
        "close-error": State.ERROR,
    }

    def __init__(self, **given: Any) -> None:  # noqa: ANN401 - as `Vendor` takes them
        super().__init__(**given)
        self._known: set[str] = set()

    def body(self, tag: str, options: SessionOptions) -> dict[str, Any]:
        """A session that ends after its time."""
        del tag
        return {"timeoutMinutes": units(options.max_duration_minutes, 60, option="max_duration_minutes")}

    def told(self, data: object) -> Told:
        """A `SessionDetail` of the API, which has the CDP URL, or a `Session` of a list."""
        url, made = dig(data, "wsEndpoint"), text(data, "createdAt")
        try:
            made_at = datetime.fromisoformat(made)
        except ValueError as e:
            msg = "the answer of the vendor can't be read: createdAt is not a time in ISO 8601"
            raise RemoteRejected(msg) from e
        return Told(
            id=text(data, "id"),
            status=text(data, "status"),
            cdp=url if isinstance(url, str) else None,
            made_at=made_at if made_at.tzinfo is not None else made_at.replace(tzinfo=UTC),
        )

    async def find(self, tag: str, since: datetime) -> list[Told]:
        """Those that run, were made since then, and are no other sessions of this adapter."""
        del tag
        found: list[Told] = []
        for page in range(1, PAGES + 1):
            params = {"status": "active", "page": str(page)}
            data = await self.service.ask("GET", "/api/sessions", what="listing sessions", params=params)
            here = [self.told(item) for item in items(data, "sessions")]
            found += [told for told in here if told.id not in self._known]
            count = dig(data, "totalCount")
            if not here or not isinstance(count, int) or count <= page * len(here):
                break
        return [told for told in found if told.made_at is not None and told.made_at >= since]

    def taken(self, told: Told) -> None:
        """Never one that another create has made."""
        self._known.add(told.id)

    async def look(self, session_id: str) -> Told | None:
        """``GET /api/session/{id}``."""
        data = await self.get(f"/api/session/{self.part(session_id)}")
        return self.told(data) if data is not None else None

    async def end(self, session_id: str) -> None:
        """``PUT /api/session/{id}/stop``."""
        path = f"/api/session/{self.part(session_id)}/stop"
        await self.service.ask("PUT", path, what="stopping the session", once=True)
        self._known.discard(session_id)
