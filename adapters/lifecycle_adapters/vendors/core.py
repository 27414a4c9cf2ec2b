"""The adapter of a vendor: sessions that the vendor runs and this process answers for.

Rule: `open` is atomic. Whatever strikes it, in any tick, what the vendor had made is released.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Final

from lifecycle.errors import ConnectionLost, RemoteRejected, StartFailed
from lifecycle.ports import CdpSocket
from lifecycle_adapters._owned import OwnedSessions, to_the_end
from lifecycle_adapters.cdp_place import discover, parse_place
from lifecycle_adapters.vendors.creating import Creating
from lifecycle_adapters.vendors.ending import VendorBackend, reap
from lifecycle_adapters.vendors.told import GRACE, REFUSED, Told, merged, refuse
from lifecycle_adapters.vendors.vendor import Vendor
from lifecycle_adapters.vendors.watching import Watch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lifecycle.config import SessionOptions
    from lifecycle.ports import CdpEndpoint, Host

__all__ = ["VendorAdapter"]

START_SECONDS: Final = 54.0  # what a start may take on the whole, with some room below the budget of its step


class VendorAdapter(Vendor, OwnedSessions):
    """Runs sessions at a vendor, each behind a gateway of its own; see `Vendor` for the arguments."""

    CAPABILITIES: ClassVar[frozenset[str]] = frozenset({"pages", "cdp", "cookies", "viewport", "fixed_duration"})
    REFUSES: ClassVar[Mapping[str, str]] = REFUSED
    """Options that it can't take, each with the way out."""
    alone: bool = False
    """One create at a time: what is looked at before it or after it could be another one's doing."""

    def __init__(self, **given: Any) -> None:  # noqa: ANN401 - as `Vendor` takes them
        super().__init__(**given)
        self._turns: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = weakref.WeakKeyDictionary()

    @property
    def name(self) -> str:
        """Short name of the vendor."""
        return self.NAME

    @property
    def capabilities(self) -> frozenset[str]:
        """What the vendor's sessions can do here."""
        return self.CAPABILITIES

    def check(self, options: SessionOptions) -> None:
        """Refuse what the vendor can't take.

        Raises:
            ConfigError: A deadline is longer than the vendor's, or `settings` hold what the adapter sets itself.
            UnsupportedOperation: Names the option.
        """
        refuse(options, self.NAME, self.REFUSES)
        if options.session_id is None:
            merged(self.body("", options), self.settings)

    # --- a session ----------------------------------------------------------------------------------------------

    async def open(self, session_id: str, options: SessionOptions, host: Host) -> VendorBackend:
        """Create a session at the vendor and connect to it.

        Raises:
            StartFailed: There is no session; says why, and what became of what may have been made.
            CapacityError: The vendor has no room.
            AuthenticationError, RemoteRejected: It refused.
        """
        self.check(options)
        seconds = min(options.start_timeout_minutes * 60, START_SECONDS) / 2
        body = merged(self.body(session_id, options), self.settings)
        facts = {"service": self.service.base_url, "tag": session_id}
        if not self.TAGGED:
            longest = timedelta(minutes=options.max_duration_minutes, seconds=START_SECONDS + GRACE * 2)
            facts["ends"] = (datetime.now(UTC) + longest).isoformat()
        creating = Creating(self, facts, body, seconds=seconds, journal=host.journal)
        task = asyncio.get_running_loop().create_task(self._create(creating))
        backend: VendorBackend | None = None
        try:
            told = await asyncio.shield(task)
            backend = VendorBackend(
                session_id, await self._serve(told, host), options, self, Watch(self, told.id, host)
            )
            await backend.start(options)
            return backend
        except BaseException as e:
            if await to_the_end(self._undo(creating, task, backend)) and not isinstance(e, asyncio.CancelledError):
                raise asyncio.CancelledError from e
            if isinstance(e, ConnectionLost):
                raise StartFailed(f"the browser at {self.NAME} hung up: {e}", adapter=self.NAME) from None
            raise

    async def _create(self, creating: Creating) -> Told:
        if not self.alone:
            return await creating.run()
        async with self._turns.setdefault(asyncio.get_running_loop(), asyncio.Lock()):
            await self.before()
            return await creating.run()

    async def before(self) -> None:
        """What has to be so before a create that is `alone`. Raises BackendError where it isn't."""

    def cdp(self, told: Told) -> str:
        """The CDP URL of a session: a secret. Raises StartFailed where it has none that can be reached."""
        if told.cdp is None:
            msg = f"{self.NAME} gives no CDP URL for session {told.id}, so it is not kept; start another one"
            raise StartFailed(msg, adapter=self.NAME)
        return told.cdp

    async def _serve(self, told: Told, host: Host) -> CdpEndpoint:
        place = parse_place(self.cdp(told), {})
        if place.discovers:
            place = await host.run_blocking(discover, place)
        try:
            return await host.serve_cdp(CdpSocket(url=place.url, headers=place.headers))
        except (RemoteRejected, ConnectionLost) as e:
            msg = f"{self.NAME} created session {told.id}, whose browser can't be reached at {place.shown}: {e}"
            raise StartFailed(msg, adapter=self.NAME) from None

    async def _undo(self, creating: Creating, task: asyncio.Task[Told], backend: VendorBackend | None) -> None:
        if backend is not None:
            with contextlib.suppress(ConnectionLost):
                await backend.close_connections("released")
                await backend.endpoint.aclose()
        await creating.undo(task)

    async def reap(self, session_id: str, facts: Mapping[str, str]) -> None:
        """End a session whose owner died, by what it had journalled.

        Raises:
            ReleaseFailed: It may still run, or it runs at another address.
        """
        await reap(self, session_id, facts)

    async def aclose(self) -> None:
        """Close the pooled connections; the next request opens new ones. Idempotent."""
        await self.service.aclose()
