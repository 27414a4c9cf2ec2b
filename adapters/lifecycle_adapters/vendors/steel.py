"""Steel: its cloud (https://docs.steel.dev/api-reference) and a server of one's own (steel-dev/steel-browser).

Rule: a server of one's own runs one browser. A second create would replace whoever has it, and a release ends whoever
has it, whatever id it is asked for: so neither is sent where the browser may be another's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlencode, urlsplit

from lifecycle.errors import CapacityError
from lifecycle.states import State
from lifecycle_adapters.vendors.core import VendorAdapter
from lifecycle_adapters.vendors.reach import reached
from lifecycle_adapters.vendors.told import Told, items, text, units

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from lifecycle.config import SessionOptions

__all__ = ["SteelAdapter"]


class SteelAdapter(VendorAdapter):
    """Sessions at Steel, whose ids are ours. Time is limited in milliseconds in the cloud, and not at all elsewhere.

    A server of one's own needs no key, and has one session at a time: another one is refused.

    Args:
        given: As `Vendor` takes them; the key is ``STEEL_API_KEY``, and a `base_url` makes it a server of one's own.
    """

    NAME = "steel"
    KEY = "STEEL_API_KEY"
    PLACE = "STEEL_BASE_URL"
    URL = "https://api.steel.dev"
    HEADER = "steel-api-key"
    CREATE = "/v1/sessions"
    STATUSES: ClassVar[Mapping[str, State]] = {
        "live": State.ACTIVE,
        "idle": State.CLOSED,  # the browser of a server that has no session
        "released": State.CLOSED,
        "failed": State.ERROR,
    }

    def __init__(self, **given: Any) -> None:  # noqa: ANN401 - as `Vendor` takes them
        super().__init__(**given)
        self._cloud = self.service.host == urlsplit(self.URL).netloc
        self.alone = not self._cloud

    @property
    def capabilities(self) -> frozenset[str]:
        """Where there is no time limit but ours, it can be moved."""
        return self.CAPABILITIES if self._cloud else self.CAPABILITIES - {"fixed_duration"}

    def read_key(self, given: str | None, url: str) -> str | None:
        """Needed in the cloud only."""
        return super().read_key(given, url) if given or url == self.URL else None

    def body(self, tag: str, options: SessionOptions) -> dict[str, Any]:
        """A session with our id. A server of one's own takes no time limit: it has only ours."""
        longest = {"timeout": units(options.max_duration_minutes, 0.001, option="max_duration_minutes")}
        return {"sessionId": tag, **(longest if self._cloud else {})}

    def told(self, data: object) -> Told:
        """A `SessionResponse` of the cloud, a `SessionDetails` of a server of one's own."""
        id_, url = text(data, "id"), text(data, "websocketUrl")
        return Told(id=id_, status=text(data, "status"), tag=id_, cdp=url)

    def cdp(self, told: Told) -> str:
        """In the cloud with the key; of a server of one's own, by the address that we have of it."""
        url = super().cdp(told)
        if not self._cloud:
            return reached(url, self.service.base_url)
        parts = urlsplit(url)
        return parts._replace(
            query="&".join(filter(None, (parts.query, urlencode({"apiKey": self.key or ""}))))
        ).geturl()

    async def before(self) -> None:
        """The one browser of a server of one's own is free.

        Raises:
            CapacityError: Somebody has it.
        """
        for told in await self._running():
            msg = f"the Steel server at {self.service.host} runs session {told.id}, which another create would replace"
            raise CapacityError(f"{msg}: stop that one, or start a server more")

    async def _running(self) -> list[Told]:
        """Sessions that a server of one's own runs, or may run: one at most."""
        data = await self.service.ask("GET", "/v1/sessions", what="listing sessions")
        return [
            told
            for told in map(self.told, items(data, "sessions"))
            if self.STATUSES.get(told.status, State.ACTIVE) is State.ACTIVE
        ]

    async def find(self, tag: str, since: datetime) -> list[Told]:
        """The one with our id."""
        del since
        if not self._cloud:
            return [told for told in await self._running() if told.id == tag]
        told = await self.look(tag)
        return [told] if told is not None and self.state(told) is State.ACTIVE else []

    async def look(self, session_id: str) -> Told | None:
        """``GET /v1/sessions/{id}``; a server of one's own calls each id released that is not its session's."""
        data = await self.get(f"/v1/sessions/{self.part(session_id)}")
        return self.told(data) if data is not None else None

    async def end(self, session_id: str) -> None:
        """Release it; on a server of one's own only while it is the one that runs."""
        if self._cloud or any(told.id == session_id for told in await self._running()):
            path = f"/v1/sessions/{self.part(session_id)}/release"
            await self.service.ask("POST", path, what="releasing the session", body={}, once=True)
