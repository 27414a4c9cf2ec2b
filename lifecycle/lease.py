"""The lease of one writer on a store that several hosts share: how it is kept, and that nothing outlasts it.

Rule: the store alone counts a lease, by its own clock, from when it last saw the writer. What is known here is a moment
before that, so what counts from there is over before the lease is. Seconds are those of the machine since it came up,
sleep included: a machine that slept through the end of its lease knows it when it wakes.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

from lifecycle.clocks import boot_seconds
from lifecycle.errors import LeaseLost, StoreError
from lifecycle.ports import Leases

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lifecycle.loops import SerialWorker
    from lifecycle.ports import Store, Writer

__all__ = ["LEASE_SECONDS", "LEAST_SECONDS", "Lease"]

LEASE_SECONDS: Final = 300.0
"""For how long a process is taken to live after the store last saw it, unless it says otherwise."""

LEAST_SECONDS: Final = 2.0
"""A lease is no shorter: machines and networks are slow at times."""

RENEW_SECONDS: Final = 20.0
"""A lease is renewed after so long, and a short one after a sixth of it."""

TEARDOWN_SECONDS: Final = 90.0
"""So long before the end of a lease what is under it begins to end, or half of a short one: what its steps may take."""

HARD_SHARE: Final = 0.1
"""For this share of it at its end nothing is left of what was under it, however its owner is: see `Leaseholder`."""

LOOK_SECONDS: Final = 1.0
"""The end of the lease is looked for so often: timers stand still while a machine sleeps."""


class Lease:
    """A lease, renewed as long as it is needed. Lives on the supervisor's loop.

    Args:
        store: The store. One without leases is told now and then that its writer lives, and nothing ends by that.
        worker: The thread that the store is used from.
        seconds: For how long the lease lasts.
        as_writer: Who holds it, as of now.
        on_renewed: Called after each renewal with `held_until`.
        on_over: Called when what is under the lease has to end now, since it could not be renewed; more than once
            where that goes on.
        on_lost: Called when the store says that somebody else has taken the lease.
    """

    def __init__(
        self,
        store: Store,
        worker: SerialWorker,
        *,
        seconds: float,
        as_writer: Callable[[], Writer],
        on_renewed: Callable[[float], None],
        on_over: Callable[[], None],
        on_lost: Callable[[], None],
    ) -> None:
        self.seconds = seconds
        self.counts = isinstance(store, Leases)
        """True where the store has leases."""
        self._store = store
        self._worker = worker
        self._as_writer = as_writer
        self._on_renewed = on_renewed
        self._on_over = on_over
        self._on_lost = on_lost
        self._seen: float | None = None
        """Just before the store last saw the writer."""
        self._told: float | None = None
        self._needed: set[str] = set()
        self._tasks: list[asyncio.Task[None]] = []

    # --- on the store's thread ----------------------------------------------------------------------------------

    def renew(self, *, always: bool = True) -> None:
        """Have the store see the writer; unless `always`, only where it is time to.

        Raises:
            LeaseLost: Another has taken the lease.
            StoreError: The store failed.
        """
        now = boot_seconds()
        if always or self._seen is None or (self.counts and now >= self._seen + self._pause):
            self._store.renew(self._as_writer())
            self._seen = now

    # --- on the loop --------------------------------------------------------------------------------------------

    @property
    def _pause(self) -> float:
        return min(RENEW_SECONDS, self.seconds / 6) if self.counts else RENEW_SECONDS

    @property
    def held_until(self) -> float | None:
        """By then nothing may be left of what is under it, as boot seconds; None before there was a lease."""
        if self._seen is None or not self.counts:
            return None
        return self._seen + self.seconds * (1 - HARD_SHARE)

    @property
    def over(self) -> bool:
        """True when what is under it has to end, or has ended."""
        if self._seen is None or not self.counts:
            return False
        return boot_seconds() >= self._seen + self.seconds - min(TEARDOWN_SECONDS, self.seconds / 2)

    def forget(self) -> None:
        """The lease is another's: the next one begins with the next renewal."""
        self._seen = self._told = None

    def tell(self, *, again: bool = False) -> None:
        """Tell of a renewal, if there was one; or `again` of the last."""
        until = self.held_until
        if until is not None and (again or self._seen != self._told):
            self._told = self._seen
            self._on_renewed(until)

    def need(self, what: str) -> None:
        """Keep it for as long as that is there."""
        self._needed.add(what)
        if not self._tasks or self._tasks[0].done():
            loop = asyncio.get_running_loop()
            self._tasks = [loop.create_task(self._keep())]
            if self.counts:  # a store that does not answer keeps the other one waiting
                self._tasks.append(loop.create_task(self._watch()))

    def spare(self, what: str) -> None:
        """That is not there any more."""
        self._needed.discard(what)

    @contextlib.contextmanager
    def kept(self, what: str) -> Iterator[None]:
        """Keep it meanwhile."""
        self.need(what)
        try:
            yield
        finally:
            self.spare(what)

    @property
    def needed(self) -> frozenset[str]:
        """What it is kept for."""
        return frozenset(self._needed)

    async def close(self) -> None:
        """Renew it no more."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
            await asyncio.wait({task})

    async def _keep(self) -> None:
        while self._needed:
            await asyncio.sleep(self._pause)
            if not self._needed:
                return
            try:
                await self._worker.run(self.renew)
            except LeaseLost:
                self._on_lost()
            except StoreError:
                continue  # the next write tells of a store that fails, and the next turn tries again
            self.tell()

    async def _watch(self) -> None:
        while self._needed:
            if self.over:
                self._on_over()
            await asyncio.sleep(min(LOOK_SECONDS, self.seconds / 20))
