"""What a vendor is: where it is, how it says things, and the four calls that sessions need.

Rule: a vendor's peculiarities are data or one of these methods; nothing else in the package knows a vendor by name.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast
from urllib.parse import quote

from lifecycle.errors import RemoteRejected
from lifecycle.states import State
from lifecycle_adapters.remote.client import Service
from lifecycle_adapters.remote.place import check_address, check_key, check_seconds, load_http
from lifecycle_adapters.remote.wire import plain

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from lifecycle.config import SessionOptions
    from lifecycle_adapters.vendors.told import Told

__all__ = ["Vendor"]

LOOKING: Final = "asking for the session"


class Vendor:
    """A vendor's API.

    Args:
        api_key: The key; by default the variable of the environment that `KEY` names.
        base_url: Where the vendor is; by default what the variable `PLACE` says, else `URL`.
        settings: Further fields of the create request, as the vendor documents them.
        timeout_seconds: What the answer to a create may take. Any other gets at most 10 seconds.
        reconcile_seconds: How long a session is looked for when the answer to its create was lost.
        allow_http: Send the key to a host that is not this machine without encryption.

    Raises:
        ConfigError: There is no key, or an argument is not allowed.
    """

    NAME: ClassVar[str]
    KEY: ClassVar[str]
    PLACE: ClassVar[str]
    URL: ClassVar[str]
    HEADER: ClassVar[str | None] = None
    """The header that carries the key; None for a bearer token."""
    CREATE: ClassVar[str]
    """The path that a create is posted to."""
    STATUSES: ClassVar[Mapping[str, State]]
    """Each word of the vendor's for how a session stands, and what it means."""
    TAGGED: ClassVar[bool] = True
    """It tells what a session was created with, so that one can be found by it."""

    def __init__(
        self,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        settings: Mapping[str, Any] | None = None,
        timeout_seconds: float = 30.0,
        reconcile_seconds: float = 10.0,
        allow_http: bool = False,
    ) -> None:
        given = base_url or os.environ.get(self.PLACE) or self.URL
        url, host, loopback = check_address(given, allow_http=allow_http, example=self.URL)
        self.look_seconds = check_seconds("reconcile_seconds", reconcile_seconds)
        seconds = check_seconds("timeout_seconds", timeout_seconds)
        self.key = self.read_key(api_key if api_key is not None else os.environ.get(self.KEY), url)
        self.settings = dict(settings or {})
        load_http()
        self.service = Service(
            base_url=url, host=host, key=self.key, loopback=loopback, seconds=seconds, header=self.HEADER,
            variable=self.KEY or "the proxy in front of it", kind=f"{self.NAME}'s API",
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.service.base_url}>"

    def read_key(self, given: str | None, url: str) -> str | None:
        """The key that is sent; None where none is needed.

        Raises:
            ConfigError: There is none.
        """
        del url
        return check_key(
            given, allowed=f"the key of the vendor, as {type(self).__name__}(api_key=...) or in {self.KEY}"
        )

    def state(self, told: Told) -> State:
        """What a status means.

        Raises:
            RemoteRejected: It is not known; names it.
        """
        if told.status not in self.STATUSES:
            msg = f"{self.NAME} gives session {plain(told.id)} the status {plain(told.status)!r}"
            raise RemoteRejected(f"{msg}, which this version does not know; it knows {', '.join(self.STATUSES)}")
        return self.STATUSES[told.status]

    # --- what each vendor says for itself ------------------------------------------------------------------------

    def body(self, tag: str, options: SessionOptions) -> dict[str, Any]:
        """The body of a create. Raises ConfigError for a deadline that the vendor does not take."""
        raise NotImplementedError

    def told(self, data: object) -> Told:
        """Read a session. Raises RemoteRejected naming a field that is missing."""
        raise NotImplementedError

    def taken(self, told: Told) -> None:
        """A session that this adapter has made."""

    async def find(self, tag: str, since: datetime) -> list[Told]:
        """Sessions that run and that a create with this tag made, or may have made since then."""
        raise NotImplementedError

    async def look(self, session_id: str) -> Told | None:
        """How a session stands; None where the vendor knows none with this id. Raises BackendError."""
        raise NotImplementedError

    async def end(self, session_id: str) -> None:
        """Ask for its end. Whether it came, only `look` tells. Raises BackendError."""
        raise NotImplementedError

    # --- what most of them need ----------------------------------------------------------------------------------

    async def get(self, path: str, *, params: Mapping[str, str] | None = None) -> object | None:
        """The answer to a question that may be repeated; None for a 404."""
        try:
            return await self.service.ask("GET", path, what=LOOKING, params=params)
        except RemoteRejected as e:
            if e.status == 404:
                return None
            raise

    @staticmethod
    def part(text: object) -> str:
        """An id as one segment of a path, whatever it holds."""
        return quote(cast("str", text), safe="")
