"""The remote adapter: sessions of a service that speaks the session API, over HTTP.

Rule: the service owns its sessions, and what it says of them counts. A lost connection is no lost session, a create
is never sent twice, and the key is in no message, repr or log line.

    place.py    address, key and seconds, checked
    wire.py     what is sent and what the answers say
    client.py   the one pool of connections: the key, retries, typed errors
    calls.py    the calls of the API
    create.py   one create, and what becomes of it when its answer is lost
    backend.py  one session, and the poller that watches it
"""

from __future__ import annotations

import asyncio
import importlib
import os
from typing import TYPE_CHECKING, Final

from lifecycle.errors import ConfigError, ConnectionLost, ReleaseFailed, StartFailed
from lifecycle_adapters._owned import to_the_end
from lifecycle_adapters.remote.place import check_address, check_key, check_seconds, load_http

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from lifecycle.config import SessionOptions
    from lifecycle.ports import BackendEnd, Host, KnownSession
    from lifecycle_adapters.remote.backend import RemoteBackend
    from lifecycle_adapters.remote.wire import WireSession

__all__ = ["RemoteAdapter"]

DEFAULT_URL: Final = "https://api.notte.cc"

START_SECONDS: Final = 54.0
"""What a start may take on the whole, with some room below the budget of its step."""

_MODULES: Final = ("backend", "calls", "client", "create", "wire")

_KEY: Final = (
    "the key of the service, as RemoteAdapter(api_key=...) or in NOTTE_API_KEY; without one, host the "
    'sessions yourself with `lifecycle serve`, or use Client(adapter="local")'
)


