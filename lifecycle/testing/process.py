"""All clients of this process at once: what they record, what they have active, and an end to all of it.

Rule: nothing here starts anything. Where no client was ever made there is nothing to look at, and nothing is done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from lifecycle.engine import Supervisor, running_supervisor
from lifecycle.page import tidy_driver
from lifecycle.session import Session
from lifecycle.states import CloseReason, InFlight, State

if TYPE_CHECKING:
    from lifecycle.attachment import Attachment
    from lifecycle.audit import Record
    from lifecycle.callers import Caller
    from lifecycle.client import AsyncClient, Client
    from lifecycle.core import ClientCore

__all__ = ["ActiveSession", "active_sessions", "flush", "reset", "watching"]


PATIENCE: Final = 5.0
"""Seconds that records have to be written."""


@dataclass(frozen=True, slots=True)
class ActiveSession:
    """A session that holds a browser or is about to, as one client of this process is attached to it.

    Attributes:
        session_id: Its id; None where the service has given it none yet.
        attachment_id: The attachment.
        adapter: Name of the adapter.
        state: ``active``, or ``not_started`` while it starts.
    """

    session_id: str | None
    attachment_id: str
    adapter: str
    state: State
    _core: ClientCore
    _att: Attachment

    @property
    def has_pages(self) -> bool:
        """True where there are pages to look at."""
        return self.state is State.ACTIVE and "pages" in self._att.adapter.capabilities

    def screenshot(self) -> bytes:
        """Its page as PNG, as it is now. Blocks.

        Raises:
            LifecycleError: There is no page, or it can't be looked at.
        """
        client = self._core.client()
        return Session(client, self._core, self._att).observe().screenshot  # type: ignore[arg-type]  # holds it only

    def __str__(self) -> str:
        return f"session {self.session_id or 'without an id'} on {self.adapter} ({self.state})"

    def stop(self) -> None:
        """Stop it, with the reason ``abandoned``. What goes wrong is in its records. Blocks."""

        async def stop(_: Caller) -> None:
            await self._core.end_some([self._att], "abandoned", CloseReason.ABANDONED)

        self._core.supervisor.call(stop)


def active_sessions(client: Client | AsyncClient | None = None) -> list[ActiveSession]:
    """The sessions of this process that are active or starting, in no order.

    Args:
        client: Only those of this client; by default, of all.
    """
    found = running_supervisor()
    if found is None:
        return []
    return [
        ActiveSession(att.session_id, att.attachment_id, att.adapter.name, att.state, core, att)
        for core in list(found.cores)
        if client is None or core.client() is client
        for att in list(core.active.values())
        if att.state is State.ACTIVE or att.in_flight is not InFlight.NOTHING
    ]


@contextmanager
def watching(take: Callable[[Record], None]) -> Iterator[None]:
    """Have `take` called with each record of all clients of this process that becomes durable within the block.

    It is called on the supervisor's thread and must not wait for anything; see `flush`. What it raises is raised at the
    end of the block, the first time; no session feels it.
    """
    raised: list[BaseException] = []

    def tell(record: Record) -> None:
        try:
            take(record)
        except BaseException as e:  # noqa: BLE001 - told at the end of the block
            raised.append(e)

    Supervisor.watchers.append(tell)
    try:
        yield
    finally:
        Supervisor.watchers.remove(tell)
    if raised:
        raise raised[0]


def flush() -> bool:
    """Wait until every record that there is was written, or refused by its store. Blocks, `PATIENCE` seconds at most.

    Returns:
        False when there still are some: a store or the supervisor hangs.
    """
    found = running_supervisor()
    if found is None:
        return True

    async def flushed(_: Caller) -> None:
        await found.flushed()

    try:
        found.call(flushed, timeout=PATIENCE)
    except TimeoutError:
        return False
    return True


def reset() -> int:
    """End all sessions of this process and close all of its clients, as a test suite does between its parts. Blocks.

    Sessions end with the reason ``abandoned``; those that were attached to with ``on_exit="detach"`` are left running.
    What goes wrong is in the records. Clients and sessions made before can't be used any more. The threads of the
    library stay: they live as long as the process.

    Returns:
        How many sessions were active.
    """
    found = running_supervisor()
    if found is None:
        return 0

    async def close(_: Caller) -> int:
        cores = list(found.cores)
        count = sum(len(core.active) for core in cores)
        for core in cores:
            await core.close_quietly("abandoned", CloseReason.ABANDONED)
        return count

    count = found.call(close)
    tidy_driver()
    return count
