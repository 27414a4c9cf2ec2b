"""Browserbase: https://docs.browserbase.com/reference/api.

Rule: a release only asks for the end of a session, which comes later; its status tells.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, ClassVar, Final

from lifecycle.errors import ConfigError
from lifecycle.states import State
from lifecycle_adapters.vendors.core import VendorAdapter
from lifecycle_adapters.vendors.told import Told, dig, items, text, units

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from lifecycle.config import SessionOptions

__all__ = ["BrowserbaseAdapter"]

TAG: Final = "lifecycleSession"
"""The name of our tag in a session's `userMetadata`."""

LEAST, MOST = 60, 21600
"""Shortest and longest `timeout` of a create, in seconds."""


class BrowserbaseAdapter(VendorAdapter):
    """Sessions at Browserbase, tagged in their metadata. Their time is limited in seconds, at most six hours.

    Args:
        project_id: The project; by default ``BROWSERBASE_PROJECT_ID`` of the environment.
        given: As `Vendor` takes them; the key is ``BROWSERBASE_API_KEY``.

    Raises:
        ConfigError: There is no key or no project, or an argument is not allowed.
    """

    NAME = "browserbase"
    KEY = "BROWSERBASE_API_KEY"
    PLACE = "BROWSERBASE_BASE_URL"
    URL = "https://api.browserbase.com"
    HEADER = "X-BB-API-Key"
    CREATE = "/v1/sessions"
    STATUSES: ClassVar[Mapping[str, State]] = {
        "PENDING": State.ACTIVE,
        "RUNNING": State.ACTIVE,
        "COMPLETED": State.CLOSED,
        "TIMED_OUT": State.TIMED_OUT,
        "ERROR": State.ERROR,
    }

    def __init__(self, *, project_id: str | None = None, **given: Any) -> None:  # noqa: ANN401 - as `Vendor` takes them
        super().__init__(**given)
        project = project_id or os.environ.get("BROWSERBASE_PROJECT_ID")
        if not project:
            allowed = "the id of a project, as BrowserbaseAdapter(project_id=...) or in BROWSERBASE_PROJECT_ID"
            raise ConfigError(option="project_id", value=project, allowed=allowed)
        self._project = project

    def body(self, tag: str, options: SessionOptions) -> dict[str, Any]:
        """A session that ends with its connection, or after its time."""
        return {
            "projectId": self._project,
            "timeout": units(
                options.max_duration_minutes, 1, option="max_duration_minutes", least=LEAST, most=MOST
            ),
            "userMetadata": {TAG: tag},
        }  # fmt: skip

    def told(self, data: object) -> Told:
        """A `Session` of the API."""
        tag, url = dig(data, "userMetadata", TAG), dig(data, "connectUrl")
        return Told(
            id=text(data, "id"),
            status=text(data, "status"),
            tag=tag if isinstance(tag, str) else None,
            cdp=url if isinstance(url, str) else None,
        )

    async def find(self, tag: str, since: datetime) -> list[Told]:
        """Those that run, by their metadata. One that is pending is found once it runs."""
        del since
        data = await self.service.ask("GET", "/v1/sessions", what="listing sessions", params={"status": "RUNNING"})
        return [told for told in map(self.told, items(data)) if told.tag == tag]

    async def look(self, session_id: str) -> Told | None:
        """``GET /v1/sessions/{id}``."""
        data = await self.get(f"/v1/sessions/{self.part(session_id)}")
        return self.told(data) if data is not None else None

    async def end(self, session_id: str) -> None:
        """Ask for its release."""
        path = f"/v1/sessions/{self.part(session_id)}"
        body = {"projectId": self._project, "status": "REQUEST_RELEASE"}
        await self.service.ask("POST", path, what="releasing the session", body=body, once=True)