class RemoteAdapter:
    """Opens sessions at a service that speaks the session API, such as ``lifecycle serve``.

    Args:
        api_key: The key of the service; by default ``NOTTE_API_KEY`` of the environment.
        base_url: Where the service is; by default ``NOTTE_API_URL`` of the environment, else https://api.notte.cc.
        poll_seconds: How often each session is looked at for its end and for use that does not go through here; more
            often where its idle timeout is short.
        timeout_seconds: What the answer to a create may take. Any other gets at most 10 seconds.
        reconcile_seconds: How long a session is looked for when the answer to its create was lost.
        allow_http: Send the key to a host that is not this machine without encryption.

    Raises:
        ConfigError: There is no key, or an argument is not allowed.
    """

    def __init__(
        self,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        poll_seconds: float = 5.0,
        timeout_seconds: float = 30.0,
        reconcile_seconds: float = 10.0,
        allow_http: bool = False,
    ) -> None:
        key = check_key(api_key if api_key is not None else os.environ.get("NOTTE_API_KEY"), allowed=_KEY)
        given = base_url or os.environ.get("NOTTE_API_URL") or DEFAULT_URL
        url, host, loopback = check_address(given, allow_http=allow_http, example=DEFAULT_URL)
        self._poll_seconds = check_seconds("poll_seconds", poll_seconds)
        self._look = check_seconds("reconcile_seconds", reconcile_seconds)
        timeout = check_seconds("timeout_seconds", timeout_seconds)
        load_http()
        for name in _MODULES:  # nothing is imported in the middle of an edge: see `_NEEDED` in lifecycle.core
            importlib.import_module(f"{__name__}.{name}")
        from lifecycle_adapters.remote.client import Service  # noqa: PLC0415 - as above
        from lifecycle_adapters.remote.create import Known  # noqa: PLC0415

        self._service = Service(base_url=url, host=host, key=key, loopback=loopback, seconds=timeout)
        self._known = Known()

    def __repr__(self) -> str:
        return f"<RemoteAdapter {self._service.base_url}>"

    @property
    def name(self) -> str:
        """``remote``."""
        return "remote"

    @property
    def capabilities(self) -> frozenset[str]:
        """``pages``, ``attach``, ``assigns_ids``, ``fixed_duration``, and the options that the wire carries."""
        return frozenset({
            "pages", "attach", "assigns_ids", "fixed_duration", "headed", "proxy", "cookies", "viewport",
            "user_agent", "chrome_args",
        })  # fmt: skip

    def check(self, options: SessionOptions) -> None:
        """Refuse options that the wire can't carry.

        Raises:
            ConfigError, UnsupportedOperation: Names the option, and what is allowed or the way out.
        """
        from lifecycle_adapters.remote.wire import check_options  # noqa: PLC0415 - loaded with the adapter

        check_options(options, self.name)

    # --- sessions -----------------------------------------------------------------------------------------------

    async def open(self, session_id: str, options: SessionOptions, host: Host) -> RemoteBackend:
        """Create a session; its id is the service's to give.

        Atomic: when it raises or is cancelled, what was made has been released. Where that can't be known, because
        the answer was lost, the error says so.

        Raises:
            StartFailed: There is no session; says why, and what became of what may have been made.
            CapacityError: The service has no room.
            AuthenticationError, RemoteRejected: It refused.
        """
        del session_id
        from lifecycle_adapters.remote import create, wire  # noqa: PLC0415 - loaded with the adapter

        self.check(options)
        seconds = min(options.start_timeout_minutes * 60, START_SECONDS)
        creating = create.Creating(
            self._service, wire.start_body(options), self._known, seconds=seconds, look=self._look
        )
        task = asyncio.get_running_loop().create_task(creating.run())
        try:
            session = await asyncio.shield(task)
            await host.journal({"session_id": session.session_id, "service": self._service.base_url})
            return self._backend(session, host, options.timeout_minutes)
        except BaseException as e:
            if await to_the_end(creating.undo(task)) and not isinstance(e, asyncio.CancelledError):
                raise asyncio.CancelledError from e
            raise

    async def probe(self, session_id: str, host: Host) -> BackendEnd | None:
        """How a session of the service ended; None while it is active.

        Raises:
            ConfigError: The service knows no such session.
            BackendError: It can't be told.
        """
        del host
        from lifecycle_adapters.remote import wire  # noqa: PLC0415 - loaded with the adapter

        session = await self._get(session_id)
        if session is None:
            raise self._unknown(session_id)
        return wire.end_of(session)

    async def connect(self, session_id: str, options: SessionOptions, host: Host) -> RemoteBackend:
        """Join a session of the service.

        Raises:
            ConfigError: The service knows no such session.
            StartFailed: It has ended, or the service can't be reached.
        """
        del options
        from lifecycle_adapters.remote import wire  # noqa: PLC0415 - loaded with the adapter

        try:
            session = await self._get(session_id)
        except ConnectionLost as e:
            raise StartFailed(str(e), step="connect_backend", adapter=self.name) from e
        if session is None:
            raise self._unknown(session_id)
        if (end := wire.end_of(session)) is not None:
            msg = f"session {session_id} has ended: {end.detail}; make a new session"
            raise StartFailed(msg, step="connect_backend", adapter=self.name)
        return self._backend(session, host, session.idle_minutes)

    def _backend(self, session: WireSession, host: Host, idle_minutes: float) -> RemoteBackend:
        from lifecycle_adapters.remote.backend import RemoteBackend  # noqa: PLC0415 - loaded with the adapter

        every = min(self._poll_seconds, idle_minutes * 60 / 3)
        return RemoteBackend(self._service, session, host, self._known, every=every)

    async def aclose(self) -> None:
        """Close the pooled connections; the next request opens new ones. Idempotent."""
        await self._service.aclose()

    # --- the directory: sessions by id, whoever opened them -----------------------------------------------------

    async def list(self, *, active: bool) -> AsyncIterator[KnownSession]:
        """The service's sessions, in its order, which is newest first; with `active`, only those.

        Raises:
            BackendError: The service can't tell.
        """
        from lifecycle_adapters.remote import calls, wire  # noqa: PLC0415 - loaded with the adapter

        page, more = 1, True
        while more:
            items, more = await calls.list_page(self._service, only_active=active, page=page)
            for item in items:
                yield wire.known(item)
            more, page = more and bool(items), page + 1

    async def get(self, session_id: str) -> KnownSession | None:
        """One session of the service, None when it knows none with this id.

        Raises:
            BackendError: The service can't tell.
        """
        from lifecycle_adapters.remote import wire  # noqa: PLC0415 - loaded with the adapter

        session = await self._get(session_id)
        return wire.known(session) if session is not None else None

    async def stop(self, session_id: str) -> None:
        """Stop a session of the service. Done as well when it is over or unknown.

        Raises:
            ReleaseFailed: It may still run.
        """
        from lifecycle_adapters.remote import calls  # noqa: PLC0415 - loaded with the adapter

        await calls.stop(self._service, session_id)

    async def reap(self, session_id: str, facts: Mapping[str, str]) -> None:
        """Stop a session whose owner died, at the service that it was opened at.

        Raises:
            ReleaseFailed: It may still run, or it is another service's.
        """
        from lifecycle_adapters.remote import calls  # noqa: PLC0415 - loaded with the adapter

        where = facts.get("service", self._service.base_url)
        if where != self._service.base_url:
            msg = f"session {session_id} runs at {where}: reap with a client whose adapter has that base_url"
            raise ReleaseFailed(msg, session_id=session_id)
        await calls.stop(self._service, session_id, error=True)

    async def _get(self, session_id: str) -> WireSession | None:
        from lifecycle_adapters.remote import calls  # noqa: PLC0415 - loaded with the adapter

        return await calls.get(self._service, session_id)

    def _unknown(self, session_id: str) -> ConfigError:
        return ConfigError(
            option="session_id",
            value=session_id,
            allowed=f"the id of a session of the service at {self._service.host}; client.sessions.list() shows them",
        )
